"""Inputs, references and limits for kernels.

The measure is the relative Frobenius error ``|actual - expected| / |expected|`` against a reference
in float64. Limits are those that published kernels are held to (see docs/kernels.md); a kernel that
gets weights only in quantized form is compared with the product of the dequantized weights, never
of the weights before quantizing.
"""

from __future__ import annotations

import math

import torch

LIMITS = {
    torch.float32: 1e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}
"""Largest relative error by the dtype of a result, if nothing but the result is rounded."""
INT8_ACTIVATIONS = 2e-2
"""Largest relative error against activations that were not quantized to int8."""
FP8_ACTIVATIONS = 3e-2
"""The same for float8_e4m3fn with a scale for each row or block."""


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """``|actual - expected| / |expected|`` in float64; infinite if ``actual`` is not finite."""
    assert actual.shape == expected.shape
    wide, reference = actual.to(torch.float64), expected.to(torch.float64)
    if not bool(torch.isfinite(wide).all()):
        return math.inf
    distance = float(torch.linalg.vector_norm(wide - reference))
    length = float(torch.linalg.vector_norm(reference))
    return distance / length if length else distance


def assert_near(actual: torch.Tensor, expected: torch.Tensor, limit: float | None = None) -> None:
    """Hold ``actual`` to a limit, by default that of its dtype."""
    allowed = LIMITS[actual.dtype] if limit is None else limit
    error = relative_error(actual, expected)
    assert error <= allowed, f"relative error {error:.2e} is above {allowed:.0e}"


def random_matrix(
    rows: int, columns: int, *, seed: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Normally distributed values, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator).to(dtype)


def strided(matrix: torch.Tensor, *, offset: int = 1, gap: int = 3) -> torch.Tensor:
    """The same values with rows that start ``offset`` elements off and ``gap`` elements apart."""
    rows, columns = matrix.shape
    room = matrix.new_zeros(rows * (columns + gap) + offset)
    view = room[offset:].view(rows, columns + gap)[:, :columns]
    view.copy_(matrix)
    return view
