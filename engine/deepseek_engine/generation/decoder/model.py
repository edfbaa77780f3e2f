"""The whole decoder: tokens and a cache in, scores of the next tokens out.

Why it exists: it keeps the contract of `deepseek_engine.generation.steps` for all configurations.
`embed`, `run` and `score` are the places where a pipeline of several devices is cut. It schedules
nothing, samples nothing and keeps no state between steps but the cache that it is given.
"""

from __future__ import annotations

import torch
from torch import nn

from deepseek_engine.generation.config import DecoderConfig, Rope
from deepseek_engine.generation.decoder.adapted import Selection
from deepseek_engine.generation.decoder.attention import Attention
from deepseek_engine.generation.decoder.build import Builder
from deepseek_engine.generation.decoder.cache import LayerCache, PagedKVCache, bytes_per_position
from deepseek_engine.generation.decoder.experts import MixtureLayer
from deepseek_engine.generation.decoder.feed_forward import FeedForward
from deepseek_engine.generation.decoder.kernels import find_kernels
from deepseek_engine.generation.decoder.latent import LatentAttention
from deepseek_engine.generation.decoder.places import Places
from deepseek_engine.generation.decoder.plan import StepPlan
from deepseek_engine.generation.decoder.rope import frequencies, tables
from deepseek_engine.generation.decoder.step import Step
from deepseek_engine.generation.steps import KVCache, ModelLimits, StepInputs

__all__ = ["Decoder", "Layer"]


class Layer(nn.Module):
    """Attention and feed-forward, each added to what came in."""

    def __init__(self, config: DecoderConfig, index: int, build: Builder) -> None:
        """Read the layer's tensors."""
        super().__init__()
        names = build.names
        self.before_attention = build.norm(build.layer(index, names.before_attention))
        kind = Attention if config.latent is None else LatentAttention
        self.attention = kind(config, index, build)
        self.before_mlp = build.norm(build.layer(index, names.before_mlp))
        mlp = build.layer(index, names.mlp)
        mixed = config.experts is not None and index >= config.experts.first
        self.mlp = (
            MixtureLayer(config, build, mlp)
            if mixed
            else FeedForward(config, build, mlp, config.ffn)
        )
        self.after_attention = self.after_mlp = None
        if config.sandwich:
            self.after_attention = build.norm(build.layer(index, names.after_attention))
            self.after_mlp = build.norm(build.layer(index, names.after_mlp))

    def forward(self, x: torch.Tensor, step: Step, cache: LayerCache) -> torch.Tensor:
        """From ``[T, width]`` to ``[T, width]``."""
        added = self.attention(self.before_attention(x), step, cache)
        x = x + (added if self.after_attention is None else self.after_attention(added))
        added = self.mlp(self.before_mlp(x))
        x = x + (added if self.after_mlp is None else self.after_mlp(added))
        return x


