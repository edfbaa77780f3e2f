"""``deepseek_fuse`` under the name that users know; needs torch and Triton.

The decorator itself is `deepseek_kernels.fusion`. This is the client's only importer of kernels.
"""

from __future__ import annotations

from deepseek_api.errors import ConfigurationError

try:
    from deepseek_kernels.fusion import deepseek_fuse
except ModuleNotFoundError as error:
    raise ConfigurationError(
        f"deepseek_fuse needs the package '{error.name}', which is not installed.",
        hint="Install it: pip install 'deepseek[cuda]'.",
        reason="PackageNotInstalled",
    ) from error

__all__ = ["deepseek_fuse"]
