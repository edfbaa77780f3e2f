"""Latent attention: the cache holds one small vector a token instead of keys and values of heads.

Why it exists: DeepSeek's models compress keys and values (DeepSeek-AI, arXiv:2405.04434). Computed
is the absorbed form: the matrices that would unfold a latent into keys and values of heads are
applied to queries and answers instead, so that nothing is unfolded and the cache is read once for
all heads.
"""

from __future__ import annotations

import torch
from torch import nn

from deepseek_engine.generation.config import DecoderConfig
from deepseek_engine.generation.decoder.build import Builder
from deepseek_engine.generation.decoder.cache import LayerCache
from deepseek_engine.generation.decoder.norms import RmsNorm
from deepseek_engine.generation.decoder.paged import attend_latent
from deepseek_engine.generation.decoder.products import dense
from deepseek_engine.generation.decoder.rope import rotate
from deepseek_engine.generation.decoder.step import Step

__all__ = ["LatentAttention"]

_EPS = 1e-6
"""Of the norms of compressed vectors, whatever the configuration says for the others."""


class LatentAttention(nn.Module):
    """Self attention of one layer."""

    unfold_keys: torch.Tensor
    unfold_values: torch.Tensor

    def __init__(self, config: DecoderConfig, index: int, build: Builder) -> None:
        """Read the layer's tensors."""
        super().__init__()
        assert config.latent is not None  # why this class is chosen
        assert config.rope is not None  # every latent attention rotates
        self.latent, self.rope, self.scale = config.latent, config.rope, config.attention_scale
        latent, width = config.latent, config.width

        def name(part: str) -> str:
            return build.layer(index, f"self_attn.{part}")

        names, sizes = [name("kv_a_proj_with_mqa")], [latent.rank + latent.rope_dim]
        unfolded = config.heads * config.head_dim
        self.query_norm = None
        if latent.query_rank:
            # Queries are compressed beside keys and values, by one product.
            names, sizes = [name("q_a_proj"), *names], [latent.query_rank, *sizes]
            weight = build.vector(f"{name('q_a_layernorm')}.weight", latent.query_rank)
            self.query_norm = RmsNorm(weight, _EPS)
            self.query = build.columns([name("q_b_proj")], [unfolded], latent.query_rank)
        else:
            self.query = build.columns([name("q_proj")], [unfolded], width)
        self.down = build.columns(names, sizes, width)
        self.latent_norm = RmsNorm(
            build.vector(f"{name('kv_a_layernorm')}.weight", latent.rank), _EPS
        )
        each = latent.plain_dim + latent.value_dim
        unfold = dense(
            build.matrix(name("kv_b_proj"), (config.heads * each, latent.rank)), build.dtype
        ).view(-1, each, latent.rank)
        self.register_buffer("unfold_keys", unfold[:, : latent.plain_dim].contiguous())
        values = unfold[:, latent.plain_dim :].transpose(1, 2)
        self.register_buffer("unfold_values", values.contiguous())
        self.out = build.rows(name("o_proj"), width, config.heads * latent.value_dim)

    def forward(self, x: torch.Tensor, step: Step, cache: LayerCache) -> torch.Tensor:
        """From tokens ``[T, width]`` to what they add to themselves, ``[T, width]``."""
        sizes = self.latent
        query, latent, key = self.down(x).split((sizes.query_rank, sizes.rank, sizes.rope_dim), -1)
        query = self.query(x if self.query_norm is None else self.query_norm(query))
        query = query.view(len(x), -1, sizes.plain_dim + sizes.rope_dim)
        plain, turned = query.split((sizes.plain_dim, sizes.rope_dim), -1)
        turned = torch.cat((turned, key.unsqueeze(1)), 1)
        turned = rotate(turned, *step.turns[self.rope], interleaved=self.rope.interleaved)
        step.write(cache, turned[:, -1:], self.latent_norm(latent).unsqueeze(1))
        folded = torch.bmm(plain.transpose(0, 1), self.unfold_keys).transpose(0, 1)
        found = attend_latent(folded, turned[:, :-1], cache, step.plan, scale=self.scale)
        values = torch.bmm(found.transpose(0, 1), self.unfold_values).transpose(0, 1)
        added: torch.Tensor = self.out(values.flatten(1))
        return added