class Decoder(nn.Module):
    """A `DecoderModel`; `deepseek_engine.generation.weights.load_decoder` makes one."""

    def __init__(self, config: DecoderConfig, build: Builder, *, cache_dtype: torch.dtype) -> None:
        """Read this rank's tensors; ``cache_dtype`` is how keys and values are stored."""
        super().__init__()
        self.config = config
        self.cache_dtype = cache_dtype
        self._device, self._dtype = build.device, build.dtype
        self.kernels = find_kernels(config, build.device, build.dtype, cache_dtype)
        """What computes attention on a GPU."""
        self.places: Places = build.places
        """Where the hub's layers lie, for adapters."""
        self.selection: Selection | None = None
        """Which adapters the running step uses; None: none are loaded."""
        context = build.context
        first, last = context.first_stage, context.last_stage
        # The last stage needs the embedding's weight too if its head shares it.
        made = build.embedding() if first or (last and config.tied) else None
        self.embedding = made[0] if made is not None and first else None
        self.positions = build.positions() if first and config.learned_positions else None
        # In the model's type, as it was trained: 16 bits round this factor.
        self._scale = torch.tensor(config.embedding_scale, dtype=build.dtype, device=build.device)
        self.layers = nn.ModuleList(Layer(config, i, build) for i in build.plan.layers)
        self.norm = self.head = None
        if last:
            self.norm = build.norm(f"{build.prefix}{build.names.final_norm}")
            self.head = build.head(made[1] if made is not None and config.tied else None)
        ropes = {config.rope_of(index) for index in build.plan.layers}
        rotated = config.latent.rope_dim if config.latent else config.head_dim
        self._frequencies: dict[Rope, torch.Tensor] = {
            rope: frequencies(rope, rotated).to(build.device) for rope in ropes if rope is not None
        }
        self._cached = (1 if config.latent else build.plan.heads.kv_count, config.cached_dims)

    @property
    def limits(self) -> ModelLimits:
        """What a scheduler must know."""
        config = self.config
        return ModelLimits(
            vocabulary=config.vocabulary, context=config.context, end_tokens=config.end_tokens
        )

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def width(self) -> int:
        """Numbers of a token's vector between layers."""
        return self.config.width

    @property
    def dtype(self) -> torch.dtype:
        """Of vectors between layers."""
        return self._dtype

    def bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of the cache takes, all layers together."""
        each = bytes_per_position(*self._cached, self.cache_dtype)
        return len(self.layers) * block_size * each

    def make_cache(self, blocks: int, block_size: int) -> PagedKVCache:
        """An empty cache."""
        return PagedKVCache(
            len(self.layers),
            blocks,
            block_size,
            *self._cached,
            dtype=self.cache_dtype,
            device=self._device,
        )

    @torch.no_grad()
    def forward(self, inputs: StepInputs, cache: KVCache) -> torch.Tensor:
        """Compute one step: scores fp32 ``[R, vocabulary]`` of ``inputs.logits_rows``."""
        assert isinstance(cache, PagedKVCache)  # what make_cache gives
        x = self.embed(inputs)
        return self.score(self.run(x, inputs, cache), inputs)

    def embed(self, inputs: StepInputs) -> torch.Tensor:
        """Vectors ``[T, width]`` of tokens; on the first stage."""
        assert self.embedding is not None  # on other stages nobody asks
        x: torch.Tensor = self.embedding(inputs.tokens)
        if self.config.embedding_scale != 1.0:
            x = x * self._scale
        if self.positions is not None:
            x = x + self.positions(inputs.positions)
        return x

    def run(self, x: torch.Tensor, inputs: StepInputs, cache: PagedKVCache) -> torch.Tensor:
        """This stage's layers, from ``[T, width]`` to ``[T, width]``."""
        if self.selection is not None:
            self.selection.choose(inputs.adapters)
        step = self._step(inputs, cache)
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            x = layer(x, step, kept)
        return x

    def score(self, x: torch.Tensor, inputs: StepInputs) -> torch.Tensor:
        """Scores of the wanted rows; on the last stage."""
        assert self.norm is not None  # on other stages nobody asks
        assert self.head is not None  # the same
        found: torch.Tensor = self.head(self.norm(x[inputs.logits_rows])).float()
        cap = self.config.score_cap
        return torch.tanh(found / cap) * cap if cap else found

    def _step(self, inputs: StepInputs, cache: PagedKVCache) -> Step:
        turns = {}
        for rope, frequency in self._frequencies.items():
            cos, sin = tables(frequency, inputs.positions, rope.amplitude)
            kept = torch.float32 if self.kernels is not None else self._dtype
            turns[rope] = cos.to(kept), sin.to(kept)
        plan = None
        if self.kernels is None:
            plan = StepPlan.of(inputs, block_size=cache.block_size, blocks=cache.blocks)
        numbers = torch.arange(len(inputs.tokens), device=inputs.tokens.device)
        return Step(inputs, turns, self.kernels, numbers, plan)
