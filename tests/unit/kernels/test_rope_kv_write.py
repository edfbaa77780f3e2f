"""Rotated queries, and keys and values in the paged cache, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import rope_kv_write as module
from deepseek_kernels.ops.paged_cache import PagedCache
from deepseek_kernels.ops.rope_kv_write import launch, reference, rope_and_write
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kernels import assert_near

F16, F32, INT8, FP8 = torch.float16, torch.float32, torch.int8, torch.float8_e4m3fn
both = pytest.mark.parametrize("run", [reference, launch], ids=["reference", "kernel"])
LIMITS = {F16: 1e-3, F32: 1e-5, INT8: 2e-2, FP8: 4e-2}
"""Largest relative error of what is read back from a cache."""


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = F32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tables(positions: int, rotary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine as in RoFormer (Su et al., 2021)."""
    rates = 10000.0 ** -(torch.arange(0, rotary, 2).double() / rotary)
    angles = torch.arange(positions).double()[:, None] * rates
    return angles.cos().float(), angles.sin().float()


@dataclass(frozen=True)
class Case:
    """One call."""

    tokens: int = 5
    heads: int = 4
    kv_heads: int = 2
    dim: int = 16
    rotary: int = 16
    block_size: int = 4
    interleaved: bool = False
    norm: bool = False
    unit_offset: bool = False
    dtype: torch.dtype = F16
    cache: torch.dtype = F16

    def __str__(self) -> str:
        changed = {k: v for k, v in vars(self).items() if v != getattr(Case, k)}
        return ", ".join(f"{k} {v}".replace("torch.", "") for k, v in changed.items()) or "usual"

    def rows(self, heads: int, seed: int) -> torch.Tensor:
        return numbers(self.tokens, heads, self.dim, seed=seed, dtype=self.dtype)

    def empty(self) -> PagedCache:
        blocks = -(-self.tokens // self.block_size) + 2
        return PagedCache.allocate(
            blocks, self.block_size, self.kv_heads, self.dim, dtype=self.cache,
            key_scale=0.02, value_scale=0.01,
        )  # fmt: skip

    def arguments(self, cache: PagedCache) -> dict[str, Any]:
        """Of ``launch`` and ``reference``; slots and positions are shuffled."""
        generator = torch.Generator().manual_seed(7)
        cos, sin = tables(50, self.rotary) if self.rotary else (None, None)
        room = cache.blocks * cache.block_size
        norms = [numbers(self.dim, seed=s) if self.norm else None for s in (8, 9)]
        return {
            "q": self.rows(self.heads, 1), "k": self.rows(self.kv_heads, 2),
            "v": self.rows(self.kv_heads, 3),
            "keys": cache.keys, "values": cache.values,
            "key_scale": cache.key_scale, "value_scale": cache.value_scale,
            "positions": torch.randint(0, 50, (self.tokens,), generator=generator),
            "slots": torch.randperm(room, generator=generator)[: self.tokens],
            "cos": cos, "sin": sin, "query_norm": norms[0], "key_norm": norms[1],
            "interleaved": self.interleaved, "eps": 1e-6, "unit_offset": self.unit_offset,
        }  # fmt: skip

    def expected(
        self, x: torch.Tensor, weight: torch.Tensor | None, positions: torch.Tensor
    ) -> torch.Tensor:
        """Rotated in float64, as a product of complex numbers."""
        wide = x.double()
        if weight is not None:
            wide = torch.nn.functional.rms_norm(wide, wide.shape[-1:], None, 1e-6)
            wide = wide * (weight.double() + (1 if self.unit_offset else 0))
        if not self.rotary:
            return wide
        turned, rest = wide[..., : self.rotary], wide[..., self.rotary :]
        half = self.rotary // 2
        pairs = (
            turned.reshape(*turned.shape[:-1], half, 2)
            if self.interleaved
            else turned.reshape(*turned.shape[:-1], 2, half).transpose(-1, -2)
        )
        rates = 10000.0 ** -(torch.arange(0, self.rotary, 2).double() / self.rotary)
        angle = torch.polar(torch.ones(()).double(), positions[:, None].double() * rates)[:, None]
        pairs = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * angle)
        joint = pairs.flatten(-2) if self.interleaved else pairs.transpose(-1, -2).flatten(-2)
        return torch.cat((joint, rest), -1)


CASES = [
    Case(),
    Case(interleaved=True),
    Case(dim=64, rotary=64, dtype=F32, cache=F32),
    Case(dim=80, rotary=32, heads=9, kv_heads=3, cache=INT8),
    Case(dim=80, rotary=20, interleaved=True, cache=FP8),
    Case(dim=96, rotary=96, norm=True, cache=INT8, dtype=F32),
    Case(dim=128, rotary=64, norm=True, unit_offset=True, heads=33, kv_heads=11),
    Case(dim=256, rotary=256, interleaved=True, norm=True, cache=FP8, tokens=2),
    Case(dim=24, rotary=2, interleaved=True, tokens=1, heads=1, kv_heads=1),
    Case(rotary=0),
    Case(rotary=0, norm=True, block_size=3, tokens=11, cache=INT8),
]


