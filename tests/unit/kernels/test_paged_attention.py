"""Attention over the paged cache: few tokens of each sequence, contexts in shuffled blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from deepseek_kernels.configuration import KernelConfig
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import paged_attention as module
from deepseek_kernels.ops.paged_attention import launch, paged_decode, parts_for, reference
from deepseek_kernels.ops.paged_cache import PagedCache
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernels import assert_near
from tests.support.paged import Case, numbers
from tests.support.tracing import assert_traceable

F16, F32, INT8, FP8 = torch.float16, torch.float32, torch.int8, torch.float8_e4m3fn
both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])
CONFIG = KernelConfig(block_m=64, block_n=16, split_k=1)


CASES = [
    Case(),
    Case(dtype=F32),
    Case(contexts=(1,), kv_heads=1, group=1),
    Case(contexts=(33, 16, 7), group=5, parts=2),
    Case(contexts=(70, 2), kv_heads=1, parts=8),
    Case(contexts=(40,), dim=64, cache=INT8, parts=2),
    Case(contexts=(40, 3), dim=80, cache=FP8),
    Case(contexts=(20, 9), dim=96, kv_heads=1, cache=INT8, dtype=F32),
    Case(contexts=(18,), dim=128, group=7, parts=2, dtype=F32),
    Case(contexts=(19,), dim=256, kv_heads=1, cache=FP8, dtype=F32, parts=2),
    Case(contexts=(37, 6, 1), window=3),
    Case(contexts=(37, 20), window=18, parts=2, cache=INT8),
    Case(contexts=(21,), softcap=2.0),
    Case(contexts=(30, 9, 8), queries=(5, 1, 8), parts=2),
    Case(contexts=(30, 4), queries=(3, 4), window=2, cache=FP8),
    Case(contexts=(9, 30), queries=(9, 2), block_size=7, group=16, kv_heads=1),
    Case(contexts=(40, 40), queries=(40, 3), group=3, kv_heads=1),
    Case(contexts=(12,), dim=5, block_size=1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@both
def test_it_agrees_with_float64(run: Any, case: Case) -> None:
    options = {"config": replace(CONFIG, split_k=case.parts)} if run is launch else {}
    given = case.tensors()
    found = run(**given, **options)
    assert (found.dtype, found.is_contiguous()) == (case.dtype, True)
    # Weights are rounded to the type of the queries before they meet the values.
    assert_near(found, case.expected(), 2e-3 if case.dtype == F16 else 1e-5)


def test_the_reference_in_float64_is_the_reference_of_other_tests() -> None:
    case = Case(contexts=(30, 9), queries=(5, 1), window=4, softcap=3.0)
    wide = reference(**case.tensors(), accumulate=torch.float64)
    assert_near(wide.float(), case.expected())


@settings(deadline=None, max_examples=15)
@given(
    contexts=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    most=st.integers(1, 8),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 5),
    dim=st.integers(1, 33),
    block_size=st.integers(1, 20),
    window=st.integers(0, 12),
    parts=st.sampled_from([1, 2, 4]),
    cache=st.sampled_from([None, INT8, FP8]),
)
def test_it_agrees_for_any_shape(
    contexts: list[int], most: int, kv_heads: int, group: int, dim: int, block_size: int,
    window: int, parts: int, cache: torch.dtype | None,
) -> None:  # fmt: skip
    case = Case(
        contexts=tuple(contexts), queries=tuple(min(most, length) for length in contexts),
        kv_heads=kv_heads, group=group, dim=dim, block_size=block_size, window=window, cache=cache,
    )  # fmt: skip
    given = case.tensors()
    found = launch(**given, config=replace(CONFIG, split_k=parts))
    assert_near(found, reference(**given, accumulate=torch.float64), 2e-3)


def test_a_recorded_graph_serves_shorter_contexts() -> None:
    case = Case(contexts=(17, 5), kv_heads=1)
    bounds = {"max_query": 3, "max_context": 20}
    config = replace(CONFIG, split_k=4, block_m=16)
    assert_near(launch(**case.tensors() | bounds, config=config), case.expected(), 2e-3)


@both
def test_padding_gives_zeros_and_changes_nothing_else(run: Any) -> None:
    case = Case(contexts=(9, 6))
    given = case.tensors()
    wanted = run(**given)
    given["q"] = torch.cat((given["q"], given["q"]))
    given["block_tables"] = torch.cat((given["block_tables"], given["block_tables"] * 0))
    given["query_starts"] = torch.arange(5, dtype=torch.int32)
    given["context_lengths"] = torch.tensor([9, 6, 0, 0], dtype=torch.int32)
    found = run(**given)
    assert torch.equal(found[:2], wanted)
    assert not found[2:].any()


# The interpreter reads fp8's NaN as a number; ``tests/gpu`` has this case.
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("cache", [None, INT8], ids=str)
def test_a_value_that_is_no_number_fails_its_sequence_only(
    parts: int, cache: torch.dtype | None
) -> None:
    case = Case(contexts=(40, 40), kv_heads=1, cache=cache)
    given = case.tensors()
    bad = torch.full((1, 1, 16), float("nan"))
    table = given["block_tables"][0]
    PagedCache(*(given[name] for name in ("keys", "values", "key_scale", "value_scale"))).write(
        bad, bad, (table[5:6] * 4 + 1).long()
    )
    found = launch(**given, config=replace(CONFIG, split_k=parts))
    assert bool(found[0].isnan().all())
    assert bool(found[1].isfinite().all())


@both
def test_large_scores_do_not_overflow(run: Any) -> None:
    given = Case(contexts=(20,), dtype=F32).tensors()
    given["q"] *= 1e4
    found = run(**given)
    assert bool(found.isfinite().all())
    assert_near(found, reference(**given, accumulate=torch.float64))


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e3])
def test_int8_values_of_any_size_keep_their_precision(size: float) -> None:
    given = Case(contexts=(40,), cache=INT8, dim=32, kv_heads=1).tensors()
    given["value_scale"] *= size
    found = launch(**given, config=CONFIG)
    assert_near(found.double() / size, reference(**given, accumulate=torch.float64) / size, 4e-2)
    given["q"] = given["q"].float()
    found = launch(**given, config=CONFIG)
    assert_near(found / size, reference(**given, accumulate=torch.float64) / size)


def test_the_same_inputs_give_the_same_bits() -> None:
    given = Case(contexts=(33, 5), kv_heads=1, cache=INT8).tensors()
    config = replace(CONFIG, split_k=2)
    assert torch.equal(launch(**given, config=config), launch(**given, config=config))


def test_queries_may_be_a_slice_of_a_projection() -> None:
    given = Case().tensors()
    apart = torch.zeros(3, 6, 20, dtype=F16)[:, 1:5, 2:18]
    apart.copy_(given["q"])
    assert torch.equal(launch(**given | {"q": apart}), launch(**given))


@pytest.mark.parametrize(
    ("programs", "positions", "expected"),
    [
        (8, 100, 1),
        (8, 1024, 8),
        (8, 131072, 32),
        (1, 131072, 64),
        (256, 8192, 1),
        (128, 4096, 2),
        (264, 8192, 1),
        (265, 8192, 8),
        (100_000, 8192, 1),
    ],
    ids=str,
)
def test_the_context_is_cut_to_fill_the_gpu(programs: int, positions: int, expected: int) -> None:
    assert parts_for(programs, positions, processors=132) == expected


def call(case: Case, **changed: Any) -> torch.Tensor:
    given = case.tensors()
    cache = PagedCache(
        *(given.pop(name) for name in ("keys", "values", "key_scale", "value_scale"))
    )
    for name in ("window", "softcap"):
        given[name] = given[name] or None
    return paged_decode(**{"cache": cache} | given | changed)


def test_the_public_call_is_the_operation() -> None:
    case = Case(window=3, softcap=5.0)
    assert torch.equal(call(case, scale=None), reference(**case.tensors()))


def test_it_can_be_traced() -> None:
    given = Case(cache=INT8).tensors()
    for name in ("key_scale", "value_scale"):
        given[name] = given[name].nan_to_num()  # NaN is not equal to itself
    assert_traceable(module._operation, *given.values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": numbers(3, 4, 8).half()}, r"q: is \[3, 4, 8\] .* give \[T, heads, 16\]"),
        ({"q": numbers(3, 3, 16).half()}, "heads a multiple of 2"),
        ({"q": numbers(3, 4, 16)}, "q: is torch.float32; the cache needs torch.float16"),
        ({"q": torch.zeros(3, 4, 16, dtype=torch.int32)}, "q: is torch.int32; convert"),
        ({"block_tables": torch.zeros(3, 6).long()}, "block_tables: is torch.int64"),
        ({"query_starts": torch.zeros(3).int()}, "query_starts: is .* for 3 sequences"),
        ({"context_lengths": torch.zeros(2).int()}, "context_lengths: is .* for 3 sequences"),
        ({"max_query": 0}, "max_query, max_context: are 0 and 17; give 1 at least"),
        ({"max_context": 25}, "are 1 and 25; .* at most 6 blocks of 4"),
        ({"window": 0}, "window: is 0; give more than 0, or None"),
        ({"softcap": float("inf")}, "softcap: is inf"),
        (
            {"cache": PagedCache.allocate(1, 4, 2, 288, dtype=F16), "q": numbers(3, 4, 288).half()},
            "cache: has heads of 288; at most 256",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call(Case(), **changed)
