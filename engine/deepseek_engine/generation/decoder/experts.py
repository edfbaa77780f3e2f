"""A mixture of experts with a sigmoid router that first chooses groups.

Why it exists: DeepSeek-V3's feed-forward part (DeepSeek-AI, arXiv:2412.19437, section 2.1.2). Which
experts a token uses is decided with a correction that balances their load; how much each counts is
decided without. Both are computed in fp32, because a rounded score chooses another expert. Who
computes an expert is the business of `deepseek_engine.generation.parallel.layers`.
"""

from __future__ import annotations

import torch
from torch import nn

from deepseek_engine.generation.config import DecoderConfig
from deepseek_engine.generation.decoder.build import Builder
from deepseek_engine.generation.decoder.feed_forward import FeedForward
from deepseek_engine.generation.parallel.layers import MixtureOfExperts

__all__ = ["MixtureLayer"]


class MixtureLayer(nn.Module):
    """Router, experts, and experts that every token uses."""

    router: torch.Tensor
    correction: torch.Tensor

    def __init__(self, config: DecoderConfig, build: Builder, prefix: str) -> None:
        """Read the layer's tensors; ``prefix`` stands before their names."""
        super().__init__()
        assert config.experts is not None  # why this class is chosen
        self.sizes = sizes = config.experts
        router = build.reader.tensor(f"{prefix}gate.weight", (sizes.count, config.width))
        self.register_buffer("router", router.to(build.device, torch.float32))
        self.register_buffer(
            "correction",
            build.vector(f"{prefix}gate.e_score_correction_bias", sizes.count, torch.float32),
        )
        experts = nn.ModuleList(
            FeedForward(config, build, f"{prefix}experts.{index}.", sizes.ffn, reduce=False)
            for index in build.plan.experts
        )
        shared = None
        if sizes.shared:
            ffn = sizes.ffn * sizes.shared
            shared = FeedForward(config, build, f"{prefix}shared_experts.", ffn, reduce=False)
        self.experts = MixtureOfExperts(
            experts, total=sizes.count, context=build.context, shared=shared
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[T, width]`` to ``[T, width]``."""
        mixed: torch.Tensor = self.experts(x, *self.route(x))
        return mixed

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Experts int64 ``[T, chosen]`` of tokens ``[T, width]``, and their weights in fp32."""
        sizes = self.sizes
        scores = nn.functional.linear(x.float(), self.router).sigmoid()
        corrected = (scores + self.correction).view(len(x), sizes.groups, -1)
        # A group is as good as its two best experts together.
        best = corrected.topk(min(2, corrected.shape[-1]), -1).values.sum(-1)
        kept = best.topk(sizes.chosen_groups, -1).indices
        left_out = torch.ones_like(best, dtype=torch.bool).scatter_(1, kept, False)
        corrected = corrected.masked_fill(left_out.unsqueeze(-1), -torch.inf).flatten(1)
        chosen = corrected.topk(sizes.chosen, -1).indices
        weights = scores.gather(1, chosen)
        if sizes.normalized:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * sizes.scale
