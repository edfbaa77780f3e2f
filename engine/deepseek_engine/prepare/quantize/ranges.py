"""How many of int8's values a weight may use, and rounding weights to them.

On x86 without VNNI, products of unsigned activations and signed weights are added in pairs in 16
bits, and the sum saturates (``vpmaddubsw``): 2 x 255 x 127 does not fit. Two ways around it:

- weights in [-64, 64]; 2 x 255 x 64 = 32,640 fits. One bit is lost everywhere.
- ``PAIRED``: weights in [-127, 127] with a scale such that no two neighbours along K add up to more
  than 127; 255 x 127 = 32,385 fits. A bell-shaped column loses about half a bit, so this is used.

With VNNI sums are kept in 32 bits and weights use the full range.
"""

from __future__ import annotations

import enum

import numpy as np

from deepseek_engine.codec import Array

INT8_MAX = 127


class WeightRange(enum.Enum):
    """What limits quantized weights."""

    PAIRED = "paired"
    """Two neighbours along K together."""
    FULL = "full"
    """Each by itself."""


def round_channels(weights: Array, *, axis: int) -> tuple[Array, Array]:
    """Symmetric int8 values of ``weights`` and one FP32 scale for every index of ``axis``.

    The scales keep ``weights.ndim`` dimensions. A channel of zeros gets the scale 1.
    """
    others = tuple(index for index in range(weights.ndim) if index != axis)
    return _round(weights, np.abs(weights).max(axis=others, keepdims=True))


def round_columns_in_pairs(weights: Array) -> tuple[Array, Array]:
    """Symmetric int8 values of ``weights [K, N]`` that never saturate in pairs along K.

    Returns:
        Values ``[K, N]`` and FP32 scales ``[1, N]``.
    """
    return _round(weights, _paired_peak(weights)[None])


def round_filters_in_pairs(weights: Array) -> tuple[Array, Array]:
    """Symmetric int8 values of filters ``[out, in, ...]`` that never saturate in pairs.

    A runtime walks the window of a filter with its channels inside or outside; both are safe.

    Returns:
        Values ``[out, in, ...]`` and FP32 scales ``[out, 1, ...]``.
    """
    outside, inside = weights, np.moveaxis(weights, 1, -1)
    peaks = [_paired_peak(order.reshape(len(weights), -1).T) for order in (outside, inside)]
    return _round(weights, np.maximum(*peaks).reshape(-1, *[1] * (weights.ndim - 1)))


def _paired_peak(weights: Array) -> Array:
    """The magnitude ``[N]`` that 127 has to stand for in each column of ``[K, N]``."""
    even = weights if len(weights) % 2 == 0 else np.vstack([weights, np.zeros_like(weights[:1])])
    pairs = np.abs(even[0::2] + even[1::2]).max(axis=0)
    # Both of a pair may round up by a half, which adds one to their sum.
    peak: Array = np.maximum(np.abs(weights).max(axis=0), pairs * (INT8_MAX / (INT8_MAX - 1)))
    return peak


def _round(weights: Array, largest: Array) -> tuple[Array, Array]:
    scales = np.asarray(largest / INT8_MAX, dtype=np.float32)
    # Zeros, and numbers too small for a scale: they all become 0.
    scales[scales < np.finfo(np.float32).tiny] = 1.0
    values = np.clip(np.rint(weights / scales), -INT8_MAX, INT8_MAX)
    return values.astype(np.int8), scales
