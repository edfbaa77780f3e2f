"""Cases of what stands between the products of a decoder's step: K7 and the rest of K8.

The model is one layer of Llama-3-8B: 32 query heads on 8 heads of keys of 128, blocks of 16.
Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from deepseek_kernels.ops.add_norm import add_norm
from deepseek_kernels.ops.gated import gated
from deepseek_kernels.ops.paged_attention import paged_decode, reference
from deepseek_kernels.ops.paged_cache import PagedCache
from deepseek_kernels.ops.rope_kv_write import rope_and_write

from benchmarks.gpu import elementwise
from benchmarks.gpu import inputs as inputs_of
from benchmarks.gpu.goals import BF16_CACHE, COPY, SDPA
from benchmarks.gpu.inputs import Subjects, random
from benchmarks.gpu.peers import find
from benchmarks.gpu.running import AGAIN, OWN, Case

__all__ = ["attention", "fused"]

HEADS, KV_HEADS, DIM, BLOCK = 32, 8, 128, 16
MANY = ((16, 4096), (16, 16384), (32, 8192), (64, 4096))
"""Sequences and context where decoding reads more than launches cost."""
FEW = ((1, 1024), (1, 16384), (4, 4096))
TOKENS = (64, 2048, 8192)
CACHES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn, "int8": torch.int8}


@dataclass(frozen=True, slots=True)
class Paged:
    """One copy of the inputs of attention."""

    q: torch.Tensor
    caches: dict[str, PagedCache]
    keys: torch.Tensor
    """``[sequences, KV_HEADS, context, DIM]``, as torch's attention takes them."""
    values: torch.Tensor
    places: dict[str, Any]

    def own(self, cache: str) -> torch.Tensor:
        """Our kernel over one of the caches."""
        return paged_decode(self.q, self.caches[cache], **self.places)

    def contiguous(self) -> torch.Tensor:
        """Torch's attention without pages."""
        q = self.q[:, :, None]
        found = F.scaled_dot_product_attention(q, self.keys, self.values, enable_gqa=True)
        return found[:, :, 0]


def attention() -> Iterator[Case]:
    """K7: one token of each sequence over bf16, fp8 and int8 caches."""
    for name, shapes in (("many sequences", MANY), ("few sequences", FEW)):
        for sequences, context in shapes:
            for cache in CACHES if shapes == MANY else ("bf16",):
                yield _attention(name, sequences, context, cache)


