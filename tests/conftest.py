"""How property tests draw their cases, and how the tests' processes take Ctrl-C."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# The gate must give the same verdict twice; at a desk every run looks at new cases.
settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")

# A shell starts background jobs with Ctrl-C ignored, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