def read(cache: PagedCache, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values at slots, as plain numbers."""
    k, v = cache.gather(torch.arange(cache.blocks), torch.float64)
    return k.flatten(0, 1)[slots], v.flatten(0, 1)[slots]


@pytest.mark.parametrize("case", CASES, ids=str)
@both
def test_it_rotates_and_writes(run: Any, case: Case) -> None:
    cache = case.empty()
    arguments = case.arguments(cache)
    q = run(**arguments)
    at = arguments["positions"]
    assert (q.dtype, q.is_contiguous()) == (case.dtype, True)
    assert_near(q, case.expected(arguments["q"], arguments["query_norm"], at))
    keys, values = read(cache, arguments["slots"])
    assert_near(keys, case.expected(arguments["k"], arguments["key_norm"], at), LIMITS[case.cache])
    assert_near(values, arguments["v"].double(), LIMITS[case.cache])
    untouched = torch.ones(cache.blocks * cache.block_size, dtype=torch.bool)
    untouched[arguments["slots"]] = False
    assert not any(part.any() for part in read(cache, untouched.nonzero()[:, 0]))


@settings(deadline=None, max_examples=12)
@given(
    tokens=st.integers(1, 3),
    kv_heads=st.integers(1, 5),
    group=st.integers(1, 3),
    dim=st.integers(1, 40),
    part=st.floats(0, 1),
    interleaved=st.booleans(),
    norm=st.booleans(),
    cache=st.sampled_from([F16, INT8, FP8]),
)
def test_kernel_and_reference_agree(
    tokens: int, kv_heads: int, group: int, dim: int, part: float, interleaved: bool, norm: bool,
    cache: torch.dtype,
) -> None:  # fmt: skip
    case = Case(
        tokens=tokens, heads=kv_heads * group, kv_heads=kv_heads, dim=dim,
        rotary=int(dim * part) // 2 * 2, interleaved=interleaved, norm=norm, cache=cache,
    )  # fmt: skip
    ours, other = case.empty(), case.empty()
    torch.testing.assert_close(launch(**case.arguments(ours)), reference(**case.arguments(other)))
    slots = case.arguments(ours)["slots"]
    for mine, theirs in zip(read(ours, slots), read(other, slots), strict=True):
        # A number on the border of two stored values may fall to either side.
        step = {F16: 1e-3, INT8: 1 / 100, FP8: 1 / 7}[cache]
        torch.testing.assert_close(mine, theirs, rtol=step, atol=step * 2)
        apart = (mine - theirs).abs() > 1e-4 * theirs.abs() + 1e-4
        assert cache == F16 or int(apart.sum()) <= 1 + mine.numel() // 20


@both
@pytest.mark.parametrize("cache", [F16, INT8, FP8], ids=str)
def test_padding_writes_nothing(run: Any, cache: torch.dtype) -> None:
    case = Case(cache=cache)
    paged = case.empty()
    arguments = case.arguments(paged)
    arguments["slots"][1:] = -1
    before = case.empty()
    run(**arguments)
    rest = torch.ones(paged.blocks * paged.block_size, dtype=torch.bool)
    rest[arguments["slots"][0]] = False
    at = rest.nonzero()[:, 0]
    assert all(map(torch.equal, read(paged, at), read(before, at)))


def test_a_slot_outside_of_the_cache_is_not_written_by_the_kernel() -> None:
    case = Case(tokens=2)
    paged = case.empty()
    guard = paged.keys.new_zeros(paged.keys.numel() * 2)
    inside = guard[: paged.keys.numel()].view_as(paged.keys)
    paged = PagedCache(inside, paged.values)
    arguments = case.arguments(paged)
    arguments["slots"] = torch.tensor([0, paged.blocks * paged.block_size])
    launch(**arguments)
    assert inside.any()
    assert not guard[paged.keys.numel() :].any()


@both
@pytest.mark.parametrize("cache", [F16, INT8, FP8], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_not_finite_stays_with_its_token_and_head(
    run: Any, cache: torch.dtype, bad: float
) -> None:
    case = Case(cache=cache, rotary=0)
    paged = case.empty()
    arguments = case.arguments(paged)
    arguments["k"][1, 0, 3] = bad
    arguments["v"][2, 1, 3] = bad
    run(**arguments)
    keys, values = read(paged, arguments["slots"])
    hit = torch.zeros(case.tokens, case.kv_heads, dtype=torch.bool)
    for rows, (token, head) in ((keys, (1, 0)), (values, (2, 1))):
        hit.zero_()
        hit[token, head] = True
        assert torch.equal(~rows.isfinite().all(-1), hit)


@both
def test_a_position_outside_of_the_tables_gives_nan_for_its_token_only(run: Any) -> None:
    case = Case(cache=INT8, rotary=8)
    paged = case.empty()
    arguments = case.arguments(paged)
    arguments["positions"][3] = 50
    q = run(**arguments)
    assert bool(q[3, :, :8].isnan().all())
    assert bool(q[[0, 1, 2, 4]].isfinite().all())
    assert bool(read(paged, arguments["slots"])[0][3].isnan().all())


@both
def test_fp8_is_cut_at_its_largest(run: Any) -> None:
    case = Case(cache=FP8, rotary=0)
    paged = case.empty()
    arguments = case.arguments(paged)
    arguments["v"][0] = 100.0
    run(**arguments)
    assert torch.allclose(
        read(paged, arguments["slots"])[1][0], torch.tensor(4.48, dtype=torch.float64)
    )


def test_slices_of_one_projection_are_taken_as_they_lie() -> None:
    case = Case(heads=4, kv_heads=2)
    joint = numbers(case.tokens, 8 * case.dim, dtype=F16).view(case.tokens, 8, case.dim)
    slices = dict(zip("qkv", torch.split(joint, [4, 2, 2], 1), strict=True))
    apart = {name: rows.contiguous() for name, rows in slices.items()}
    caches = case.empty(), case.empty()
    found = [
        launch(**case.arguments(cache) | rows)
        for cache, rows in zip(caches, (slices, apart), strict=True)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(caches[0].keys, caches[1].keys)
    assert torch.equal(caches[0].values, caches[1].values)


def call(case: Case, cache: PagedCache, **changed: Any) -> torch.Tensor:
    arguments = case.arguments(cache)
    for name in ("keys", "values", "key_scale", "value_scale"):
        del arguments[name]
    return rope_and_write(cache=cache, **arguments | changed)


def test_the_public_call_is_the_operation() -> None:
    case = Case(norm=True, cache=INT8)
    ours, other = case.empty(), case.empty()
    assert torch.equal(call(case, ours), reference(**case.arguments(other)))
    assert torch.equal(ours.keys, other.keys)
    assert torch.equal(ours.key_scale, other.key_scale)  # type: ignore[arg-type]


def test_without_norm_and_rotation_the_queries_are_given_back() -> None:
    case = Case(rotary=0)
    cache, q = case.empty(), case.rows(4, 1)
    assert call(case, cache, q=q) is q
    assert cache.keys.any()


@both
def test_tables_of_16_bits_are_taken_as_they_are(run: Any) -> None:
    case = Case()
    given = case.arguments(case.empty())
    rounded = {name: given[name].half() for name in ("cos", "sin")}
    wide = {name: table.float() for name, table in rounded.items()}
    assert torch.equal(run(**given | rounded), run(**given | wide))


def test_no_tokens_write_nothing() -> None:
    case = Case(tokens=0)
    assert launch(**case.arguments(case.empty())).shape == (0, 4, 16)


def test_its_schema_says_what_it_changes() -> None:
    case = Case(cache=INT8)
    arguments = case.arguments(case.empty())
    order = torch.ops.deepseek.rope_kv_write.default._schema.arguments
    assert [a.name for a in order if a.alias_info and a.alias_info.is_write] == [
        "keys", "values", "key_scale", "value_scale"
    ]  # fmt: skip
    given = tuple(arguments[argument.name] for argument in order)
    torch.library.opcheck(module._operation, given, test_utils=("test_schema", "test_faketensor"))


USUAL = Case()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": numbers(5, 4, 8, dtype=F16)}, r"q: has the shape \[5, 4, 8\]; give \[5, heads, 16"),
        ({"k": numbers(5, 4, 16, dtype=F16)}, r"k: has the shape .* give \[5, 2, 16\]"),
        ({"v": numbers(5, 2, 16)}, "v: is torch.float32 on cpu; give torch.float16 on cpu"),
        ({"positions": torch.zeros(5)}, r"positions: is torch.float32 \[5\] .* int64 \[5\]"),
        ({"slots": torch.zeros(4).long()}, r"slots: is torch.int64 \[4\] on cpu; give"),
        ({"sin": None}, "cos, sin: one is missing; give both or none"),
        ({"cos": torch.ones(50, 9)}, r"cos: is torch.float32 \[50, 9\] .* rotary at most 16"),
        ({"sin": torch.ones(49, 8)}, r"sin: is torch.float32 \[49, 8\]"),
        ({"key_norm": torch.ones(16)}, "query_norm, key_norm: one is missing"),
        (
            {"query_norm": torch.ones(8), "key_norm": torch.ones(16)},
            r"query_norm: has the shape \[8\]; give \[16\]",
        ),
        ({"slots": torch.full((5,), 16)}, "slots: 16 lies outside of 4 blocks of 4"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call(USUAL, USUAL.empty(), **changed)
