"""A small decoder of the sharded layers alone: what a rank group computes with in tests.

Grouped heads, a paged cache, tied or separate scores, feed-forward or experts; no positions, which
add nothing to what is divided. Its weights lie in a safetensors file under the hub's names.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.decoder_shard import DecoderShard
from deepseek_engine.generation.parallel.layers import (
    MixtureOfExperts,
    RowLinear,
    VocabularyEmbedding,
    VocabularyLogits,
)
from deepseek_engine.generation.parallel.slices import ModelShape, ShardPlan, ShardReader
from deepseek_engine.generation.steps import ModelLimits, StepInputs
from safetensors.torch import save_file
from torch import nn

HEAD = 4
Forward = Callable[[StepInputs], torch.Tensor | None]


@dataclass(frozen=True)
class TinyShape:
    """A model's numbers."""

    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    width: int = 16
    inner: int = 24
    vocabulary: int = 37
    experts: int = 0
    tied: bool = False


def write(folder: Path, shape: TinyShape, *, seed: int = 0) -> dict[str, Any]:
    """Write random weights; gives the arguments of `load`."""
    draws = torch.Generator().manual_seed(seed)

    def weight(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=draws) / math.sqrt(size[-1])

    width, inner = shape.width, shape.inner
    state = {"model.embed_tokens.weight": weight(shape.vocabulary, width) * 4}
    if not shape.tied:
        state["lm_head.weight"] = weight(shape.vocabulary, width)
    for number in range(shape.layers):
        begin = f"model.layers.{number}."
        state |= {
            f"{begin}self_attn.q_proj.weight": weight(shape.heads * HEAD, width),
            f"{begin}self_attn.k_proj.weight": weight(shape.kv_heads * HEAD, width),
            f"{begin}self_attn.v_proj.weight": weight(shape.kv_heads * HEAD, width),
            f"{begin}self_attn.o_proj.weight": weight(width, shape.heads * HEAD),
        }
        names = [f"{begin}mlp."]
        if shape.experts:
            state[f"{begin}mlp.gate.weight"] = weight(shape.experts, width)
            names = [f"{begin}mlp.experts.{expert}." for expert in range(shape.experts)]
        for name in names:
            state[f"{name}up_proj.weight"] = weight(inner, width)
            state[f"{name}down_proj.weight"] = weight(width, inner)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(vars(shape)))
    return {"folder": str(folder), "micro_batches": 2}


def load(
    arguments: Mapping[str, Any], context: ParallelContext, device: torch.device
) -> DecoderShard:
    """The loader of a rank group."""
    if arguments.get("fail_on") == context.rank:
        raise OSError("out of luck")
    model = open_model(Path(arguments["folder"]), context, device)
    return DecoderShard(model, context, micro_batches=arguments["micro_batches"])


def open_model(
    folder: Path, context: ParallelContext, device: torch.device | None = None
) -> TinyDecoder:
    """Read a rank's part."""
    shape = TinyShape(**json.loads((folder / "config.json").read_text()))
    plan = ShardPlan(
        ModelShape(
            layers=shape.layers,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            vocabulary=shape.vocabulary,
            experts=shape.experts,
            tied=shape.tied,
        ),
        context,
    )
    with ShardReader([folder / "model.safetensors"], plan) as reader:
        state = {name: reader.read(name) for name in reader.names()}
    return TinyDecoder(shape, plan, context, state, device or torch.device("cpu"))


