"""The product that skips columns of small activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.configuration import KernelConfig
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import sparse_gemv as module
from deepseek_kernels.ops.sparse_gemv import (
    activation_threshold,
    k_major,
    launch,
    reference,
    sparse_gemv,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernels import assert_near, random_matrix
from tests.support.tracing import assert_traceable

both = pytest.mark.parametrize("multiply", [reference, launch], ids=["reference", "kernel"])
SIZES = {
    "one of each": (1, 1, 1),
    "odd": (1, 33, 65),
    "several parts of K": (1, 150, 130),
    "two rows": (2, 70, 33),
    "sixteen rows": (16, 128, 130),
}


def expected(x: torch.Tensor, weight: torch.Tensor, threshold: float) -> torch.Tensor:
    """The product in float64, written column by column."""
    total = torch.zeros(len(x), weight.shape[1], dtype=torch.float64)
    for row, column in (x.float().abs() > threshold).nonzero().tolist():
        total[row] += x[row, column].double() * weight[column].double()
    return total


@pytest.mark.parametrize(("rows", "size", "width"), SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("threshold", [0.0, 0.7, 100.0])
@both
def test_it_is_the_product_over_the_large_activations(
    multiply: Any, rows: int, size: int, width: int, dtype: torch.dtype, threshold: float
) -> None:
    x = random_matrix(rows, size, seed=1, dtype=dtype)
    weight = random_matrix(size, width, seed=2, dtype=dtype)
    y = multiply(x, weight, threshold)
    assert y.dtype == dtype
    assert_near(y, expected(x, weight, threshold))


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 16),
    size=st.integers(1, 80),
    width=st.integers(1, 140),
    threshold=st.floats(0, 3),
    seed=st.integers(0, 99),
)
def test_kernel_and_reference_agree_for_all_sizes(
    rows: int, size: int, width: int, threshold: float, seed: int
) -> None:
    x, weight = random_matrix(rows, size, seed=seed), random_matrix(size, width, seed=seed + 1)
    assert_near(launch(x, weight, threshold), reference(x, weight, threshold))


@both
def test_weights_of_small_activations_are_not_read(multiply: Any) -> None:
    x, weight = random_matrix(1, 100, seed=1), random_matrix(100, 40, seed=2)
    poisoned = weight.clone()
    poisoned[x[0].abs() <= 0.7] = float("nan") if multiply is launch else 1e30
    assert_near(multiply(x, poisoned, 0.7), expected(x, weight, 0.7))


@both
def test_a_row_does_not_depend_on_its_batch_mates(multiply: Any) -> None:
    x, weight = random_matrix(4, 100, seed=1), random_matrix(100, 40, seed=2)
    together = multiply(x, weight, 0.7)
    x[1:] *= 50
    assert torch.equal(multiply(x, weight, 0.7)[0], together[0])


@both
def test_nan_counts_as_large(multiply: Any) -> None:
    x, weight = torch.zeros(1, 40), random_matrix(40, 5, seed=2)
    x[0, 7] = float("nan")
    assert bool(multiply(x, weight, 0.5).isnan().all())


@both
@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8)], ids=str)
def test_no_rows_give_no_rows(multiply: Any, shape: tuple[int, ...]) -> None:
    assert multiply(torch.empty(shape), torch.ones(8, 3), 0.1).shape == (*shape[:-1], 3)


def test_leading_axes_are_kept_and_strides_do_not_matter() -> None:
    x = random_matrix(6, 60, seed=1).reshape(2, 3, 60)[:, :, ::2]
    weight = k_major(random_matrix(7, 30, seed=2))
    wanted = expected(x.reshape(6, 30), weight, 0.5).reshape(2, 3, 7)
    assert_near(sparse_gemv(x, weight, 0.5), wanted)
    assert_near(launch(x, weight, 0.5), wanted)


@pytest.mark.parametrize("split_k", [1, 2, 16])
@pytest.mark.parametrize("rows", [1, 3])
def test_k_may_be_divided_in_any_way(rows: int, split_k: int) -> None:
    x, weight = random_matrix(rows, 170, seed=1), random_matrix(170, 33, seed=2)
    config = KernelConfig(block_n=32, block_k=16, split_k=split_k)
    assert_near(launch(x, weight, 0.3, config), expected(x, weight, 0.3))


def test_runs_are_equal_to_the_bit() -> None:
    x, weight = random_matrix(1, 300, seed=1), random_matrix(300, 33, seed=2)
    first = launch(x, weight, 0.3)
    assert all(torch.equal(launch(x, weight, 0.3), first) for _ in range(3))


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.4, 0.999])
def test_a_threshold_skips_the_part_that_was_asked_for(sparsity: float) -> None:
    samples = random_matrix(50, 40, seed=3)
    threshold = activation_threshold(samples, sparsity)
    assert float((samples.abs() <= threshold).float().mean()) == pytest.approx(sparsity, abs=1e-3)


def test_k_major_weights_are_the_contiguous_transpose() -> None:
    weight = random_matrix(3, 5, seed=1)
    assert torch.equal(k_major(weight), weight.t())
    assert k_major(weight).is_contiguous()


X, W = torch.ones(2, 8), torch.ones(8, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sparse_gemv(X, torch.ones(4, 8), 0.1),
            r"weight: \[4, 8\] does not fit x \[2, 8\]",
        ),
        (lambda: sparse_gemv(X, W.half(), 0.1), "weight: is torch.float16; convert it to"),
        (lambda: sparse_gemv(X, torch.ones(4, 8).t(), 0.1), "weight: is not contiguous"),
        (lambda: sparse_gemv(torch.ones(17, 8), W, 0.1), "x: has 17 rows; above 16"),
        (lambda: sparse_gemv(X, W, -1), "threshold: is -1; give a finite number"),
        (lambda: sparse_gemv(X.int(), W, 0.1), "x: is torch.int32; convert"),
        (lambda: sparse_gemv(torch.tensor(1.0), W, 0.1), "does not fit"),
        (lambda: k_major(torch.ones(3)), r"weight: has the shape \[3\]"),
        (lambda: activation_threshold(X, 1.0), "sparsity: is 1.0; give 0 to below 1"),
        (lambda: activation_threshold(torch.empty(0), 0.5), "samples: is empty"),
        (lambda: activation_threshold(X * float("inf"), 0.5), "samples: is empty or holds NaN"),
    ],
    ids=[
        "shape",
        "dtype",
        "layout",
        "rows",
        "threshold",
        "integers",
        "no axis",
        "no matrix",
        "sparsity",
        "no samples",
        "infinite samples",
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


def test_the_operation_can_be_traced() -> None:
    assert_traceable(module._operation, X, W, 0.1)
