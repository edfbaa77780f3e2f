"""Sequences in a paged cache, as attention gets them, and what it must give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from deepseek_kernels.ops.paged_cache import PagedCache


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Case:
    """One call: contexts and queries by sequence."""

    contexts: tuple[int, ...] = (5, 17, 1)
    queries: tuple[int, ...] = ()
    """One each by default."""
    kv_heads: int = 2
    group: int = 2
    dim: int = 16
    block_size: int = 4
    window: int = 0
    softcap: float = 0.0
    dtype: torch.dtype = torch.float16
    cache: torch.dtype | None = None
    """The type of the queries by default."""
    parts: int = 1

    def __str__(self) -> str:
        changed = {k: v for k, v in vars(self).items() if v != getattr(Case, k)}
        return ", ".join(f"{k} {v}".replace("torch.", "") for k, v in changed.items()) or "usual"

    @property
    def counts(self) -> tuple[int, ...]:
        return self.queries or (1,) * len(self.contexts)

    def tensors(self) -> dict[str, Any]:
        """Arguments; blocks are shuffled, and places of no sequence hold what is not finite."""
        each = [-(-length // self.block_size) for length in self.contexts]
        blocks = sum(each) + 2
        cache = PagedCache.allocate(
            blocks, self.block_size, self.kv_heads, self.dim, dtype=self.cache or self.dtype,
            key_scale=0.02, value_scale=0.01,
        )  # fmt: skip
        order = torch.randperm(blocks, generator=torch.Generator().manual_seed(3)).tolist()
        tables = torch.zeros(len(each), max([*each, 1]) + 1, dtype=torch.int32)
        slots, unused = [], set(range(blocks * self.block_size))
        for s, length in enumerate(self.contexts):
            mine = [order.pop() for _ in range(each[s])]
            tables[s, : each[s]] = torch.tensor(mine, dtype=torch.int32)
            slots += [mine[p // self.block_size] * self.block_size + p % self.block_size
                      for p in range(length)]  # fmt: skip
        shape = (len(slots), self.kv_heads, self.dim)
        cache.write(numbers(*shape, seed=1), numbers(*shape, seed=2), torch.tensor(slots).long())
        rest = sorted(unused - set(slots))
        bad = torch.full((len(rest), *shape[1:]), float("nan"))
        cache.write(bad, bad, torch.tensor(rest).long())
        starts = [0]
        for count in self.counts:
            starts.append(starts[-1] + count)
        heads = self.kv_heads * self.group
        return {
            "q": numbers(starts[-1], heads, self.dim, seed=4).to(self.dtype),
            "keys": cache.keys, "values": cache.values,
            "key_scale": cache.key_scale, "value_scale": cache.value_scale,
            "block_tables": tables,
            "query_starts": torch.tensor(starts, dtype=torch.int32),
            "context_lengths": torch.tensor(self.contexts, dtype=torch.int32),
            "max_query": max(self.counts), "max_context": max(self.contexts),
            "scale": self.dim**-0.5, "window": self.window, "softcap": self.softcap,
        }  # fmt: skip

    def expected(self) -> torch.Tensor:
        """Row by row and head by head in float64, with torch's own softmax."""
        given = self.tensors()
        cache = PagedCache(given["keys"], given["values"], given["key_scale"], given["value_scale"])
        out = torch.zeros(given["q"].shape, dtype=torch.float64)
        t = 0
        for s, (length, count) in enumerate(zip(self.contexts, self.counts, strict=True)):
            blocks = given["block_tables"][s]
            keys, values = (p.flatten(0, 1) for p in cache.gather(blocks, torch.float64))
            for position in range(length - count, length):
                first = max(0, position - self.window + 1) if self.window else 0
                for head in range(given["q"].shape[1]):
                    seen = (slice(first, position + 1), head // self.group)
                    score = keys[seen] @ given["q"][t, head].double() * given["scale"]
                    if self.softcap:
                        score = self.softcap * (score / self.softcap).tanh()
                    out[t, head] = score.softmax(0) @ values[seen]
                t += 1
        return out
