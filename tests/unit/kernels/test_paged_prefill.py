"""Prompts over the paged cache: what is given to torch's attention, and when it is not used."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import paged_prefill as module
from deepseek_kernels.ops.paged_attention import reference
from deepseek_kernels.ops.paged_cache import PagedCache
from deepseek_kernels.ops.paged_prefill import by_library, obstacle, paged_prefill

from tests.support.kernels import assert_near
from tests.support.paged import Case

F16, INT8, FP8 = torch.float16, torch.int8, torch.float8_e4m3fn


def library(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    **options: Any,
) -> torch.Tensor:
    """What torch documents of ``varlen_attn``, sequence by sequence, on a processor."""
    real = pytest.importorskip("torch.nn.attention.varlen").varlen_attn
    inspect.signature(real).bind(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options)
    assert options["enable_gqa"]
    left, right = options["window_size"]
    assert right == 0
    out, group = torch.zeros_like(query), query.shape[1] // key.shape[1]
    for s, used in enumerate(options["seqused_k"].tolist()):
        rows = slice(*cu_seq_q[s : s + 2].tolist())
        first, last = cu_seq_k[s : s + 2].tolist()
        assert rows.stop - rows.start <= max_q
        assert used <= last - first <= max_k
        k, v = (part[first : first + used].repeat_interleave(group, 1) for part in (key, value))
        own = torch.arange(used - (rows.stop - rows.start), used)[:, None]
        at = torch.arange(used)[None]
        seen = (at <= own) & (at >= own - left if left >= 0 else at >= 0)
        out[rows] = torch.nn.functional.scaled_dot_product_attention(
            query[rows].transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), seen,
            scale=options["scale"],
        ).transpose(0, 1)  # fmt: skip
    return out


@pytest.mark.parametrize(
    "case",
    [
        Case(contexts=(9, 4, 6), queries=(9, 2, 1)),
        Case(contexts=(9, 14), queries=(3, 14), window=5),
        Case(contexts=(7,), queries=(7,), cache=INT8, group=4),
        Case(contexts=(10, 3), queries=(2, 3), cache=FP8, kv_heads=1),
    ],
    ids=str,
)
def test_the_library_gets_the_gathered_keys_and_values(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_varlen_attn", lambda: library)
    given = case.tensors()
    expected = reference(**given, accumulate=torch.float64)
    cache = cache_of(given)
    found = by_library(
        given["q"], cache, given["block_tables"], given["query_starts"],
        given["context_lengths"], given["max_query"], given["max_context"], None,
        case.window or None,
    )  # fmt: skip
    assert_near(found, expected, 2e-3)


def cache_of(given: dict[str, Any]) -> PagedCache:
    return PagedCache(*(given.pop(name) for name in ("keys", "values", "key_scale", "value_scale")))


def test_where_the_library_does_not_fit_the_kernel_answers() -> None:
    case = Case(contexts=(9, 4), queries=(9, 2), softcap=3.0)
    given = case.tensors() | {"window": None}
    found = paged_prefill(cache=cache_of(given), **given)
    assert_near(found, case.expected(), 2e-3)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, ""),
        ({"device": "cpu"}, "not on a CUDA device"),
        ({"softcap": 30.0}, "the library has no soft cap"),
        ({"max_query": 63}, "fewer than 64 queries of a sequence"),
        ({"dtype": torch.float32}, "no torch.float32 in the library"),
        ({"dim": 60}, "no heads of 60 in the library"),
        ({"sequences": 9}, "288 MiB to gather, at most 256"),
        ({"library": None}, "this torch takes no lengths from the device"),
    ],
    ids=["fits", "device", "cap", "few", "type", "head", "memory", "torch"],
)
def test_when_the_library_is_used(
    changed: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "device": "cuda", "softcap": None, "max_query": 64, "dtype": F16, "dim": 128,
        "sequences": 8, "library": library,
    } | changed  # fmt: skip
    monkeypatch.setattr(module, "_varlen_attn", lambda: given["library"])

    class OnDevice:
        """Stands in for a tensor of a GPU; only its description is read."""

        device = torch.device(given["device"])
        dtype = given["dtype"]

        @staticmethod
        def element_size() -> int:
            return 2

    cache = PagedCache.allocate(1, 16, 8, given["dim"], dtype=F16)
    q: Any = OnDevice()
    found = obstacle(q, cache, given["sequences"], given["max_query"], 8192, given["softcap"])
    assert found == reason


def test_the_torch_of_this_environment_has_what_the_library_path_needs() -> None:
    assert module._varlen_attn() is not None


def test_arguments_are_checked_as_for_decoding() -> None:
    given = replace(Case(), contexts=(3,)).tensors() | {"window": None, "softcap": None}
    with pytest.raises(KernelArgumentError, match="max_query, max_context"):
        paged_prefill(cache=cache_of(given), **given | {"max_query": 0})
