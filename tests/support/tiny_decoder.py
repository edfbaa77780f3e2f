"""A decoder so small that thousands of its steps take a second, and that really attends.

Keys and values are read through block tables from a cache that holds NaN where nothing was written:
a wrong block, a missing one or one that somebody else overwrote changes tokens or ends in scores
that are not numbers. It computes in double precision, so that how a batch is composed does not
change which token is the likeliest. `ScriptedDecoder` computes nothing and is for many sequences.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from deepseek_engine.generation.steps import KVCache, ModelLimits, StepInputs

VOCABULARY = 61
END = 60


class TinyCache:
    """[layers, keys and values, blocks, block size, width]."""

    def __init__(self, layers: int, blocks: int, block_size: int, width: int) -> None:
        self.content = torch.full(
            (layers, 2, blocks, block_size, width), torch.nan, dtype=torch.float64
        )

    @property
    def blocks(self) -> int:
        return self.content.shape[2]

    @property
    def block_size(self) -> int:
        return self.content.shape[3]


class TinyDecoder:
    """Two layers of one attention head each, random weights."""

    layers = 2
    width = 16

    def __init__(
        self,
        *,
        seed: int = 0,
        vocabulary: int = VOCABULARY,
        context: int = 256,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        draw = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        self._limits = ModelLimits(vocabulary=vocabulary, context=context, end_tokens=ends)
        self._tokens = random(vocabulary, self.width)
        self._positions = random(context, self.width)
        self._weights = [
            {name: random(self.width, self.width) / 3 for name in "qkvo"}
            for _ in range(self.layers)
        ]
        self._head = random(self.width, vocabulary)
        self.steps = 0
        self.after: Callable[[StepInputs, torch.Tensor], torch.Tensor] | None = None
        """May change the scores of a step."""

    @property
    def limits(self) -> ModelLimits:
        return self._limits

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def bytes_per_block(self, block_size: int) -> int:
        return self.layers * 2 * block_size * self.width * 8

    def make_cache(self, blocks: int, block_size: int) -> TinyCache:
        return TinyCache(self.layers, blocks, block_size, self.width)

    def forward(self, inputs: StepInputs, cache: KVCache) -> torch.Tensor:
        assert isinstance(cache, TinyCache)
        self.steps += 1
        hidden = self._tokens[inputs.tokens] + self._positions[inputs.positions]
        for layer, weights in enumerate(self._weights):
            flat = cache.content[layer].view(2, -1, self.width)
            written = inputs.slots >= 0
            for place, name in enumerate("kv"):
                flat[place, inputs.slots[written]] = (hidden @ weights[name])[written]
            mixed = _attend(inputs, hidden @ weights["q"], flat, cache.block_size)
            hidden = hidden + mixed @ weights["o"]
            hidden = hidden / hidden.norm(dim=1, keepdim=True) * 4
        scores = (hidden[inputs.logits_rows] @ self._head).float()
        return scores if self.after is None else self.after(inputs, scores)


def _attend(
    inputs: StepInputs, queries: torch.Tensor, flat: torch.Tensor, size: int
) -> torch.Tensor:
    out = torch.empty_like(queries)
    for s in range(len(inputs.context_lengths)):
        first, last = int(inputs.query_starts[s]), int(inputs.query_starts[s + 1])
        places = torch.arange(int(inputs.context_lengths[s]))
        slots = inputs.block_tables[s].long()[places // size] * size + places % size
        keys, values = flat[0, slots], flat[1, slots]
        weights = queries[first:last] @ keys.T
        future = places[None, :] > inputs.positions[first:last, None]
        out[first:last] = weights.masked_fill(future, -torch.inf).softmax(dim=1) @ values
    return out


class ScriptedDecoder:
    """Scores are a hash of token and position; for scale, where nothing needs to attend."""

    def __init__(self, *, vocabulary: int = 32, context: int = 128) -> None:
        self._limits = ModelLimits(vocabulary=vocabulary, context=context, end_tokens=frozenset())

    @property
    def limits(self) -> ModelLimits:
        return self._limits

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def bytes_per_block(self, block_size: int) -> int:
        return block_size

    def make_cache(self, blocks: int, block_size: int) -> TinyCache:
        return TinyCache(1, blocks, block_size, 1)

    def forward(self, inputs: StepInputs, cache: KVCache) -> torch.Tensor:
        rows = inputs.logits_rows
        likeliest = (inputs.tokens[rows] * 7 + inputs.positions[rows] * 3) % self._limits.vocabulary
        return torch.nn.functional.one_hot(likeliest, self._limits.vocabulary).float()
