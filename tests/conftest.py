"""How property tests draw their cases, and how kernels run where there is no GPU."""

from __future__ import annotations

import os

from hypothesis import settings

from tests.support.triton_interpreter import interpret_kernels

# The gate must give the same verdict twice; at a desk every run looks at new cases.
settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")

interpret_kernels()
