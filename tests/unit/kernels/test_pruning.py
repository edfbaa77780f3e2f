"""Threshold pruning: what stays, what the sparsity counts, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import pruning as module
from deepseek_kernels.ops.pruning import dynamic_pruning, launch, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tracing import assert_traceable

both = pytest.mark.parametrize("prune", [reference, launch], ids=["reference", "kernel"])
SHAPES = [(), (1,), (1025,), (33, 65), (2, 3, 5, 7), (0, 4)]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.2


def test_weights_above_the_threshold_stay_and_the_others_are_zero() -> None:
    weights = torch.tensor([[0.05, -0.2, 0.1], [-0.11, 0.0, 3.0]])
    pruned, sparsity = dynamic_pruning(weights, threshold=0.1)
    assert pruned.tolist() == torch.tensor([[0, -0.2, 0], [-0.11, 0, 3]]).tolist()
    assert sparsity == 0.5


def test_the_default_threshold_is_a_tenth() -> None:
    weights = numbers(20, 20)
    pruned, sparsity = dynamic_pruning(weights)
    assert torch.equal(pruned, torch.where(weights.abs() > 0.1, weights, 0))
    assert sparsity == pytest.approx(float((pruned == 0).float().mean()))


def test_the_weights_given_are_not_changed() -> None:
    weights = numbers(9, 9)
    before = weights.clone()
    dynamic_pruning(weights, 10)
    assert torch.equal(weights, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_kernel_gives_the_bits_of_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    weights = numbers(*shape).to(dtype)
    for actual, expected in zip(launch(weights, 0.1), reference(weights, 0.1), strict=True):
        assert torch.equal(actual, expected)
        assert actual.dtype == expected.dtype


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    threshold=st.floats(0, 1, width=32),
    seed=st.integers(0, 99),
    turned=st.booleans(),
)
def test_kernel_and_reference_agree_for_all_sizes_and_thresholds(
    rows: int, columns: int, threshold: float, seed: int, turned: bool
) -> None:
    weights = numbers(rows, columns, seed=seed)
    weights = weights.t() if turned else weights
    for actual, expected in zip(
        launch(weights, threshold), reference(weights, threshold), strict=True
    ):
        assert torch.equal(actual, expected)


@both
@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.float32, 0), (torch.float16, 0), (torch.bfloat16, 1)], ids=str
)
def test_a_rounded_tenth_is_compared_in_float32(prune: Any, dtype: torch.dtype, kept: int) -> None:
    # 0.1 is 0.0999756 in float16 and 0.1000977 in bfloat16.
    _, counts = prune(torch.tensor([0.1], dtype=dtype), 0.1)
    assert counts.tolist() == [kept, 0]


@both
def test_subnormal_weights_stay_above_a_threshold_of_zero(prune: Any) -> None:
    weights = torch.tensor([1e-45, -1e-40, 0.0])
    pruned, counts = prune(weights, 0.0)
    assert torch.equal(pruned, weights)
    assert counts.tolist() == [2, 0]


def test_an_empty_matrix_has_no_sparsity() -> None:
    pruned, sparsity = dynamic_pruning(torch.empty(0, 4))
    assert (tuple(pruned.shape), sparsity) == ((0, 4), 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (torch.tensor([1.0, float("nan"), float("inf")]),),
            "weight_matrix: holds NaN or infinity in 2 places",
        ),
        ((torch.ones(2, dtype=torch.int8),), "weight_matrix: is torch.int8; convert"),
        ((None,), "weight_matrix: is a NoneType; give a torch.Tensor"),
        ((torch.ones(2), -0.1), "threshold: is -0.1; give a finite number"),
        ((torch.ones(2), float("nan")), "threshold: is nan"),
        ((torch.ones(2), float("inf")), "threshold: is inf"),
    ],
    ids=["not finite", "integers", "no tensor", "negative", "NaN", "infinite"],
)
def test_what_cannot_be_pruned_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        dynamic_pruning(*arguments)


@both
def test_weights_that_are_not_finite_are_counted(prune: Any) -> None:
    weights = numbers(3000)
    weights[::1000] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    _, counts = prune(weights, 0.1)
    assert int(counts[1]) == 3


def test_the_operation_can_be_traced() -> None:
    assert_traceable(module._operation, numbers(3, 5), 0.1)
