"""Folding batch normalization into convolutions, and the pass over their results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import folded_conv as module
from deepseek_kernels.ops.folded_conv import (
    conv_epilogue,
    fold_batch_norm,
    fold_modules,
    folded_conv2d,
    launch,
    reference,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support.kernels import assert_near
from tests.support.tracing import assert_traceable

both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(normalization: Any) -> Any:
    """A batch normalization as training leaves it: no statistic and no parameter is trivial."""
    channels = normalization.num_features
    normalization.running_mean = numbers(channels, seed=1)
    normalization.running_var = numbers(channels, seed=2).square() + 0.1
    if normalization.affine:
        normalization.weight.data = numbers(channels, seed=3)
        normalization.bias.data = numbers(channels, seed=4)
    return normalization.eval()


PAIRS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "plain": (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), (2, 3, 9, 10)),
    "no bias": (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), (2, 3, 9, 10)),
    "stride": (nn.Conv2d(3, 8, 3, stride=(2, 3)), nn.BatchNorm2d(8), (2, 3, 9, 10)),
    "padding": (nn.Conv2d(3, 8, 3, padding=(2, 1)), nn.BatchNorm2d(8), (2, 3, 9, 10)),
    "same": (nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), (2, 3, 9, 10)),
    "reflected": (
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        (2, 3, 9, 10),
    ),
    "dilation": (nn.Conv2d(3, 8, 3, dilation=2), nn.BatchNorm2d(8), (2, 3, 9, 10)),
    "groups": (nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), (2, 4, 9, 10)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), (1, 6, 5, 5)),
    "not affine": (nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False), (2, 3, 4, 4)),
    "large eps": (nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, eps=0.5), (2, 3, 4, 4)),
    "one dimension": (nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), (2, 3, 20)),
    "three dimensions": (nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), (1, 2, 5, 6, 7)),
}
pairs = pytest.mark.parametrize(
    ("convolution", "normalization", "shape"), PAIRS.values(), ids=PAIRS.keys()
)


@pairs
def test_a_folded_convolution_does_what_the_pair_does(
    convolution: Any, normalization: Any, shape: tuple[int, ...]
) -> None:
    trained(normalization)
    x = numbers(*shape, seed=7)
    with torch.no_grad():
        wanted = normalization.double()(convolution.double()(x.double()))
        convolution.float()
        normalization.float()
        before = convolution.weight.clone()
        folded = fold_modules(convolution, normalization)
        assert_near(folded(x), wanted, 2e-6)
    assert type(folded) is type(convolution)
    assert torch.equal(convolution.weight, before)


def test_folding_tensors_is_exact_to_one_rounding() -> None:
    weight, bias = numbers(5, 3, 2, 2), numbers(5, seed=1)
    mean, variance = numbers(5, seed=2), numbers(5, seed=3).square()
    gamma, beta = numbers(5, seed=4), numbers(5, seed=5)
    folded, offset = fold_batch_norm(weight, bias, mean, variance, gamma, beta, 1e-3)
    factor = gamma.double() / (variance.double() + 1e-3).sqrt()
    torch.testing.assert_close(
        folded.double(), weight.double() * factor.reshape(5, 1, 1, 1), rtol=1e-7, atol=0
    )
    wanted = (bias.double() - mean.double()) * factor + beta.double()
    torch.testing.assert_close(offset.double(), wanted, rtol=1e-7, atol=0)


def test_float16_weights_take_float32_statistics() -> None:
    weight = numbers(4, 2, 1, 1).half()
    folded, offset = fold_batch_norm(weight, None, numbers(4), torch.ones(4))
    assert (folded.dtype, offset.dtype) == (torch.float16, torch.float16)


ONES = torch.ones(4)
WEIGHT = torch.ones(4, 2, 3, 3)
CONV, NORM = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fold_batch_norm(WEIGHT, None, ONES, -ONES), "running_var: plus eps 1e-05"),
        (lambda: fold_batch_norm(WEIGHT, None, ONES, ONES * 0, eps=0), "running_var: plus eps 0"),
        (lambda: fold_batch_norm(WEIGHT, None, ONES, ONES * torch.nan), "running_var: plus eps"),
        (lambda: fold_batch_norm(WEIGHT * torch.nan, None, ONES, ONES), "weight: folded it is not"),
        (
            lambda: fold_batch_norm(WEIGHT.half() * 6e4, None, ONES, ONES * 1e-4),
            "not finite in torch.float16",
        ),
        (
            lambda: fold_batch_norm(WEIGHT, None, torch.ones(5), ONES),
            r"running_mean: has the shape",
        ),
        (lambda: fold_batch_norm(WEIGHT, torch.ones(2), ONES, ONES), r"bias: has the shape \[2\]"),
        (lambda: fold_batch_norm(WEIGHT, None, ONES, ONES, ONES.int()), "gamma: is torch.int32"),
        (lambda: fold_modules(CONV, nn.BatchNorm2d(4).train()), "normalization: takes its statis"),
        (
            lambda: fold_modules(CONV, nn.BatchNorm2d(4, track_running_stats=False).eval()),
            "normalization: takes its statistics from each batch",
        ),
        (
            lambda: fold_modules(CONV, nn.BatchNorm2d(5).eval()),
            r"running_mean: has the shape \[5\]",
        ),
        (lambda: fold_modules(CONV, nn.ReLU()), "normalization: is a ReLU; give a BatchNorm"),
        (
            lambda: fold_modules(nn.ConvTranspose2d(2, 4, 3), nn.BatchNorm2d(4).eval()),  # type: ignore[type-var]
            "convolution: is a ConvTranspose2d; give a Conv1d",
        ),
    ],
    ids=[
        "negative variance",
        "zero variance",
        "NaN variance",
        "NaN weight",
        "overflow",
        "mean",
        "bias",
        "integers",
        "training",
        "no statistics",
        "channels",
        "no normalization",
        "transposed",
    ],
)
def test_what_cannot_be_folded_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


LAYOUTS: dict[str, Any] = {
    "features": lambda: numbers(5, 7),
    "signal": lambda: numbers(2, 3, 50),
    "picture": lambda: numbers(2, 3, 5, 7),
    "large picture": lambda: numbers(1, 2, 40, 40),
    "channels last": lambda: numbers(2, 3, 5, 7).contiguous(memory_format=torch.channels_last),
    "one channel": lambda: numbers(2, 1, 5, 7).contiguous(memory_format=torch.channels_last),
    "one pixel": lambda: numbers(2, 70, 1, 1).contiguous(memory_format=torch.channels_last),
    "volume": lambda: numbers(2, 3, 3, 4, 5),
    "volume, channels last": lambda: numbers(2, 3, 3, 4, 5).contiguous(
        memory_format=torch.channels_last_3d
    ),
    "turned picture": lambda: numbers(2, 3, 5, 7).transpose(2, 3),
    "empty batch": lambda: numbers(0, 3, 5, 7),
    "no pixels": lambda: numbers(2, 3, 0, 7),
}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "linear"])
@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", "alone"])
@both
def test_the_epilogue_adds_bias_and_residual_and_cuts(
    run: Any, with_residual: bool, relu: bool, make: Any
) -> None:
    x = make()
    bias, residual = numbers(x.shape[1], seed=1), numbers(*x.shape, seed=2)
    wanted = x + bias.reshape(-1, *[1] * (x.dim() - 2))
    wanted = wanted + residual if with_residual else wanted
    y = run(x, bias, residual if with_residual else None, relu)
    torch.testing.assert_close(y, wanted.relu() if relu else wanted)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@both
def test_the_epilogue_keeps_the_memory_format(run: Any, layout: torch.memory_format) -> None:
    x = numbers(2, 3, 5, 7).contiguous(memory_format=layout)
    assert run(x, torch.ones(3), None, True).stride() == x.stride()


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
    channels_last=st.booleans(),
    relu=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_kernel_and_reference_agree_for_all_shapes(
    shape: tuple[int, ...], seed: int, channels_last: bool, relu: bool, dtype: torch.dtype
) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = numbers(*shape, seed=seed).to(dtype).contiguous(memory_format=layout)
    arguments = (x, numbers(shape[1], seed=seed + 1).to(dtype), x * 2, relu)
    assert torch.equal(launch(*arguments), reference(*arguments))


@both
def test_nan_survives_relu(run: Any) -> None:
    x = torch.tensor([[[float("nan"), -1.0, -0.0, float("inf")]]])
    y = run(x, torch.zeros(1), None, True)[0, 0]
    assert bool(y[0].isnan())
    assert y[1:].tolist() == [0.0, 0.0, float("inf")]


def test_a_block_of_a_residual_network_in_one_call() -> None:
    convolution, normalization = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
    folded = fold_modules(convolution, trained(normalization))
    x = numbers(2, 4, 8, 8, seed=9)
    with torch.no_grad():
        wanted = (normalization(convolution(x)) + x).relu()
        assert folded.bias is not None
        y = folded_conv2d(x, folded.weight, folded.bias, padding=1, residual=x)
    assert_near(y, wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv_epilogue(torch.ones(3), ONES), r"x: has the shape \[3\]; give \[B, C, ...\]"),
        (lambda: conv_epilogue(torch.ones(2, 3), ONES), r"bias: has the shape \[4\]; give \[3\]"),
        (
            lambda: conv_epilogue(torch.ones(2, 4), ONES, torch.ones(1, 4)),
            r"residual: has the shape \[1, 4\]; give \[2, 4\]",
        ),
        (lambda: conv_epilogue(torch.ones(2, 4).int(), ONES), "x: is torch.int32; convert"),
    ],
    ids=["axes", "bias", "residual", "integers"],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_operation_can_be_traced(make: Any) -> None:
    x = make()
    assert_traceable(module._operation, x, torch.ones(x.shape[1]), None, True)
