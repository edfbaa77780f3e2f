"""The feed-forward part of a layer.

Why it exists: gate and way up have the same input and are one product, as at one token a step the
number of calls counts more than their size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from deepseek_engine.generation.config import Activation, DecoderConfig
from deepseek_engine.generation.decoder.build import Builder

__all__ = ["FeedForward"]

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "relu": nn.functional.relu,
}


class FeedForward(nn.Module):
    """``down(act(gate(x)) * up(x))``, or ``down(act(up(x)))`` without a gate."""

    def __init__(
        self, config: DecoderConfig, build: Builder, prefix: str, ffn: int, *, reduce: bool = True
    ) -> None:
        """Read the tensors.

        Args:
            config: of the model.
            build: reads them.
            prefix: of their names; what follows stands in the table of names.
            ffn: inner width.
            reduce: False leaves the sum over ranks to the caller.
        """
        super().__init__()
        names = build.names
        self.up = build.columns(
            [prefix + name for name in names.up],
            [ffn] * len(names.up),
            config.width,
            bias=config.mlp_bias,
        )
        self.down = build.rows(
            prefix + names.down, config.width, ffn, bias=config.mlp_bias, reduce=reduce
        )
        self.gated = config.gated
        self.activate = _ACTIVATIONS[config.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[T, width]`` to ``[T, width]``."""
        inner = self.up(x)
        if self.gated:
            gate, up = inner.chunk(2, -1)
            inner = self.activate(gate) * up
        else:
            inner = self.activate(inner)
        found: torch.Tensor = self.down(inner)
        return found
