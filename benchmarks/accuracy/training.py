"""The one training loop of all small models: AdamW, a warm-up and a cosine, seeded."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.accuracy.subject import Loss

__all__ = ["batches", "train"]

WARM_UP = 0.1
"""Part of the steps in which the learning rate rises."""


def train(module: nn.Module, loss: Loss, *, steps: int, rate: float, decay: float = 0.05) -> None:
    """Train in place and leave the module in eval mode.

    Args:
        module: fp32.
        loss: draws its own batch.
        steps: updates of the weights.
        rate: the highest learning rate.
        decay: weight decay of matrices and filters.
    """
    matrices = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    module.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _factor(step, steps)
        optimizer.zero_grad()
        loss(module, step).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    module.eval().requires_grad_(False)


def _factor(step: int, steps: int) -> float:
    warm = max(1, round(steps * WARM_UP))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def batches(count: int, size: int, *, seed: int) -> Iterator[torch.Tensor]:
    """Indexes of samples, every sample once an epoch in a drawn order, without end."""
    random = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=random)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))
