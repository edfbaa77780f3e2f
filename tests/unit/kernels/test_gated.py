"""The product of an activated gate and its partner, without quantization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import gated as module
from deepseek_kernels.ops.gated import gated, launch, reference

from tests.support.kernels import assert_near
from tests.support.tracing import assert_traceable

F16, F32 = torch.float16, torch.float32
both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])
ACTIVATIONS: dict[str, Any] = {
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "gelu-tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = F32) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2).to(dtype)


@pytest.mark.parametrize("shape", [(1, 1), (3, 33), (2, 5, 70), (130,), (2, 1030)], ids=str)
@pytest.mark.parametrize("dtype", [F32, F16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@both
def test_it_agrees_with_float64(
    run: Any, activation: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    gate, up = numbers(*shape, dtype=dtype), numbers(*shape, seed=1, dtype=dtype)
    found = run(gate, up, activation)
    assert (found.dtype, found.is_contiguous()) == (dtype, True)
    assert_near(found, ACTIVATIONS[activation](gate.double()) * up.double())


@both
def test_halves_of_one_tensor_are_taken_as_they_lie(run: Any) -> None:
    gate, up = numbers(2, 3, 80).chunk(2, dim=-1)
    apart = run(gate.contiguous(), up.contiguous(), "silu")
    assert torch.equal(run(gate, up, "silu"), apart)


@both
def test_not_a_number_stays_where_it_is(run: Any) -> None:
    gate = numbers(2, 8)
    gate[1, 3] = float("nan")
    assert run(gate, gate, "gelu-tanh").isnan().nonzero().tolist() == [[1, 3]]


@both
def test_nothing_in_gives_nothing_out(run: Any) -> None:
    assert run(torch.empty(2, 0, 8), torch.empty(2, 0, 8), "silu").shape == (2, 0, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gated(numbers(2, 8), numbers(2, 7)), r"up: has the shape \[2, 7\]"),
        (
            lambda: gated(numbers(2, 8), numbers(2, 8), "relu"),
            "activation: is 'relu'; give one of silu, gelu, gelu-tanh",
        ),
    ],
    ids=["shape", "activation"],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


def test_the_operation_can_be_traced() -> None:
    assert_traceable(module._operation, *numbers(2, 3, 16).chunk(2, dim=-1), "gelu")
    assert torch.equal(gated(numbers(3), numbers(3)), reference(numbers(3), numbers(3), "silu"))
