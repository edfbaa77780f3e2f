"""Dense weights from quantized ones: the kernel gives what ``QuantizedWeight`` gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import dequantize
from deepseek_kernels.quantize import quantize_weight

from tests.support.kernels import random_matrix

SCHEMES: dict[str, dict[str, Any]] = {
    "int8": {"scheme": "int8"},
    "int4 row": {"scheme": "int4"},
    "int4 row asymmetric": {"scheme": "int4", "symmetric": False},
    "int4 g5": {"scheme": "int4", "group_size": 5},
    "fp8": {"scheme": "fp8"},
    "fp8-block": {"scheme": "fp8-block"},
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("options", SCHEMES.values(), ids=SCHEMES.keys())
def test_the_kernel_gives_the_reference_bit_by_bit(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    weight = quantize_weight(random_matrix(131, 265, seed=1), **options)
    expected = dequantize.reference(weight, dtype)
    assert torch.equal(dequantize.launch(weight, dtype), expected)
    if weight.scheme == "int4":
        assert torch.equal(dequantize.launch(weight.tiled(), dtype), expected)


def test_another_dtype_is_refused() -> None:
    weight = quantize_weight(torch.eye(2), "int8")
    with pytest.raises(KernelArgumentError, match=r"dtype: is torch.int8; give"):
        dequantize.launch(weight, torch.int8)
