"""Quantized layers: the numbers that they stand for, on any input, however they are moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deepseek_engine.prepare.quant.rounding import quantize_weight
from deepseek_engine.quant.activations import multiply_fp8, multiply_int8, round_tokens_int8
from deepseek_engine.quant.exchange import (
    can_quantize,
    exchange,
    quantized_layer,
    weight_matrix,
    weight_owners,
    weight_shape,
)
from deepseek_engine.quant.layers import CastLinear, QuantizedLayer, QuantizedLinear
from deepseek_engine.quant.schemes import SCHEMES
from deepseek_kernels.ops import fp8_block, fp8_row, w8a8
from deepseek_kernels.quantize import quantize_weight as nearest
from torch import nn
from transformers.pytorch_utils import Conv1D

WEIGHT_ONLY = [
    name for name, s in SCHEMES.items() if s.quantized and s.activations == "none"
]  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def quantized(module: nn.Module, scheme: str = "int8") -> Any:
    weight = quantize_weight(weight_matrix(module), SCHEMES[scheme])
    return quantized_layer(module, weight, SCHEMES[scheme])


def dequantized(module: Any, layer: QuantizedLayer) -> Any:
    """The original module with the weight that the quantized one stands for."""
    weight = layer.weight.t() if isinstance(module, Conv1D) else layer.weight
    module.weight = nn.Parameter(weight.detach().clone())
    return module


@pytest.mark.parametrize("scheme", WEIGHT_ONLY)
def test_a_linear_layer_multiplies_with_the_weight_that_it_stores(scheme: str) -> None:
    module = nn.Linear(256, 48)
    layer, x = quantized(module, scheme), torch.randn(3, 5, 256)
    assert torch.equal(layer(x), dequantized(module, layer)(x))


def gpt2_linear(rows: int, columns: int) -> nn.Module:
    module: nn.Module = Conv1D(rows, columns)  # type: ignore[no-untyped-call]
    return module


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "linear": (lambda: nn.Linear(64, 32), lambda: torch.randn(2, 3, 64)),
    "linear without bias": (lambda: nn.Linear(64, 32, bias=False), lambda: torch.randn(4, 64)),
    "transformers' Conv1D": (lambda: gpt2_linear(96, 64), lambda: torch.randn(2, 3, 64)),
    "embedding": (lambda: nn.Embedding(50, 32, 0), lambda: torch.randint(50, (2, 7))),
    "conv 1d": (lambda: nn.Conv1d(8, 16, 3), lambda: torch.randn(2, 8, 20)),
    "conv 2d": (lambda: nn.Conv2d(4, 8, 3, 2, 1), lambda: torch.randn(2, 4, 9, 9)),
    "conv 2d, grouped": (lambda: nn.Conv2d(8, 16, 3, groups=4), lambda: torch.randn(2, 8, 6, 6)),
    "conv 2d, dilated": (lambda: nn.Conv2d(4, 8, 3, dilation=2), lambda: torch.randn(1, 4, 9, 9)),
    "conv 2d, same": (lambda: nn.Conv2d(4, 8, 3, padding="same"), lambda: torch.randn(1, 4, 9, 9)),
    "conv 2d, reflecting": (
        lambda: nn.Conv2d(4, 8, (3, 5), padding=(1, 2), padding_mode="reflect"),
        lambda: torch.randn(2, 4, 9, 8),
    ),
    "conv 3d": (lambda: nn.Conv3d(2, 8, 3, 2, 1), lambda: torch.randn(1, 2, 7, 7, 7)),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1),
        lambda: torch.randn(2, 8, 5, 5),
    ),
    "transposed 3d, grouped": (
        lambda: nn.ConvTranspose3d(8, 4, 2, 2, groups=2, bias=False),
        lambda: torch.randn(1, 8, 4, 4, 4),
    ),
}
CASES = pytest.mark.parametrize(
    ("make", "draw"), [pytest.param(*case, id=name) for name, case in MODULES.items()]
)


@CASES
def test_every_layer_gives_what_torchs_gives_with_the_stored_weight(
    make: Callable[[], nn.Module], draw: Callable[[], torch.Tensor]
) -> None:
    module, x = make(), draw()
    assert can_quantize(module)
    layer = quantized(module)
    exact = module(x)
    assert torch.equal(layer(x), dequantized(module, layer)(x))
    assert (layer(x) - exact).norm() < 0.01 * exact.norm()
    assert tuple(layer.weight.shape) == weight_shape(module)


@CASES
def test_casting_a_module_keeps_values_and_scales(
    make: Callable[[], nn.Module], draw: Callable[[], torch.Tensor]
) -> None:
    layer, x = quantized(make()), draw()
    before = layer(x)
    layer.to(torch.bfloat16)
    assert (layer.data.dtype, layer.scale.dtype) == (torch.int8, torch.float32)
    assert layer.weight.dtype == torch.bfloat16
    after = layer(x.to(torch.bfloat16) if x.is_floating_point() else x)
    assert after.dtype == torch.bfloat16
    assert (after.float() - before).norm() < 0.02 * before.norm()


@pytest.mark.parametrize("scheme", ["fp8", "fp8-block", "int4-g64-asym"])
def test_half_leaves_fp8_and_packed_values_alone(scheme: str) -> None:
    layer = quantized(nn.Linear(128, 16), scheme)
    before = layer.quantized.dequantize(torch.float32)
    layer.half()
    assert torch.equal(layer.quantized.dequantize(torch.float32), before)
    assert layer(torch.randn(2, 128).half()).dtype == torch.float16


def test_moving_to_another_device_moves_everything() -> None:
    layer = quantized(nn.Linear(128, 16), "int4-g64-asym").to("meta")
    assert {buffer.device.type for buffer in layer.buffers()} == {"meta"}


def test_int8_inputs_give_exact_integer_sums_with_scales_by_token() -> None:
    """More columns than fp32 adds exactly in one go, and every value at its largest."""
    layer = quantized(nn.Linear(2304, 16, bias=False), "int8-dynamic")
    layer.data.fill_(127)
    x = torch.ones(3, 2304)
    x[1] *= 1000
    x[2, 0] = -1
    values, scale = round_tokens_int8(x)
    total = values.to(torch.int64) @ layer.data.to(torch.int64).t()
    assert int(total.max()) == 2304 * 127 * 127
    assert torch.equal(layer(x), total.float() * scale * layer.scale.t())


@pytest.mark.parametrize("scheme", ["int8-dynamic", "fp8-dynamic", "fp8-block-dynamic"])
def test_an_answer_with_rounded_inputs_does_not_depend_on_its_batch(scheme: str) -> None:
    module = nn.Linear(200, 24)
    layer, x = quantized(module, scheme), torch.randn(2, 6, 200)
    x[1] *= 100
    together, alone = layer(x), layer(x[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-6, atol=1e-6)
    limit = 0.03 if scheme == "int8-dynamic" else 0.06
    assert (together - module(x)).norm() < limit * module(x).norm()


@pytest.mark.parametrize("scheme", ["int8-dynamic", "fp8-dynamic", "fp8-block-dynamic", "int8"])
@pytest.mark.parametrize("shape", [(0, 128), (2, 0, 128)], ids=str)
def test_no_rows_give_no_rows(scheme: str, shape: tuple[int, ...]) -> None:
    layer = quantized(nn.Linear(128, 16), scheme)
    assert layer(torch.zeros(shape)).shape == (*shape[:-1], 16)


@pytest.mark.parametrize("scheme", ["int8-dynamic", "fp8-dynamic", "fp8-block-dynamic"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_stays_so_and_spoils_no_other(scheme: str, value: float) -> None:
    layer, x = quantized(nn.Linear(128, 16), scheme), torch.randn(3, 128)
    expected = layer(x)
    x[1, 5] = value
    found = layer(x)
    assert bool(torch.isnan(found[1]).all())
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_a_token_of_zeros_gives_the_bias() -> None:
    layer = quantized(nn.Linear(128, 16), "int8-dynamic")
    assert torch.equal(layer(torch.zeros(1, 128))[0], layer.bias)


def test_strides_do_not_matter() -> None:
    layer = quantized(nn.Linear(64, 16), "int8-dynamic")
    x = torch.randn(64, 5).t()
    assert torch.equal(layer(x), layer(x.contiguous()))


def test_tiles_for_gpus_mean_the_same_weight() -> None:
    layer = quantized(nn.Linear(192, 16), "int4-g64")
    before = layer.weight
    layer.use_tiles()
    assert layer.quantized.layout == "tiles"
    assert torch.equal(layer.weight, before)


def test_a_cast_layer_rounds_inputs_and_outputs_and_keeps_its_type() -> None:
    module, x = nn.Linear(64, 8), torch.randn(4, 64)
    layer = CastLinear(module.weight, module.bias, torch.float16).to(torch.bfloat16)
    assert layer.weight.dtype == torch.float16
    found = layer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, found.half().float())
    assert (found - module(x)).norm() < 2e-3 * module(x).norm()


class _OwnLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(_OwnLinear(4, 4), id="subclass"),
        pytest.param(nn.Embedding(4, 4, max_norm=1.0), id="embedding that rescales"),
        pytest.param(nn.MultiheadAttention(4, 2).out_proj, id="projection read from outside"),
        pytest.param(nn.LayerNorm(4), id="norm"),
        pytest.param(nn.Bilinear(4, 4, 4), id="bilinear"),
    ],
)
def test_what_would_be_read_in_other_ways_is_left_alone(module: nn.Module) -> None:
    assert not can_quantize(module)
    with pytest.raises(TypeError, match="no quantized layer"):
        quantized_layer(
            nn.LayerNorm(4), quantize_weight(torch.eye(4), SCHEMES["int8"]), SCHEMES["int8"]
        )


def test_a_layer_is_exchanged_wherever_it_is() -> None:
    shared = nn.Linear(8, 8)
    root = nn.ModuleDict({"a": nn.Sequential(shared), "b": shared, "c": nn.Linear(8, 8)})
    new = quantized(shared)
    exchange(root, shared, new)
    assert root["b"] is new
    assert root["a"].get_submodule("0") is new
    assert isinstance(root["c"], nn.Linear)


def test_layers_that_share_a_weight_are_found_together() -> None:
    root = nn.ModuleDict({"words": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
    root["head"].weight = root["words"].weight
    (found,) = weight_owners(root)
    assert found == ("words", root["words"], [root["head"]])


def test_printing_a_module_shows_the_scheme() -> None:
    layer = quantized(nn.Linear(128, 16), "int4-g64")
    assert isinstance(layer, QuantizedLinear)
    assert "int4-g64, shape=(16, 128), bias=True" in repr(layer)
    assert (layer.in_features, layer.out_features) == (128, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [64, 1088, 2300])
def test_rounded_inputs_give_the_very_bits_of_the_int8_kernels_reference(
    columns: int, dtype: torch.dtype
) -> None:
    weight, bias = nearest(torch.randn(24, columns), "int8"), torch.randn(24)
    x = (torch.randn(7, columns) * torch.logspace(-6, 4, 7)[:, None]).to(dtype)
    x[3] = 0
    found = multiply_int8(x, weight, bias)
    assert found.dtype == dtype
    assert torch.equal(found, w8a8.reference(x, weight, bias))


@pytest.mark.parametrize("group", [0, 128], ids=["rows", "blocks"])
def test_rounded_inputs_agree_with_the_fp8_kernels_reference(group: int) -> None:
    weight = nearest(torch.randn(24, 300), "fp8-block" if group else "fp8")
    bias, x = torch.randn(24), torch.randn(7, 300)
    reference = fp8_block.reference if group else fp8_row.reference
    found = multiply_fp8(x, weight, bias, group=group)
    torch.testing.assert_close(found, reference(x, weight, bias), rtol=1e-5, atol=1e-5)
