"""How property tests draw their cases."""

from __future__ import annotations

import os

from hypothesis import settings

# The gate must give the same verdict twice; at a desk every run looks at new cases.
settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")
