"""2:4 pruning, and the choice between cuSPARSELt and the dense product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError, KernelUnavailableError
from deepseek_kernels.ops import semi_structured as module
from deepseek_kernels.ops.semi_structured import launch, prune_2_4, reference
from deepseek_kernels.semi_structured import CuSparseLt, SemiStructuredWeight, obstacle
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernels import assert_near, random_matrix
from tests.support.tracing import assert_traceable

both = pytest.mark.parametrize("prune", [reference, launch], ids=["reference", "kernel"])
NO_GPU = not torch.cuda.is_available()
no_gpu_here = pytest.mark.skipif(not NO_GPU, reason="asserts what a machine without a GPU says")


@both
@pytest.mark.parametrize(
    ("weights", "kept"),
    [
        ([1, -4, 3, 2], [0, -4, 3, 0]),
        ([4, 3, 2, 1], [4, 3, 0, 0]),
        ([1, 2, 3, 4], [0, 0, 3, 4]),
        ([2, 2, 2, 2], [2, 2, 0, 0]),
        ([1, -2, 2, -2], [0, -2, 2, 0]),
        ([0, 0, 0, 5], [0, 0, 0, 5]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([1e-45, 0, -1e-40, 0], [1e-45, 0, -1e-40, 0]),
    ],
    ids=["mixed", "first", "last", "equal", "two of three", "one", "none", "subnormal"],
)
def test_the_two_largest_of_four_stay(prune: Any, weights: list[float], kept: list[float]) -> None:
    assert torch.equal(prune(torch.tensor([weights])), torch.tensor([kept]).float())


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 20),
    groups=st.integers(1, 30),
    levels=st.sampled_from([2, 5, 1000]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_kernel_and_reference_agree_and_keep_the_most_magnitude(
    rows: int, groups: int, levels: int, seed: int, dtype: torch.dtype
) -> None:
    # Few levels make many equal magnitudes.
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-levels, levels + 1, (rows, 4 * groups), generator=generator).to(dtype)
    pruned = launch(weight)
    assert torch.equal(pruned, reference(weight))
    size, pruned = weight.float().reshape(-1, 4).abs(), pruned.float()
    best = size.sum(1) - size.sort(dim=1).values[:, :2].sum(1)
    assert torch.equal(pruned.reshape(-1, 4).abs().sum(1), best)


def test_strides_do_not_matter() -> None:
    weight = random_matrix(20, 9, seed=1).t()[1:]
    assert torch.equal(launch(weight), reference(weight.contiguous()))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(3, 6), r"weight: has the shape \[3, 6\]; make the last axis a multiple of 4"),
        (torch.tensor(1.0), "weight: has the shape"),
        (torch.tensor([1, 2, 3, float("nan")]), "weight: holds NaN or infinity"),
        (torch.ones(4, dtype=torch.int8), "weight: is torch.int8; convert"),
    ],
    ids=["no multiple of 4", "no axis", "NaN", "integers"],
)
def test_what_cannot_be_pruned_is_named(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        prune_2_4(weight)


def test_the_operation_can_be_traced() -> None:
    assert_traceable(module._operation, random_matrix(3, 8, seed=1))


WEIGHT = prune_2_4(random_matrix(6, 16, seed=1))


class PretendedSparse:
    """Stands for cuSPARSELt, which needs a GPU: the same products, with calls counted."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.calls = weight, 0
        self.tuned: list[int] = []
        self.nbytes = weight.nbytes * 9 // 16

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        self.calls += 1
        return torch.nn.functional.linear(x, self.weight, bias)

    def tune(self, x: torch.Tensor) -> None:
        self.tuned.append(len(x))


class Timer:
    """Gives the times of a list in turn: sparse, dense, sparse, dense and so on."""

    def __init__(self, *times: float) -> None:
        self._times = list(times)

    def __call__(self, run: Callable[[], object]) -> float:
        run()
        return self._times.pop(0)


def on_a_pretended_gpu(**options: Any) -> tuple[SemiStructuredWeight, PretendedSparse]:
    sparse = PretendedSparse(WEIGHT)
    options = {"find_obstacle": lambda _: None, "compress": lambda _: sparse} | options
    return SemiStructuredWeight(WEIGHT, **options), sparse


@no_gpu_here
def test_on_a_cpu_the_product_is_dense_and_says_why() -> None:
    weight = SemiStructuredWeight(WEIGHT)
    x, bias = random_matrix(5, 16, seed=2), random_matrix(1, 6, seed=3)[0]
    assert_near(weight(x, bias), x.double() @ WEIGHT.double().t() + bias.double())
    assert weight.explain(5).route == "dense"
    assert "cuSPARSELt needs an NVIDIA GPU" in weight.explain(5).reason
    assert weight.nbytes == WEIGHT.nbytes


