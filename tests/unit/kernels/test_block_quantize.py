"""int8 in square blocks: what values and scales mean, for every shape, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import block_quantize as module
from deepseek_kernels.ops.block_quantize import block_quantize, launch, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tracing import assert_traceable

SHAPES = {
    "one number": (1,),
    "vector": (100,),
    "row": (1, 130),
    "column": (130, 1),
    "one block": (64, 64),
    "one more than a block": (65, 65),
    "one less than a block": (63, 63),
    "batch": (3, 70, 33),
    "kernels of a convolution": (2, 3, 5, 5),
    "no rows": (0, 5),
    "no columns": (5, 0),
    "empty batch": (0, 5, 5),
    "empty vector": (0,),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("block_size", [1, 7, 64, 128])
def test_a_scale_is_the_largest_magnitude_of_its_block_over_127(block_size: int) -> None:
    matrix = numbers(block_size + 8, block_size + 5)
    quantized = block_quantize(matrix, block_size)
    for row, column in itertools.product(*map(range, quantized.scales.shape)):
        down = slice(row * block_size, (row + 1) * block_size)
        across = slice(column * block_size, (column + 1) * block_size)
        assert quantized.scales[row, column] == matrix[down, across].abs().max() / 127
        assert quantized.values[down, across].abs().max() == 127


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_comes_back_is_off_by_half_a_scale_at_most(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tensor = numbers(*shape, dtype=dtype)
    quantized = block_quantize(tensor)
    assert quantized.shape == tensor.shape
    assert quantized.values.dtype == torch.int8
    assert quantized.dequantize().dtype == dtype
    off = (quantized.dequantize(torch.float32) - tensor.float()).abs()
    largest = float(quantized.scales.max()) if tensor.numel() else 0.0
    assert bool((off <= largest / 2 * (1 + 1e-5)).all())


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_kernel_gives_the_bits_of_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    tensor = numbers(*shape, dtype=dtype)
    for actual, expected in zip(launch(tensor, 64), reference(tensor, 64), strict=True):
        assert torch.equal(actual, expected)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 80),
    columns=st.integers(1, 80),
    block_size=st.integers(1, 40),
    exponent=st.integers(-149, 124),
    seed=st.integers(0, 99),
)
def test_kernel_and_reference_agree_for_all_sizes_and_magnitudes(
    rows: int, columns: int, block_size: int, exponent: int, seed: int
) -> None:
    block_size = max(block_size, rows // 4, columns // 4)
    matrix = numbers(rows, columns, seed=seed) * 2.0**exponent
    values, scales = launch(matrix, block_size)
    expected_values, expected_scales = reference(matrix, block_size)
    assert torch.equal(values, expected_values)
    assert torch.equal(scales, expected_scales)


@pytest.mark.parametrize(
    "view",
    [
        lambda m: m.t(),
        lambda m: m[1:, 3:],
        lambda m: m[::2, ::3],
        lambda m: m[:1].expand(66, -1),
        lambda m: m.reshape(10, 11, 70).permute(2, 0, 1)[:5],
    ],
    ids=["transposed", "misaligned", "with gaps", "repeated row", "permuted batch"],
)
def test_strides_do_not_matter(view: Any) -> None:
    strided = view(numbers(110, 70))
    for actual, expected in zip(launch(strided, 64), reference(strided, 64), strict=True):
        assert torch.equal(actual, expected)
        assert actual.is_contiguous()


def test_a_transposed_matrix_has_the_transposed_scales() -> None:
    matrix = numbers(100, 70)
    upright, turned = block_quantize(matrix), block_quantize(matrix.t())
    assert torch.equal(upright.scales.t(), turned.scales)
    assert torch.equal(upright.values.t(), turned.values)


@pytest.mark.parametrize("quantize", [reference, launch], ids=["reference", "kernel"])
def test_a_block_of_zeros_has_the_scale_0(quantize: Any) -> None:
    matrix = numbers(128, 128)
    matrix[:64, 64:] = 0
    values, scales = quantize(matrix, 64)
    assert scales[0, 1] == 0
    assert not values[:64, 64:].any()
    assert bool((scales.flatten()[[0, 2, 3]] > 0).all())


@pytest.mark.parametrize("quantize", [reference, launch], ids=["reference", "kernel"])
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1.2e-38], ids=str)
def test_subnormal_numbers_get_a_normal_scale(quantize: Any, size: float) -> None:
    matrix = torch.tensor([[size, -size, 0.0]])
    values, scales = quantize(matrix, 64)
    assert float(scales[0, 0]) == torch.finfo(torch.float32).smallest_normal
    off = values.double() * scales.double() - matrix.double()
    assert float(off.abs().max()) <= 5.9e-39


def test_the_largest_numbers_do_not_overflow() -> None:
    largest = torch.finfo(torch.float32).max
    quantized = block_quantize(torch.tensor([[largest, -largest, largest / 4]]))
    assert quantized.values.tolist() == [[127, -127, 32]]
    assert bool(quantized.dequantize().isfinite().all())


@pytest.mark.parametrize("quantize", [reference, launch], ids=["reference", "kernel"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_what_is_not_finite_marks_its_block_only(quantize: Any, bad: float) -> None:
    matrix = numbers(70, 130)
    matrix[69, 128] = bad
    values, scales = quantize(matrix, 64)
    assert scales.isnan().nonzero().tolist() == [[1, 2]]
    assert not values[64:, 128:].any()


def test_what_is_not_finite_is_refused_with_its_place() -> None:
    matrix = numbers(70, 130)
    matrix[69, 128] = float("nan")
    with pytest.raises(KernelArgumentError, match=r"tensor: holds NaN .* in the block \(1, 2\)"):
        block_quantize(matrix)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor(1.0),), r"tensor: has no axis.*reshape\(1\)"),
        ((torch.ones(3, dtype=torch.int32),), "tensor: is torch.int32; convert it to float32"),
        ((torch.ones(3, dtype=torch.float64),), "tensor: is torch.float64; convert it to float32"),
        (([1.0, 2.0],), "tensor: is a list; give a torch.Tensor"),
        ((torch.ones(3), 0), "block_size: is 0; give 1 to 128"),
        ((torch.ones(3), 129), "block_size: is 129; give 1 to 128"),
    ],
    ids=["no axis", "integers", "double", "no tensor", "empty block", "large block"],
)
def test_what_cannot_be_quantized_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        block_quantize(*arguments)


def test_bytes_are_a_quarter_of_float32_and_the_scales() -> None:
    assert block_quantize(numbers(128, 64)).nbytes == 128 * 64 + 2 * 4


def test_the_operation_can_be_traced() -> None:
    assert_traceable(module._operation, numbers(3, 5, 7), 4)
