"""Rounding activations to 8 bits, a step for each row, with few and cheap nodes of a graph.

A row (a token's vector) is rounded by what its own largest value needs, so that it does not matter
which rows share its batch. Between two products of int8 every node counts: on a small batch one
costs about as much for its start as for its values. ``QuantizeLinear`` therefore divides by the
rows' steps itself, which needs zero points of the same shape: they are made once for all rows
``[batch, length]`` of a graph.

Rows of zeros have the step 0. They become some number of 8 bits, and that times 0 is the right
answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import numpy_helper

from deepseek_engine.prepare.quantize.graph import GraphRewriter

GELU_FLOOR = 0.17
"""GELU's minimum is -0.16997."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How values of one kind become unsigned integers."""

    name: str
    zero: int
    """What 0 becomes."""
    least: float = 0.0
    """What no value is below; 0 if they are of both signs."""

    @property
    def levels(self) -> int:
        """Steps between 0 and the largest value."""
        return 255 - self.zero

    @property
    def smallest_step(self) -> float:
        """The step at which ``least`` becomes 0."""
        return -self.least / self.zero


SIGNED = Rounding("signed", zero=128)
AFTER_GELU = Rounding("gelu", zero=32, least=-GELU_FLOOR)
"""Nearly all of the range for positive values. A larger zero point would serve rows whose largest
value is below 1.2 better, and all others worse."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Names of rounded rows ``[..., K]``, of the steps ``[..., 1]``, and of their zero point."""

    values: str
    steps: str
    zero: str


def quantize_rows(graph: GraphRewriter, source: str, width: int, rounding: Rounding) -> Rows:
    """Round the rows ``[..., width]`` of a value.

    Rows that are rounded already are used again: query, key and value read the same ones.
    """
    name = f"{source}_uint8"
    zero = graph.constant(f"{rounding.name}_zero", np.uint8(rounding.zero))
    rows = Rows(name, f"{source}_step", zero)
    if graph.has_emitted(name):
        return rows
    steps = _steps(graph, source, rows.steps, rounding)
    zeros = _zero_points(graph, source, steps, rounding)
    graph.emit("QuantizeLinear", [source, steps, zeros], [name], axis=-1, block_size=width)
    return rows


def _steps(graph: GraphRewriter, source: str, name: str, rounding: Rounding) -> str:
    magnitude = source
    if not rounding.least:
        magnitude = graph.emit("Abs", [source], [f"{source}_magnitude"])
    axis = graph.constant("last_axis", np.array([-1], np.int64))
    largest = graph.emit("ReduceMax", [magnitude, axis], [f"{source}_largest"], keepdims=1)
    part = graph.constant(f"{rounding.name}_part", np.float32(1 / rounding.levels))
    if not rounding.least:
        return graph.emit("Mul", [largest, part], [name])
    wanted = graph.emit("Mul", [largest, part], [f"{name}_wanted"])
    smallest = graph.constant(f"{rounding.name}_smallest", np.float32(rounding.smallest_step))
    return graph.emit("Max", [wanted, smallest], [name])


def _zero_points(graph: GraphRewriter, source: str, steps: str, rounding: Rounding) -> str:
    """A zero point for each row; rows of one shape share theirs."""
    leading = graph.dimensions(source)[:-1]
    name = f"{rounding.name}_zeros_of_{'_'.join(leading) if leading else source}"
    if not graph.has_emitted(name):
        shape = graph.emit("Shape", [steps], [f"{name}_shape"])
        value = numpy_helper.from_array(np.array([rounding.zero], np.uint8))
        graph.emit("ConstantOfShape", [shape], [name], value=value)
    return name
