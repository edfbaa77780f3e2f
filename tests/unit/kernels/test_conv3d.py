"""3D convolution with sums in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.configuration import KernelConfig
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import conv3d as module
from deepseek_kernels.ops.conv3d import conv3d, launch, reference
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.kernels import assert_near
from tests.support.tracing import assert_traceable

both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def settings_of(stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> list[int]:
    return module._settings(stride, padding, dilation)


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], list[int]]] = {
    "one number": ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), settings_of()),
    "pointwise": ((2, 5, 3, 4, 5), (7, 5, 1, 1, 1), settings_of()),
    "usual": ((1, 3, 5, 6, 7), (4, 3, 3, 3, 3), settings_of(padding=1)),
    "half the size": ((2, 3, 6, 6, 6), (4, 3, 2, 2, 2), settings_of(stride=2)),
    "uneven": ((2, 2, 6, 7, 8), (3, 2, 3, 2, 1), settings_of((2, 1, 3), (1, 0, 2), (1, 2, 1))),
    "dilated": ((1, 2, 7, 7, 7), (3, 2, 3, 3, 3), settings_of(padding=2, dilation=2)),
    "more than a tile": ((1, 2, 5, 6, 7), (70, 2, 3, 3, 3), settings_of(padding=1)),
    "all padding": ((1, 1, 1, 1, 1), (2, 1, 3, 3, 3), settings_of(padding=2)),
}
cases = pytest.mark.parametrize(("shape", "window", "options"), CASES.values(), ids=CASES.keys())


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@both
def test_it_is_a_convolution(
    run: Any,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    window: tuple[int, ...],
    options: list[int],
) -> None:
    x, weight = numbers(*shape, dtype=dtype), numbers(*window, seed=1, dtype=dtype)
    y = run(x, weight, None, options, False)
    expected = torch.nn.functional.conv3d(
        x.double(), weight.double(), None, options[:3], options[3:6], options[6:]
    )
    assert y.dtype == dtype
    assert_near(y, expected)


@settings(deadline=None, max_examples=20)
@given(
    channels=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    volume=st.tuples(*[st.integers(1, 5)] * 3),
    window=st.tuples(*[st.integers(1, 3)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.tuples(*[st.integers(0, 2)] * 3),
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    seed=st.integers(0, 99),
    relu=st.booleans(),
)
def test_kernel_and_reference_agree_for_all_settings(
    channels: tuple[int, int],
    volume: tuple[int, int, int],
    window: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    dilation: tuple[int, int, int],
    seed: int,
    relu: bool,
) -> None:
    x = numbers(2, channels[0], *volume, seed=seed)
    weight = numbers(channels[1], channels[0], *window, seed=seed + 1)
    bias = numbers(channels[1], seed=seed + 2)
    options = settings_of(stride, padding, dilation)
    assume(min(module._output_size(x, weight, options)) >= 1)
    assert_near(
        launch(x, weight, bias, options, relu), reference(x, weight, bias, options, relu), 1e-5
    )


@pytest.mark.parametrize("tiles", [(16, 16, 16), (32, 128, 64)], ids=str)
def test_tiles_do_not_matter(tiles: tuple[int, int, int]) -> None:
    x, weight = numbers(2, 3, 4, 5, 6), numbers(20, 3, 3, 2, 3, seed=1)
    options = settings_of(padding=1)
    config = KernelConfig(block_m=tiles[0], block_n=tiles[1], block_k=tiles[2])
    assert_near(
        launch(x, weight, None, options, False, config),
        reference(x, weight, None, options, False),
    )


def test_float16_products_are_summed_in_float32() -> None:
    # 3000 products of 1 and one of 2**-4: a float16 sum stops counting at 2048.
    x = torch.ones(1, 3000, 1, 1, 1, dtype=torch.float16)
    weight = torch.ones(1, 3000, 1, 1, 1, dtype=torch.float16)
    config = KernelConfig(block_m=16, block_n=16, block_k=1024)
    assert float(launch(x, weight, None, settings_of(), False, config)) == 3000
    large = launch(x * 8, weight * 8, torch.tensor([-192000.0]), settings_of(), False, config)
    assert float(large) == 0


@both
def test_bias_and_relu_come_before_the_rounding(run: Any) -> None:
    x, weight = numbers(1, 2, 3, 3, 3), numbers(5, 2, 2, 2, 2, seed=1)
    bias = numbers(5, seed=2)
    plain = torch.nn.functional.conv3d(x.double(), weight.double(), bias.double())
    assert_near(run(x, weight, bias, settings_of(), False), plain)
    assert_near(run(x, weight, bias, settings_of(), True), plain.relu())


@both
def test_nan_reaches_the_positions_that_see_it_and_no_others(run: Any) -> None:
    x, weight = torch.zeros(1, 1, 5, 5, 5), torch.ones(1, 1, 3, 3, 3)
    x[0, 0, 0, 0, 0] = float("nan")
    y = run(x, weight, None, settings_of(padding=1), True)
    assert y[0, 0].isnan().nonzero().tolist() == [
        [d, h, w] for d in range(2) for h in range(2) for w in range(2)
    ]


def test_strides_do_not_matter() -> None:
    x = numbers(2, 4, 3, 5, 6).transpose(2, 4)[:, ::2]
    weight = numbers(3, 2, 2, 2, 4).transpose(1, 4)[:, :2].contiguous().transpose(2, 3)
    y = launch(x, weight, numbers(6)[::2], settings_of(), False)
    assert_near(y, reference(x.contiguous(), weight, numbers(6)[::2], settings_of(), False))


@both
def test_an_empty_batch_gives_an_empty_batch(run: Any) -> None:
    y = run(torch.empty(0, 2, 4, 4, 4), torch.ones(3, 2, 2, 2, 2), None, settings_of(), False)
    assert y.shape == (0, 3, 3, 3, 3)


def test_the_public_call_takes_one_number_or_three() -> None:
    x, weight, bias = numbers(1, 2, 6, 6, 6), numbers(3, 2, 3, 3, 3, seed=1), numbers(3, seed=2)
    y = conv3d(x, weight, bias, stride=2, padding=(1, 0, 1), dilation=1, relu=True)
    wanted = torch.nn.functional.conv3d(
        x.double(), weight.double(), bias.double(), 2, (1, 0, 1)
    ).relu()
    assert_near(y, wanted)


X, W = torch.ones(1, 2, 4, 4, 4), torch.ones(3, 2, 3, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv3d(X[0], W), r"weight: .* does not fit x \[2, 4, 4, 4\]; give x \[B, C_in"),
        (
            lambda: conv3d(X[:, :1], W),
            r"weight: \[3, 2, 3, 3, 3\] does not fit x \[1, 1, 4, 4, 4\]",
        ),
        (lambda: conv3d(X, W.half()), "weight: is torch.float16; convert it to torch.float32"),
        (lambda: conv3d(X.int(), W), "x: is torch.int32; convert"),
        (lambda: conv3d(X, W, torch.ones(2)), r"bias: has the shape \[2\]; give \[3\]"),
        (lambda: conv3d(X, W, stride=0), "stride: 0; give one number or three of at least 1"),
        (lambda: conv3d(X, W, padding=(0, -1, 0)), r"padding: \(0, -1, 0\); give one number"),
        (lambda: conv3d(X, W, dilation=(1, 1)), r"dilation: \(1, 1\); give one number"),  # type: ignore[arg-type]
        (lambda: conv3d(X, W, dilation=2), "padding: the window is larger than the padded volume"),
        (
            lambda: conv3d(torch.empty(1, 2, 1100, 1000, 1000, device="meta"), W.to("meta")),
            r"x: a sample has 2\*\*31 numbers or more",
        ),
    ],
    ids=[
        "axes",
        "channels",
        "type",
        "integers",
        "bias",
        "stride",
        "padding",
        "dilation",
        "window",
        "size",
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


def test_the_operation_can_be_traced() -> None:
    assert_traceable(module._operation, X, W, torch.ones(3), settings_of(2, 1), True)
