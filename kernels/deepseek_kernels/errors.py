"""What goes wrong in this package, as two types.

Why it exists: callers tell a wrong call (which fails again) from a machine that cannot run a
kernel (where another implementation may). The engine turns both into its own errors and adds the
layer's name; this package knows no layers.
"""

from __future__ import annotations

__all__ = ["KernelArgumentError", "KernelUnavailableError"]


class KernelArgumentError(ValueError):
    """An argument has a shape, dtype, layout or value that the operation cannot take.

    The message starts with the argument's name and ends with what to change.
    """


class KernelUnavailableError(RuntimeError):
    """This machine cannot run the kernel: no GPU, too old a GPU, or no Triton."""