@pytest.mark.parametrize(
    ("sparse_ms", "dense_ms", "route"),
    [(0.5, 1.0, "cusparselt"), (1.0, 1.0, "dense"), (0.98, 1.0, "dense"), (2.0, 1.0, "dense")],
    ids=["faster", "equal", "within noise", "slower"],
)
def test_the_faster_product_is_chosen(sparse_ms: float, dense_ms: float, route: str) -> None:
    weight, sparse = on_a_pretended_gpu(time_ms=Timer(sparse_ms, dense_ms))
    choice = weight.explain(100)
    assert (choice.route, choice.sparse_ms, choice.dense_ms) == (route, sparse_ms, dense_ms)
    measured = sparse.calls
    weight(random_matrix(100, 16, seed=1))
    assert sparse.calls - measured == (route == "cusparselt")


def test_each_number_of_rows_is_measured_once_up_to_a_power_of_two() -> None:
    weight, sparse = on_a_pretended_gpu(time_ms=Timer(0.5, 1, 2, 1))
    routes = [weight.explain(rows).route for rows in (100, 128, 65, 129, 256, 128)]
    assert routes == ["cusparselt"] * 3 + ["dense"] * 2 + ["cusparselt"]
    assert sparse.tuned == [128, 256]


def test_a_failure_of_the_sparse_product_falls_back_to_dense_and_is_told() -> None:
    class Failing(PretendedSparse):
        def tune(self, x: torch.Tensor) -> None:
            raise RuntimeError("CUDA error: architecture mismatch")

    weight, _ = on_a_pretended_gpu(compress=Failing)
    assert weight(random_matrix(3, 16, seed=1)).shape == (3, 6)
    assert weight.explain(3).route == "dense"
    assert "architecture mismatch" in weight.explain(3).reason


def test_a_route_that_was_asked_for_is_taken_unmeasured_and_kept_alone() -> None:
    sparse_only, sparse = on_a_pretended_gpu(route="cusparselt", time_ms=Timer())
    sparse_only(random_matrix(3, 16, seed=1))
    assert sparse.calls == 1
    assert sparse_only.nbytes == sparse.nbytes
    dense_only, sparse = on_a_pretended_gpu(route="dense", time_ms=Timer())
    dense_only(random_matrix(3, 16, seed=1))
    assert sparse.calls == 0
    assert dense_only.nbytes == WEIGHT.nbytes
    assert dense_only.explain(3).reason == "the route dense was asked for"


@pytest.mark.parametrize("shape", [(16,), (2, 3, 16), (0, 16), (2, 0, 16)], ids=str)
def test_leading_axes_are_kept(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert_near(SemiStructuredWeight(WEIGHT, route="dense")(x), x.double() @ WEIGHT.double().t())


@no_gpu_here
def test_cusparselt_without_a_gpu_is_refused_with_the_reason() -> None:
    with pytest.raises(KernelUnavailableError, match="the weights are on cpu"):
        SemiStructuredWeight(WEIGHT, route="cusparselt")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SemiStructuredWeight(torch.ones(2, 8)), "more than two numbers .* use prune_2_4"),
        (lambda: SemiStructuredWeight(torch.zeros(2, 6)), "K a multiple of 4"),
        (lambda: SemiStructuredWeight(torch.zeros(0, 8)), r"has the shape \[0, 8\]"),
        (
            lambda: SemiStructuredWeight(WEIGHT, route=cast(Any, "fast")),
            "route: 'fast'; write auto",
        ),
        (
            lambda: SemiStructuredWeight(WEIGHT)(torch.ones(2, 8)),
            r"x: has the shape \[2, 8\]; give \[2, 16\]",
        ),
        (lambda: SemiStructuredWeight(WEIGHT)(torch.ones(2, 16).half()), "x: is torch.float16"),
        (lambda: SemiStructuredWeight(WEIGHT)(torch.tensor(1.0)), "x: is a single number"),
        (
            lambda: SemiStructuredWeight(WEIGHT)(torch.ones(16), torch.ones(5)),
            r"bias: has the shape \[5\]",
        ),
    ],
    ids=["not 2:4", "K", "empty", "route", "x shape", "x type", "x number", "bias"],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()


def test_torch_still_has_the_calls_of_cusparselt() -> None:
    compress, product, search = (
        str(getattr(torch.ops.aten, name).default._schema)
        for name in ("_cslt_compress", "_cslt_sparse_mm", "_cslt_sparse_mm_search")
    )
    assert "Tensor input" in compress
    assert all(name in product for name in ("bias", "transpose_result", "alg_id"))
    assert "transpose_result" in search
    assert obstacle(WEIGHT) is not None or torch.cuda.is_available()
    assert CuSparseLt.ROWS == 8
