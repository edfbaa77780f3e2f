"""The operations as torch sees them: schema, shapes without data, CPU implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deepseek_kernels.ops import dequantize, fp8_block, fp8_row, w4a16, w8a8, w8a16
from deepseek_kernels.ops import quantize_activations as quantize
from deepseek_kernels.quantize import quantize_weight

from tests.support.kernels import random_matrix

# torch checks an operation by tracing it, which imports its compiler.
pytestmark = pytest.mark.timeout(300)

X = random_matrix(3, 64, seed=1, dtype=torch.float16)
BIAS = random_matrix(1, 5, seed=3)[0]
INT4 = quantize_weight(random_matrix(5, 64, seed=2), "int4", group_size=32, symmetric=False)
INT8, FP8, BLOCKS = (
    quantize_weight(random_matrix(5, 64, seed=2), scheme) for scheme in ("int8", "fp8", "fp8-block")
)
INT4_PARTS = (INT4.data, INT4.scale, INT4.zero_point)

CALLS: dict[str, tuple[Any, tuple[Any, ...], Callable[[], torch.Tensor]]] = {
    "w4a16": (
        w4a16.w4a16,
        (X, *INT4_PARTS, BIAS, 32, False, True),
        lambda: w4a16.reference(X, INT4, BIAS, gelu=True),
    ),
    "w4a16 tiles": (
        w4a16.w4a16,
        (X, INT4.tiled().data, *INT4_PARTS[1:], None, 32, True, False),
        lambda: w4a16.reference(X, INT4),
    ),
    "w8a16 int8": (
        w8a16.w8a16,
        (X, INT8.data, INT8.scale, BIAS, False),
        lambda: w8a16.reference(X, INT8, BIAS),
    ),
    "w8a16 fp8": (
        w8a16.w8a16,
        (X, FP8.data, FP8.scale, None, True),
        lambda: w8a16.reference(X, FP8, gelu=True),
    ),
    "w8a8": (
        w8a8.w8a8,
        (X, INT8.data, INT8.scale, BIAS, True),
        lambda: w8a8.reference(X, INT8, BIAS, gelu=True),
    ),
    "fp8_row": (
        fp8_row.fp8_row,
        (X, FP8.data, FP8.scale, BIAS, False),
        lambda: fp8_row.reference(X, FP8, BIAS),
    ),
    "fp8_block": (
        fp8_block.fp8_block,
        (X, BLOCKS.data, BLOCKS.scale, BIAS, False),
        lambda: fp8_block.reference(X, BLOCKS, BIAS),
    ),
    "dequantize": (
        dequantize.dequantize,
        (*INT4_PARTS, "int4", 64, 32, False, torch.float16),
        lambda: INT4.dequantize(torch.float16),
    ),
    "int8_tokens": (
        quantize.int8_tokens,
        (X,),
        lambda: quantize.reference(X, "int8-tokens")[0],
    ),
    "fp8_tokens": (quantize.fp8_tokens, (X,), lambda: quantize.reference(X, "fp8-tokens")[0]),
    "fp8_blocks": (quantize.fp8_blocks, (X,), lambda: quantize.reference(X, "fp8-blocks")[0]),
}
calls = pytest.mark.parametrize(
    ("operation", "arguments", "expected"), CALLS.values(), ids=CALLS.keys()
)


@calls
def test_on_a_cpu_it_is_the_reference(
    operation: Any, arguments: tuple[Any, ...], expected: Callable[[], torch.Tensor]
) -> None:
    result = operation(*arguments)
    first = result[0] if isinstance(result, tuple) else result
    assert torch.equal(first.float(), expected().float())


@calls
def test_its_schema_and_its_shapes_are_true(
    operation: Any, arguments: tuple[Any, ...], expected: Callable[[], torch.Tensor]
) -> None:
    checks = ["test_schema", "test_faketensor"]
    if any(getattr(part, "dtype", None) == torch.float8_e4m3fn for part in arguments):
        checks.remove("test_schema")  # it multiplies its inputs, which float8 does not know
    torch.library.opcheck(operation, arguments, test_utils=tuple(checks))


def test_they_are_reached_by_name() -> None:
    names = ["w4a16", "w8a16", "w8a8", "fp8_row", "fp8_block", "dequantize", "int8_tokens"]
    assert all(hasattr(torch.ops.deepseek, name) for name in names)


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(ValueError, match="scheme: 'int5' is unknown"):
        dequantize.dequantize(*INT4_PARTS, "int5", 64, 32, False, torch.float16)