def _product(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


class TinyCache:
    """Keys and values of this rank's heads and layers."""

    def __init__(self, layers: int, blocks: int, block_size: int, heads: int) -> None:
        self.blocks, self.block_size = blocks, block_size
        shape = (layers, 2, blocks * block_size, heads, HEAD)
        self.data = torch.full(shape, torch.nan)


class _Layer(nn.Module):
    def __init__(self, model: TinyDecoder, number: int, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        begin, context = f"model.layers.{number}.", model.context
        names = [f"{begin}self_attn.{kind}_proj.weight" for kind in "qkv"]
        self.qkv = _product(torch.cat([state[name] for name in names]))
        self.out = RowLinear(_product(state[f"{begin}self_attn.o_proj.weight"]), context)
        self.plan, self.shape = model.plan, model.shape

        def expert(name: str, *, reduce: bool) -> nn.Sequential:
            down = _product(state[f"{name}down_proj.weight"])
            up = _product(state[f"{name}up_proj.weight"])
            row = RowLinear(down, context, reduce=reduce)
            return nn.Sequential(up, nn.GELU(), row)

        if not self.shape.experts:
            self.mlp: nn.Module = expert(f"{begin}mlp.", reduce=True)
            return
        self.gate = _product(state[f"{begin}mlp.gate.weight"])
        own = [expert(f"{begin}mlp.experts.{n}.", reduce=False) for n in model.plan.experts]
        self.mlp = MixtureOfExperts(nn.ModuleList(own), total=self.shape.experts, context=context)

    def forward(
        self, hidden: torch.Tensor, inputs: StepInputs, kept: torch.Tensor, size: int
    ) -> torch.Tensor:
        hidden = hidden + self.out(self._attend(_norm(hidden), inputs, kept, size))
        normed = _norm(hidden)
        if not self.shape.experts:
            added: torch.Tensor = self.mlp(normed)
        else:
            weights, chosen = self.gate(normed).softmax(-1).topk(2)
            added = self.mlp(normed, chosen, weights)
        return hidden + added

    def _attend(
        self, hidden: torch.Tensor, inputs: StepInputs, kept: torch.Tensor, size: int
    ) -> torch.Tensor:
        heads, kv_heads = self.plan.heads.count, self.plan.heads.kv_count
        fused = self.qkv(hidden).unflatten(-1, (-1, HEAD))
        query, key, value = fused.split((heads, kv_heads, kv_heads), dim=-2)
        kept[0][inputs.slots], kept[1][inputs.slots] = key, value
        answers = []
        for number, length in enumerate(inputs.context_lengths.tolist()):
            first, last = inputs.query_starts[number : number + 2].tolist()
            places = torch.arange(length)
            slots = inputs.block_tables[number].long()[places // size] * size + places % size
            keys, values = (part[slots].repeat_interleave(heads // kv_heads, 1) for part in kept)
            seen = places[None] <= inputs.positions[first:last, None]
            scores = torch.einsum("qhd,khd->hqk", query[first:last], keys) * HEAD**-0.5
            shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            answers.append(torch.einsum("hqk,khd->qhd", shares, values).flatten(1))
        return torch.cat(answers)


class TinyDecoder(nn.Module):
    """A rank's part."""

    def __init__(
        self,
        shape: TinyShape,
        plan: ShardPlan,
        context: ParallelContext,
        state: dict[str, torch.Tensor],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.shape, self.plan, self.context, self.device = shape, plan, context, device
        self.width, self.dtype = shape.width, torch.float32
        self.limits = ModelLimits(
            vocabulary=shape.vocabulary, context=512, end_tokens=frozenset({0})
        )
        self.weight_bytes = sum(tensor.nbytes for tensor in state.values())
        embedding, head = "model.embed_tokens.weight", "lm_head.weight"
        head = embedding if shape.tied else head
        if embedding in state:
            rows = state[embedding]
            self.embedding = VocabularyEmbedding(rows, shape.vocabulary, context)
        self.layers = nn.ModuleList(_Layer(self, number, state) for number in plan.layers)
        if head in state:
            self.head = VocabularyLogits(_product(state[head]), shape.vocabulary, context)

    def bytes_per_block(self, block_size: int) -> int:
        return len(self.layers) * 2 * block_size * self.plan.heads.kv_count * HEAD * 4

    def make_cache(self, blocks: int, block_size: int) -> TinyCache:
        return TinyCache(len(self.layers), blocks, block_size, self.plan.heads.kv_count)

    def embed(self, inputs: StepInputs) -> torch.Tensor:
        vectors: torch.Tensor = self.embedding(inputs.tokens)
        return vectors

    def run(self, hidden: torch.Tensor, inputs: StepInputs, cache: TinyCache) -> torch.Tensor:
        for layer, kept in zip(self.layers, cache.data, strict=True):
            hidden = layer(hidden, inputs, kept, cache.block_size)
        return hidden

    def score(self, hidden: torch.Tensor, inputs: StepInputs) -> torch.Tensor:
        scores: torch.Tensor = self.head(_norm(hidden[inputs.logits_rows]))
        return scores.float()


def _norm(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)


class Sequences:
    """Drives a model as a scheduler would: blocks in mixed order, prompts in chunks."""

    def __init__(self, prompts: list[list[int]], *, blocks: int = 64, block_size: int = 4) -> None:
        self.tokens = [list(prompt) for prompt in prompts]
        self.prompts = [len(prompt) for prompt in prompts]
        self._done = [0] * len(prompts)
        self._size = block_size
        self._free = [number * 7 % blocks for number in range(blocks)]
        self._tables: list[list[int]] = [[] for _ in prompts]

    def generate(self, forward: Forward, count: int, *, chunk: int = 3) -> list[list[int]]:
        """``count`` greedy tokens of each sequence."""
        wanted = [prompt + count for prompt in self.prompts]
        while any(len(t) < w for t, w in zip(self.tokens, wanted, strict=True)):
            inputs, ends = self.step(chunk)
            scores = forward(inputs)
            assert scores is not None
            best = scores.argmax(-1).tolist()
            for number, token in zip(ends, best, strict=True):
                if len(self.tokens[number]) < wanted[number]:
                    self.tokens[number].append(token)
        return [t[p:] for t, p in zip(self.tokens, self.prompts, strict=True)]

    def step(self, chunk: int) -> tuple[StepInputs, list[int]]:
        """The next step, and the sequences whose next token it gives."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        lengths: list[int] = []
        starts, rows, ends = [0], [], []
        for number, text in enumerate(self.tokens):
            first = min(self._done[number], len(text) - 1)
            last = min(first + chunk, len(text))
            table = self._tables[number]
            while len(table) * self._size < last:
                table.append(self._free.pop())
            tokens += text[first:last]
            positions += range(first, last)
            places = range(first, last)
            slots += [table[p // self._size] * self._size + p % self._size for p in places]
            lengths.append(last)
            starts.append(len(tokens))
            self._done[number] = last
            if last == len(text):
                rows.append(len(tokens) - 1)
                ends.append(number)
        width = max(map(len, self._tables))
        tables = [table + [0] * (width - len(table)) for table in self._tables]
        return StepInputs(
            tokens=torch.tensor(tokens),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            query_starts=torch.tensor(starts, dtype=torch.int32),
            context_lengths=torch.tensor(lengths, dtype=torch.int32),
            block_tables=torch.tensor(tables, dtype=torch.int32),
            logits_rows=torch.tensor(rows, dtype=torch.int64),
            max_query=max(b - a for a, b in itertools.pairwise(starts)),
            max_context=max(lengths),
        ), ends
