"""Bias and GELU in one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import bias_gelu as module
from deepseek_kernels.ops.bias_gelu import bias_gelu, launch, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernels import assert_near, random_matrix
from tests.support.tracing import assert_traceable

both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])
kinds = pytest.mark.parametrize("approximate", ["exact", "tanh"])
TORCH = {"exact": "none", "tanh": "tanh"}


def expected(x: torch.Tensor, bias: torch.Tensor | None, approximate: str) -> torch.Tensor:
    wide = x.double() if bias is None else x.double() + bias.double()
    return torch.nn.functional.gelu(wide, approximate=TORCH[approximate])


@pytest.mark.parametrize("shape", [(1, 1), (33, 65), (3, 1030), (2, 3, 40), (7,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@kinds
@both
def test_it_is_gelu_of_the_sum(
    run: Any, approximate: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(shape, generator=generator) * 2).to(dtype)
    bias = torch.randn(shape[-1], generator=generator).to(dtype)
    for given_bias in (bias, None):
        y = run(x, given_bias, approximate)
        assert y.dtype == dtype
        assert_near(y, expected(x, given_bias, approximate))


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 40),
    width=st.integers(1, 80),
    seed=st.integers(0, 99),
    approximate=st.sampled_from(["exact", "tanh"]),
    turned=st.booleans(),
)
def test_kernel_and_reference_agree_for_all_sizes(
    rows: int, width: int, seed: int, approximate: str, turned: bool
) -> None:
    x = (
        random_matrix(width, rows, seed=seed).t()
        if turned
        else random_matrix(rows, width, seed=seed)
    )
    bias = random_matrix(1, width, seed=seed + 1)[0]
    assert_near(launch(x, bias, approximate), reference(x, bias, approximate), 1e-6)


@kinds
@both
def test_the_ends(run: Any, approximate: str) -> None:
    x = torch.tensor([0.0, 50.0, -50.0, 1e30, -1e30, float("nan"), 1e-40])
    y = run(x, None, approximate)
    assert y[:5].abs().tolist() == [0.0, 50.0, 0.0, pytest.approx(1e30), 0.0]
    assert bool(y[5].isnan())
    assert float(y[6]) == pytest.approx(5e-41, rel=1e-3)


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (3, 0)], ids=str)
@both
def test_nothing_in_gives_nothing_out(run: Any, shape: tuple[int, ...]) -> None:
    assert run(torch.empty(shape), None, "exact").shape == shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bias_gelu(torch.ones(2, 8), torch.ones(7)),
            r"bias: has the shape \[7\]; give \[8\]",
        ),
        (lambda: bias_gelu(torch.ones(2, 8), approximate="fast"), "approximate: is 'fast'; give"),
        (lambda: bias_gelu(torch.ones(2, 8).int()), "x: is torch.int32; convert"),
        (lambda: bias_gelu(torch.tensor(1.0)), "x: has no axis"),
    ],
    ids=["bias", "approximation", "integers", "no axis"],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


def test_the_operation_can_be_traced() -> None:
    x = random_matrix(8, 6, seed=1).t()
    assert_traceable(module._operation, x, torch.ones(8), "tanh")
    assert_near(bias_gelu(x), expected(x, None, "exact"))
