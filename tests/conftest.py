"""How property tests draw their cases, and how the tests' processes take Ctrl-C."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# The gate must give the same verdict twice; at a desk every run looks at new cases. A busy machine
# is no defect, so how long a case takes does not count.
settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("gate", settings.get_profile("desk"), derandomize=True)
settings.load_profile("gate" if os.environ.get("CI") else "desk")

# A shell starts background jobs with Ctrl-C ignored, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
