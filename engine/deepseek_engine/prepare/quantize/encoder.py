"""Int8 for transformers: weights per output channel, activations per token while the model runs.

ONNX Runtime's dynamic quantization has one activation scale for a whole batch: one loud token
coarsens every sentence, and an answer depends on the sentences that it shares a batch with. Here
every token (row) has its own (:mod:`deepseek_engine.prepare.quantize.rows`), and the product is
multiplied by it. Answers do not depend on the batch, and agree better with fp32.
"""

from __future__ import annotations

import enum
from collections.abc import Set

import numpy as np
import onnx

from deepseek_engine.codec import Array
from deepseek_engine.prepare.quant.kinds import LayerType
from deepseek_engine.prepare.quantize.graph import GraphRewriter
from deepseek_engine.prepare.quantize.ranges import (
    WeightRange,
    round_channels,
    round_columns_in_pairs,
)
from deepseek_engine.prepare.quantize.rows import AFTER_GELU, SIGNED, quantize_rows

REARRANGING = frozenset(
    {"Add", "Div", "Gather", "Mul", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
)
"""Operators between a projection and the attention that reads it."""
STEPS = 9
"""How many of them there are at most."""


class Part(enum.Enum):
    """What the weights of a transformer do."""

    @property
    def type(self) -> LayerType:
        """The word by which policies know it."""
        return _TYPES[self]

    EMBEDDING = "embedding tables, and the product that gives the scores of tokens"
    VALUE = "value projections of attention"
    ATTENTION = "query, key and output projections of attention"
    FEED_FORWARD = "feed-forward layers"


_TYPES = {
    Part.EMBEDDING: LayerType.EMBEDDING,
    Part.VALUE: LayerType.ATTENTION,
    Part.ATTENTION: LayerType.ATTENTION,
    Part.FEED_FORWARD: LayerType.FEED_FORWARD,
}
ALL_PARTS = frozenset(Part)


def quantize_encoder(
    model: onnx.ModelProto,
    parts: Set[Part],
    *,
    weight_range: WeightRange,
    stored: Set[Part] = frozenset(),
) -> onnx.ModelProto:
    """Return a graph in which the named parts are int8 and the rest is fp32.

    Args:
        model: fp32.
        parts: what becomes int8, weights and activations.
        weight_range: what the target's instructions allow.
        stored: products, none of them in ``parts``, whose weights are int8 in the file only: they
            become fp32 when the graph is loaded, and activations are not rounded.
    """
    graph = GraphRewriter(model)
    for node in graph.original:
        weights = graph.weights(node)
        part = None if weights is None else part_of(graph, node)
        if weights is not None and part in parts:
            _int8_product(graph, node, weights, weight_range)
        elif weights is not None and part in stored:
            _int8_weights(graph, node, weights)
        elif graph.is_embedding(node) and Part.EMBEDDING in parts:
            _int8_embedding(graph, node)
        else:
            graph.keep(node)
    return graph.finish()


def part_of(graph: GraphRewriter, product: onnx.NodeProto) -> Part:
    """The part that a product of activations and weights belongs to, by what surrounds it."""
    if graph.is_output(product.output[0]):
        return Part.EMBEDDING
    found = _attention_reached(graph, product.output[0], steps=STEPS)
    if found is None and _comes_from_attention(graph, product.input[0]):
        return Part.ATTENTION
    return found or Part.FEED_FORWARD


def _attention_reached(graph: GraphRewriter, name: str, *, steps: int) -> Part | None:
    """Whether a value reaches a product of activations, only added to and rearranged.

    A projection that makes query, key and value at once counts as one of values.
    """
    found = None
    for reader in graph.readers(name) if steps else ():
        if reader.op_type == "MatMul" and graph.weights(reader) is None:
            left = graph.producer(reader.input[0])
            if name == reader.input[1] and left is not None and left.op_type == "Softmax":
                return Part.VALUE
            found = Part.ATTENTION
        elif reader.op_type in REARRANGING:
            for output in reader.output:
                part = _attention_reached(graph, output, steps=steps - 1)
                if part is Part.VALUE:
                    return part
                found = found or part
    return found


def _comes_from_attention(graph: GraphRewriter, name: str) -> bool:
    """Whether a value is a product of activations, only rearranged."""
    node = graph.producer(name)
    while node is not None and node.op_type in {"Reshape", "Transpose"}:
        node = graph.producer(node.input[0])
    return node is not None and node.op_type == "MatMul" and graph.weights(node) is None


def _int8_product(
    graph: GraphRewriter, node: onnx.NodeProto, weights: Array, weight_range: WeightRange
) -> None:
    """``y = step * ((q - zero) @ W) + bias`` with ``q`` and ``step`` per row, W ``[K, N]``."""
    source, name = node.input[0], node.input[1]
    if weight_range is WeightRange.FULL:
        values, scales = round_channels(weights, axis=1)
    else:
        values, scales = round_columns_in_pairs(weights)
    rounding = AFTER_GELU if _is_gelu(graph, source) else SIGNED
    rows = quantize_rows(graph, source, len(weights), rounding)
    result, bias = graph.take_bias(node)
    product = graph.emit_microsoft(
        "MatMulIntegerToFloat",
        [
            rows.values,
            graph.constant(f"{name}_int8", values),
            graph.constant("one", np.float32(1)),
            graph.constant(f"{name}_scale", scales.reshape(-1)),
            rows.zero,
            graph.constant("weights_zero", np.zeros((), np.int8)),
        ],
        [f"{node.output[0]}_unit"],
    )
    if bias is None:
        graph.emit("Mul", [product, rows.steps], [result])
        return
    scaled = graph.emit("Mul", [product, rows.steps], [f"{node.output[0]}_scaled"])
    # A row, not a vector: the runtime would fuse a vector and GELU into an operator twice as slow.
    total = graph.constant(f"{name}_bias", np.asarray(bias, np.float32).reshape(1, -1))
    graph.emit("Add", [scaled, total], [result])


def _is_gelu(graph: GraphRewriter, name: str) -> bool:
    node = graph.producer(name)
    return node is not None and node.op_type == "Gelu"


def _int8_weights(graph: GraphRewriter, node: onnx.NodeProto, weights: Array) -> None:
    """The product as it was, of weights ``[K, N]`` that are int8 and a scale for each column.

    Only constants go into the two operators, so a runtime computes them once, when it loads the
    graph; the product that it runs is the one of fp32. No integers are added, so every processor
    may use the full range.
    """
    name = node.input[1]
    whole, restored = f"{name}_whole", f"{name}_restored"
    if not graph.has_emitted(restored):  # layers may share a weight
        values, scales = round_channels(weights, axis=1)
        stored = graph.constant(f"{name}_int8", values)
        graph.emit("Cast", [stored], [whole], to=onnx.TensorProto.FLOAT)
        graph.emit("Mul", [whole, graph.constant(f"{name}_scale", scales)], [restored])
    product = onnx.NodeProto()
    product.CopyFrom(node)  # the original tells what surrounds it
    product.input[1] = restored
    graph.keep(product)


def _int8_embedding(graph: GraphRewriter, node: onnx.NodeProto) -> None:
    """Gather rows of int8 and their scales: only what is read is turned back into FP32."""
    name, ids = node.input[0], node.input[1]
    values, scales = round_channels(graph.array(name), axis=0)
    out = node.output[0]
    rows = graph.emit(
        "Gather", [graph.constant(f"{name}_int8", values), ids], [f"{out}_int8"], axis=0
    )
    scale = graph.emit(
        "Gather", [graph.constant(f"{name}_scale", scales), ids], [f"{out}_scale"], axis=0
    )
    floats = graph.emit("Cast", [rows], [f"{out}_float"], to=onnx.TensorProto.FLOAT)
    graph.emit("Mul", [floats, scale], [out])
