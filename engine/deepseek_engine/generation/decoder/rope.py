"""Rotary positions: frequencies of each kind, and the rotation.

Why it exists: the angle of a pair of numbers is its position times a frequency, and how frequencies
are scaled for long contexts is where decoders differ. The formulas are those of the papers named at
`deepseek_engine.generation.config.Rope`, computed in fp32 as the models were trained.
"""

from __future__ import annotations

import math

import torch

from deepseek_engine.generation.config import Rope

__all__ = ["frequencies", "rotate", "tables"]


def frequencies(rope: Rope, size: int) -> torch.Tensor:
    """Angle of each pair at position 1, fp32 ``[size / 2]``; ``size`` numbers are rotated."""
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    plain = 1.0 / rope.base**exponents
    match rope.kind:
        case "default":
            return plain
        case "linear":
            return plain / rope.factor
        case "llama3":
            return _llama3(rope, plain)
        case "yarn":
            return _yarn(rope, size, plain)


def _llama3(rope: Rope, plain: torch.Tensor) -> torch.Tensor:
    """Short waves stay, long ones are stretched, those between are mixed."""
    turns = rope.original_context * plain / (2 * math.pi)  # in the original context
    share = (turns - rope.low_frequency) / (rope.high_frequency - rope.low_frequency)
    share = share.clamp(0, 1)
    return (1 - share) * plain / rope.factor + share * plain


def _yarn(rope: Rope, size: int, plain: torch.Tensor) -> torch.Tensor:
    """Dimensions that turn often stay, those that turn rarely are stretched; a ramp between."""

    def dimension(turns: float) -> float:
        """Which pair turns so often in the original context."""
        waves = rope.original_context / (turns * 2 * math.pi)
        return size * math.log(waves) / (2 * math.log(rope.base))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low if high != low else 0.001
    stretched = ((torch.arange(size // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return plain / rope.factor * stretched + plain * (1 - stretched)


def tables(
    frequency: torch.Tensor, positions: torch.Tensor, amplitude: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of tokens, fp32 ``[T, size / 2]``."""
    angles = positions.float().unsqueeze(-1) * frequency
    return angles.cos() * amplitude, angles.sin() * amplitude


def rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool = False
) -> torch.Tensor:
    """Rotate the heads of tokens.

    Args:
        x: ``[T, heads, size]``.
        cos: ``[T, size / 2]`` in the type of x.
        sin: like cos.
        interleaved: a pair is two neighbours; they come out as a number of each half, which changes
            no product of two heads that are treated alike.

    Returns:
        ``[T, heads, size]``.
    """
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
