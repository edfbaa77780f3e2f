"""Quantized weights: what values and scales mean, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.packing import pack_int4
from deepseek_kernels.weights import QuantizedWeight


def int8_weight(**changes: Any) -> QuantizedWeight:
    fields: dict[str, Any] = {
        "scheme": "int8",
        "data": torch.tensor([[127, -127, 0], [1, 2, 3]], dtype=torch.int8),
        "scale": torch.tensor([[0.5], [2.0]]),
        "shape": (2, 3),
    }
    return QuantizedWeight(**fields | changes)


def int4_weight(**changes: Any) -> QuantizedWeight:
    fields: dict[str, Any] = {
        "scheme": "int4",
        "data": pack_int4(torch.tensor([[-8, 7, 0, 1], [2, 3, -4, -5]], dtype=torch.int8)),
        "scale": torch.tensor([[1.0, 10.0], [0.5, 0.25]]),
        "zero_point": torch.tensor([[0, 1], [-2, 7]], dtype=torch.int8),
        "shape": (2, 4),
        "group_size": 2,
    }
    return QuantizedWeight(**fields | changes)


def test_int8_has_one_scale_for_each_row() -> None:
    expected = torch.tensor([[63.5, -63.5, 0.0], [2.0, 4.0, 6.0]])
    assert torch.equal(int8_weight().dequantize(), expected)


def test_int4_takes_zero_points_off_before_it_scales() -> None:
    expected = torch.tensor([[-8.0, 7.0, -10.0, 0.0], [2.0, 2.5, -2.75, -3.0]])
    assert torch.equal(int4_weight().dequantize(), expected)


def test_int4_without_groups_has_one_scale_for_each_row() -> None:
    weight = int4_weight(scale=torch.tensor([[2.0], [3.0]]), zero_point=None, group_size=0)
    assert weight.dequantize()[:, 1].tolist() == [14.0, 9.0]


def test_fp8_blocks_at_the_edges_are_smaller() -> None:
    data = torch.ones(130, 129).to(torch.float8_e4m3fn)
    scale = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    dense = QuantizedWeight("fp8-block", data, scale, (130, 129)).dequantize(torch.float16)
    assert dense.dtype == torch.float16
    assert [float(dense[r, c]) for r, c in [(127, 127), (127, 128), (128, 127), (129, 128)]] == [
        1.0,
        2.0,
        3.0,
        4.0,
    ]


def test_tiling_changes_the_order_of_words_and_no_value() -> None:
    weight = int4_weight()
    tiled = weight.tiled()
    assert tiled.data.shape == (2, 16)
    assert torch.equal(tiled.values(), weight.values())
    assert torch.equal(tiled.dequantize(), weight.dequantize())
    assert tiled.tiled() is tiled


def test_bytes_count_values_scales_and_zero_points() -> None:
    assert int8_weight().nbytes == 6 + 8
    assert int4_weight().nbytes == 8 + 16 + 4


def test_moving_keeps_everything_but_the_device() -> None:
    moved = int4_weight().to("meta")
    assert moved.device.type == "meta"
    assert moved.zero_point is not None
    assert (moved.scale.device.type, moved.zero_point.device.type) == ("meta", "meta")
    assert (moved.shape, moved.group_size) == ((2, 4), 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: int8_weight(scheme="int5"), "scheme: 'int5' is unknown; give one of int8"),
        (lambda: int8_weight(shape=(0, 3)), r"shape: \(0, 3\) is empty"),
        (lambda: int8_weight(data=torch.zeros(2, 3)), "data: is torch.float32"),
        (
            lambda: int8_weight(data=torch.zeros(2, 4, dtype=torch.int8)),
            r"give torch.int8 \[2, 3\]",
        ),
        (
            lambda: int8_weight(scale=torch.ones(2)),
            r"scale: is torch.float32 \[2\]; give .* \[2, 1\]",
        ),
        (lambda: int8_weight(scale=torch.ones(2, 1).half()), "scale: is torch.float16"),
        (lambda: int8_weight(group_size=3), "only int4 has them"),
        (lambda: int8_weight(layout="tiles"), "layout: 'tiles' is not one of int8"),
        (lambda: int8_weight().tiled(), "only int4 has"),
        (lambda: int4_weight(group_size=3), "K=4 is not a multiple of 3"),
        (lambda: int4_weight(zero_point=torch.zeros(2, 2)), "zero_point: is torch.float32"),
        (lambda: int4_weight(zero_point=torch.zeros(2, 1, dtype=torch.int8)), r"\[2, 2\]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_its_scheme_is_named(make: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        make()