def _attention(name: str, sequences: int, context: int, cache: str) -> Case:
    each = 1 if cache != "bf16" else 2
    moved = 2 * sequences * context * KV_HEADS * DIM * each
    if cache == "int8":
        moved += 2 * sequences * context * KV_HEADS * 4
    subjects = Subjects(moved)
    inputs = [_paged(sequences, context, {"bf16", cache}, i) for i in range(subjects.copies)]
    first = inputs[0]
    subjects.wanted = reference(
        first.q, *first.caches[cache].tensors, **first.places,
        scale=DIM**-0.5, window=0, softcap=0.0,
    )  # fmt: skip
    subjects.add(OWN, lambda i: lambda: inputs[i].own(cache), limit=1e-2)
    subjects.add(AGAIN, lambda i: lambda: inputs[i].own(cache))
    if cache == "bf16":
        subjects.add(SDPA, lambda i: inputs[i].contiguous, limit=1e-2)
    else:
        subjects.add(BF16_CACHE, lambda i: lambda: inputs[i].own("bf16"))
    # A copy reads and writes each byte, so that half of the bytes move as many.
    sources = [torch.empty(moved // 2, dtype=torch.uint8, device=inputs_of.DEVICE) for _ in inputs]
    targets = [torch.empty_like(source) for source in sources]
    subjects.add(COPY, lambda i: lambda: targets[i].copy_(sources[i]))
    return Case(f"{name}, {cache} cache", f"{sequences} x {context}", subjects.calls, moved, "TB/s",
                skipped=subjects.skipped)  # fmt: skip


def _paged(sequences: int, context: int, caches: set[str], seed: int) -> Paged:
    device, blocks = inputs_of.DEVICE, -(-context // BLOCK)
    shape = (sequences, KV_HEADS, context, DIM)
    keys, values = (random(*shape, seed=2 * seed + n, dtype=torch.bfloat16) for n in range(2))
    order = torch.randperm(sequences * blocks, generator=torch.Generator().manual_seed(seed))
    tables = order.view(sequences, blocks).to(device, torch.int32)
    at = torch.arange(context, device=device)
    slots = (tables[:, at // BLOCK].long() * BLOCK + at % BLOCK).flatten()
    made = {}
    for name in sorted(caches):
        made[name] = PagedCache.allocate(
            sequences * blocks, BLOCK, KV_HEADS, DIM, dtype=CACHES[name], device=device,
            key_scale=0.02, value_scale=0.02,
        )  # fmt: skip
        made[name].write(_rows(keys), _rows(values), slots)
    places = {
        "block_tables": tables,
        "query_starts": torch.arange(sequences + 1, dtype=torch.int32, device=device),
        "context_lengths": torch.full((sequences,), context, dtype=torch.int32, device=device),
        "max_query": 1,
        "max_context": context,
    }
    q = random(sequences, HEADS, DIM, seed=900 + seed, dtype=torch.bfloat16)
    return Paged(q, made, keys, values, places)


def _rows(part: torch.Tensor) -> torch.Tensor:
    return part.transpose(1, 2).reshape(-1, KV_HEADS, DIM).float()


def fused() -> Iterator[Case]:
    """K8: what quantizes, and then what does not."""
    yield from elementwise.quantizing()
    for tokens in TOKENS:
        yield _rope(tokens)
    for rows in elementwise.ROWS:
        for width in elementwise.WIDTHS:
            yield _add_norm(rows, width)
            yield _gated(rows, width)


@dataclass(frozen=True, slots=True)
class Step:
    """One copy of the inputs of RoPE."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    cache: PagedCache
    positions: torch.Tensor
    slots: torch.Tensor


def _rope(tokens: int) -> Case:
    moved = 2 * 2 * tokens * (HEADS + 2 * KV_HEADS) * DIM
    subjects, device = Subjects(moved), inputs_of.DEVICE
    rates = 10000.0 ** -(torch.arange(0, DIM, 2, device=device) / DIM)
    angles = torch.arange(8192, device=device)[:, None] * rates
    cos, sin = angles.cos(), angles.sin()
    inputs = [_step(tokens, i) for i in range(subjects.copies)]

    def eager(step: Step) -> Any:
        c, s = (t[step.positions][:, None].to(torch.bfloat16) for t in (cos, sin))
        turned = []
        for x in (step.q, step.k):
            a, b = x.chunk(2, -1)
            turned.append(torch.cat((a * c - b * s, b * c + a * s), -1))
        step.cache.keys.view(-1, KV_HEADS, DIM)[step.slots] = turned[1]
        step.cache.values.view(-1, KV_HEADS, DIM)[step.slots] = step.v
        return turned[0], step

    def own(step: Step) -> Any:
        found = rope_and_write(
            step.q, step.k, step.v, step.cache, positions=step.positions, slots=step.slots,
            cos=cos, sin=sin,
        )  # fmt: skip
        return found, step

    def back(pair: Any) -> torch.Tensor:
        rows, step = pair
        both = (step.cache.keys, step.cache.values)
        stored = (part.view(-1, KV_HEADS, DIM)[step.slots] for part in both)
        return torch.cat((rows.flatten(), *(part.flatten() for part in stored))).float()

    subjects.wanted = back(eager(inputs[0]))
    for part in (inputs[0].cache.keys, inputs[0].cache.values):
        part.zero_()
    elementwise.fill(subjects, inputs, own, eager, moved, back)
    liger, module = find("liger_kernel.ops.rope", distribution="liger-kernel")

    def liger_rope(i: int) -> Any:
        step = inputs[i]
        # Rotates in place, by tables of the whole width.
        q, k = (x.clone().transpose(0, 1)[None] for x in (step.q, step.k))
        c, s = (torch.cat((t, t), -1)[step.positions][None] for t in (cos, sin))

        def call() -> Any:
            turned = module.LigerRopeFunction.apply(q, k, c, s)
            step.cache.keys.view(-1, KV_HEADS, DIM)[step.slots] = turned[1][0].transpose(0, 1)
            step.cache.values.view(-1, KV_HEADS, DIM)[step.slots] = step.v
            return turned[0]

        return call

    subjects.add_peer("liger and eager write", liger, liger_rope)
    return Case("RoPE and write", f"{tokens} tokens", subjects.calls, moved, "TB/s",
                skipped=subjects.skipped)  # fmt: skip


def _step(tokens: int, seed: int) -> Step:
    device = inputs_of.DEVICE
    q, k, v = (
        random(tokens, heads, DIM, seed=3 * seed + n, dtype=torch.bfloat16)
        for n, heads in enumerate((HEADS, KV_HEADS, KV_HEADS))
    )
    blocks = -(-tokens // BLOCK)
    cache = PagedCache.allocate(blocks, BLOCK, KV_HEADS, DIM, dtype=torch.bfloat16, device=device)
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randperm(blocks * BLOCK, generator=generator)[:tokens].to(device)
    positions = torch.randint(0, 8192, (tokens,), generator=generator).to(device)
    return Step(q, k, v, cache, positions, slots)


def _add_norm(rows: int, width: int) -> Case:
    moved = rows * width * 8
    subjects = Subjects(moved)
    inputs = _pairs(rows, width, subjects.copies)
    weight = random(width, seed=99, dtype=torch.bfloat16)

    def eager(pair: Any) -> Any:
        total = pair[0] + pair[1]
        return F.rms_norm(total, (width,), weight, 1e-5), total

    def own(pair: Any) -> Any:
        return add_norm(pair[0], pair[1], weight, eps=1e-5)

    subjects.wanted = eager(inputs[0])[0].float()
    elementwise.fill(subjects, inputs, own, eager, moved, lambda pair: pair[0].float())
    return Case("residual and norm", f"{rows} x {width}", subjects.calls, moved, "TB/s",
                skipped=subjects.skipped)  # fmt: skip


def _gated(rows: int, width: int) -> Case:
    moved = rows * width * 6
    subjects = Subjects(moved)
    inputs = _pairs(rows, width, subjects.copies)

    def eager(pair: Any) -> Any:
        return F.silu(pair[0]) * pair[1]

    subjects.wanted = eager(inputs[0]).float()
    elementwise.fill(
        subjects, inputs, lambda pair: gated(*pair), eager, moved, lambda found: found.float()
    )
    liger, module = find("liger_kernel.ops.swiglu", distribution="liger-kernel")
    subjects.add_peer(
        "liger", liger, lambda i: lambda: module.LigerSiLUMulFunction.apply(*inputs[i]), limit=2e-2
    )
    return Case("SiLU-mul", f"{rows} x {width}", subjects.calls, moved, "TB/s",
                skipped=subjects.skipped)  # fmt: skip


def _pairs(rows: int, width: int, copies: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (random(rows, width, seed=i, dtype=torch.bfloat16),
         random(rows, width, seed=500 + i, dtype=torch.bfloat16))
        for i in range(copies)
    ]  # fmt: skip
