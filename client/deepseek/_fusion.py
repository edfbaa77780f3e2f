"""``deepseek_fuse`` under the name that users know; needs torch and Triton.

The decorator itself is `deepseek_kernels.fusion`. Besides `_weights`, which imports kernels when
its functions are called, this is the only importer of kernels in the client.
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
