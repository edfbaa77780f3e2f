"""Attention with heads of keys and values in the cache.

Why it exists: projections, norms of heads, rotation, the write into the cache and the product over
it, for every family but latent attention. One product gives queries, keys and values, because at
one token a step the number of calls counts more than their size.
"""

from __future__ import annotations

import torch
from torch import nn

from deepseek_engine.generation.config import DecoderConfig
from deepseek_engine.generation.decoder.build import Builder
from deepseek_engine.generation.decoder.cache import LayerCache
from deepseek_engine.generation.decoder.kernels import Kernels
from deepseek_engine.generation.decoder.norms import RmsNorm
from deepseek_engine.generation.decoder.paged import attend
from deepseek_engine.generation.decoder.rope import rotate
from deepseek_engine.generation.decoder.step import Step

__all__ = ["Attention"]


class Attention(nn.Module):
    """Self attention of one layer."""

    def __init__(self, config: DecoderConfig, index: int, build: Builder) -> None:
        """Read the layer's tensors."""
        super().__init__()
        names, size = build.names, config.head_dim
        self.heads, self.kv_heads = build.plan.heads.count, build.plan.heads.kv_count
        self.size = size
        self.scale, self.window = config.attention_scale, config.windows[index]
        self.rope = config.rope_of(index)
        sizes = [config.heads * size, config.kv_heads * size, config.kv_heads * size]
        qkv = [build.layer(index, name) for name in names.qkv]
        self.qkv = build.columns(
            qkv,
            sizes if len(qkv) == len(sizes) else [sum(sizes)],
            config.width,
            bias=config.qkv_bias,
            fused=[build.layer(index, name) for name in names.fused_qkv],
        )
        self.out = build.rows(
            build.layer(index, names.out),
            config.width,
            config.heads * size,
            bias=config.out_bias,
        )
        self.norm = self._head_norm(config, index, build) if config.head_norms else None

    def _head_norm(self, config: DecoderConfig, index: int, build: Builder) -> RmsNorm:
        """Norms of query and key heads as one: a row of weights for each head."""
        query, key = (
            build.vector(f"{build.layer(index, name)}.weight", self.size)
            for name in build.names.head_norms
        )
        rows = torch.cat((query.expand(self.heads, -1), key.expand(self.kv_heads, -1)))
        return RmsNorm(rows, config.norm_eps, unit_offset=config.norm == "rms_unit_offset")

    def forward(self, x: torch.Tensor, step: Step, cache: LayerCache) -> torch.Tensor:
        """From tokens ``[T, width]`` to what they add to themselves, ``[T, width]``."""
        rows = self.qkv(x).view(len(x), -1, self.size)
        if step.kernels is not None:
            found = self._by_kernels(step.kernels, rows, step, cache)
        else:
            found = self._by_torch(rows, step, cache)
        added: torch.Tensor = self.out(found.reshape(len(x), -1))
        return added

    def _by_torch(self, rows: torch.Tensor, step: Step, cache: LayerCache) -> torch.Tensor:
        turned = rows[:, : self.heads + self.kv_heads]
        if self.norm is not None:
            turned = self.norm(turned)
        if self.rope is not None:
            turned = rotate(turned, *step.turns[self.rope], interleaved=self.rope.interleaved)
        queries, keys = turned[:, : self.heads], turned[:, self.heads :]
        step.write(cache, keys, rows[:, self.heads + self.kv_heads :])
        return attend(queries, cache, step.plan, scale=self.scale, window=self.window)

    def _by_kernels(
        self, kernels: Kernels, rows: torch.Tensor, step: Step, cache: LayerCache
    ) -> torch.Tensor:
        queries = kernels.turn_and_write(
            rows,
            (self.heads, self.kv_heads),
            cache,
            step.inputs,
            rope=self.rope,
            turns=None if self.rope is None else step.turns[self.rope],
            numbers=step.numbers,
            norm=self.norm,
        )
        return kernels.attend(queries, cache, step.inputs, scale=self.scale, window=self.window)
