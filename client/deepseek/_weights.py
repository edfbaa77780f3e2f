"""Functions on single weight tensors: block-wise int8 and pruning.

Why it exists: notebooks look at what compression does to a tensor before a whole model is prepared.
With `_fusion` this is the SDK's only importer of the kernels. torch and Triton are imported by the
first call, so that ``from deepseek import block_quantize`` costs nothing.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, cast

from deepseek_api.errors import ConfigurationError, ErrorCode

if TYPE_CHECKING:
    from deepseek_kernels.ops.block_quantize import BlockQuantized
    from torch import Tensor

__all__ = ["block_quantize", "dynamic_pruning"]


def block_quantize(tensor: Tensor, block_size: int = 64) -> BlockQuantized:
    """Quantize a tensor to int8 in square blocks of its last two axes.

    Args:
        tensor: float32, float16 or bfloat16 of one or more axes.
        block_size: side of a block, 1 to 128.

    Returns:
        ``values`` (int8 in [-127, 127], shape of the tensor), ``scales`` (float32, largest
        magnitude of each block / 127), ``block_size``, ``shape``, ``dtype``, and ``dequantize()``.

    Raises:
        ConfigurationError: torch or Triton is not installed.
        ValueError: the tensor cannot be quantized; the message names what is wrong with it.
    """
    return cast("BlockQuantized", _operation("block_quantize").block_quantize(tensor, block_size))


def dynamic_pruning(weight_matrix: Tensor, threshold: float = 0.1) -> tuple[Tensor, float]:
    """Keep the weights with ``|w| > threshold`` and set the others to zero.

    Args:
        weight_matrix: float32, float16 or bfloat16 of any shape; it is not changed.
        threshold: at least 0.

    Returns:
        The pruned weights, and the part of them that is zero.

    Raises:
        ConfigurationError: torch or Triton is not installed.
        ValueError: the weights cannot be pruned; the message names what is wrong with them.
    """
    pruned = _operation("pruning").dynamic_pruning(weight_matrix, threshold)
    return cast("tuple[Tensor, float]", pruned)


def _operation(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"deepseek_kernels.ops.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "triton"):
            raise
        raise ConfigurationError(
            f"Functions on weights need torch and Triton, and {error.name} is not installed.",
            hint="Install the extra 'cuda': pip install 'deepseek[cuda]'.",
            code=ErrorCode.FAILED_PRECONDITION,
            reason="MissingPackage",
        ) from error
