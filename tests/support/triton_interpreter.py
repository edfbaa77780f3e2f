"""Triton's interpreter for test processes, so that kernels run on CPU tensors.

Triton decides when a function is decorated whether it is interpreted, its own functions included,
so the decision falls before the first import of Triton in a process. The environment is put back at
once: processes that tests start must find it as a user's would be.

``TRITON_INTERPRET=0`` in the environment of the test run leaves Triton alone, for runs on a GPU.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "TRITON_INTERPRET"


def interpret_kernels() -> None:
    """Make this process interpret Triton kernels; without Triton nothing happens.

    Raises:
        RuntimeError: Triton was imported before.
    """
    if _VARIABLE in os.environ:
        return
    if "triton" in sys.modules:
        raise RuntimeError("Triton was imported before its interpreter was chosen")
    os.environ[_VARIABLE] = "1"
    try:
        import triton.language
    except ImportError:
        return
    finally:
        del os.environ[_VARIABLE]
    before, triton.knobs.propagate_env = triton.knobs.propagate_env, False
    triton.knobs.runtime.interpret = True
    triton.knobs.propagate_env = before
