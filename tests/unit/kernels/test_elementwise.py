"""How numbers become int8 and fp8: the kernels' rounding is torch's, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import quantize_activations
from deepseek_kernels.ops.elementwise import (
    LIMITS,
    check_like,
    magnitude,
    quantize_rows,
    round_to,
    row_tile,
    scale_of,
    symmetric_scale,
    tile,
)

FP8 = torch.float8_e4m3fn


@triton.jit
def _round(
    source: tl.tensor,
    target: tl.tensor,
    n: tl.tensor,
    LIMIT: tl.constexpr,
    IS_INT8: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(source + at, mask=at < n, other=0.0)
    tl.store(target + at, round_to(values, LIMIT, IS_INT8), mask=at < n)


@triton.jit
def _scale(source: tl.tensor, target: tl.tensor, BLOCK: tl.constexpr) -> None:
    largest = tl.max(magnitude(tl.load(source + tl.arange(0, BLOCK))), 0)
    tl.store(target, symmetric_scale(largest, 127.0))


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round by the code of the kernels."""
    target = torch.empty(values.shape, dtype=dtype)
    programs = triton.cdiv(len(values), 1024)
    _round[(programs,)](
        values, target, len(values), LIMIT=LIMITS[dtype], IS_INT8=dtype == torch.int8, BLOCK=1024
    )
    return target


def around(points: torch.Tensor) -> torch.Tensor:
    """Points, the middles between neighbours, and the next float32 on both sides of each."""
    points = points.sort().values
    at = torch.cat([points, (points[1:] + points[:-1]) / 2])
    up, down = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    return torch.cat([at, at.nextafter(up), at.nextafter(down)])


def test_fp8_is_rounded_as_torch_rounds_at_every_border() -> None:
    finite = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    values = around(finite[finite.isfinite()]).clamp(-448, 448)
    assert torch.equal(rounded(values, FP8).float(), values.to(FP8).float())


def test_int8_is_rounded_as_torch_rounds_at_every_border() -> None:
    values = around(torch.arange(-127.0, 128.0)).clamp(-127, 127)
    assert torch.equal(rounded(values, torch.int8), values.round().to(torch.int8))


@pytest.mark.parametrize(
    ("largest", "scale"),
    [
        (0.0, 1.0),
        (254.0, 2.0),
        (1e-45, 2.0**-126),
        (127 * 2.0**-126, 2.0**-126),
        (float("inf"), float("nan")),
        (float("nan"), float("nan")),
        (torch.finfo(torch.float32).max, torch.finfo(torch.float32).max / 127),
    ],
    ids=["zero", "usual", "subnormal", "smallest", "infinite", "NaN", "largest"],
)
def test_the_scale_of_a_group(largest: float, scale: float) -> None:
    group, found = torch.tensor([0.0, -0.0, -largest, 0.0]), torch.empty(1)
    _scale[(1,)](group, found, BLOCK=4)
    assert float(found) == pytest.approx(scale, nan_ok=True)
    assert float(scale_of(group.abs().amax(), 127)) == pytest.approx(scale, nan_ok=True)


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.int8, "int8-tokens"), (FP8, "fp8-tokens")], ids=["int8", "fp8"]
)
def test_rows_are_rounded_as_activations_are(dtype: torch.dtype, kind: Any) -> None:
    x = torch.randn(6, 70, generator=torch.Generator().manual_seed(0))
    x[1], x[2, 3], x[3, 3] = 0, torch.nan, torch.inf
    x[4] *= 1e-42
    values, scales = quantize_rows(x, dtype)
    for quantize in (quantize_activations.reference, quantize_activations.launch):
        other_values, other_scales = quantize(x, kind)
        assert torch.equal(values.float(), other_values.float())
        torch.testing.assert_close(scales, other_scales, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.int8, FP8], ids=["int8", "fp8"])
def test_rows_of_no_width_have_the_scale_1(dtype: torch.dtype) -> None:
    values, scales = quantize_rows(torch.empty(2, 0), dtype)
    assert (values.shape, scales.tolist()) == ((2, 0), [1.0, 1.0])


@pytest.mark.parametrize("width", [1, 3, 64, 768, 1000, 2049, 28672, 32768])
def test_a_tile_of_whole_rows_fits_the_registers_of_its_threads(width: int) -> None:
    rows, columns, warps = row_tile(width)
    assert columns >= width
    assert 4 <= warps <= 32
    assert 16 <= rows * columns / (warps * 32) <= 32


@pytest.mark.parametrize("width", [1, 3, 64, 1000, 5000])
def test_a_tile_of_columns_has_1024_elements(width: int) -> None:
    rows, columns = tile(width)
    assert rows * columns == 1024
    assert columns >= min(width, 1024)


def test_a_tensor_on_another_device_is_refused() -> None:
    with pytest.raises(KernelArgumentError, match="bias: is on meta; move it to cpu"):
        check_like("bias", torch.ones(2, device="meta"), (2,), torch.ones(2))
