"""Int8 graphs computed exactly, whatever this processor's instructions do with int8.

A processor without VNNI adds two 8-bit products in 16 bits and may saturate; one with VNNI does
not. Here products of integers are floating point products of the same integers, which fp32 adds
without rounding for the depths of these models, so that a variant for any processor can be judged
on any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

Array = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

INT16_MAX = 32767


def exact_session(path: Path) -> ort.InferenceSession:
    """A session of an int8 graph in which nothing is computed in int8."""
    model = onnx.load(str(path))
    nodes = [new for node in model.graph.node for new in _without_integers(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    options = ort.SessionOptions()
    # Optimizing would put quantize, dequantize and multiply together again.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _without_integers(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """A product of integers as one of floating point numbers; other nodes as they are."""
    if node.op_type != "MatMulIntegerToFloat":
        yield node
        return
    left, right, left_scale, right_scale, left_zero, right_zero = node.input
    name = node.output[0]
    for side, value, zero in (("a", left, left_zero), ("b", right, right_zero)):
        for part, source in (("value", value), ("zero", zero)):
            yield helper.make_node("Cast", [source], [f"{name}/{side}/{part}"], to=1)
        yield helper.make_node(
            "Sub", [f"{name}/{side}/value", f"{name}/{side}/zero"], [f"{name}/{side}"]
        )
    yield helper.make_node("MatMul", [f"{name}/a", f"{name}/b"], [f"{name}/sum"])
    yield helper.make_node("Mul", [left_scale, right_scale], [f"{name}/scale"])
    yield helper.make_node("Mul", [f"{name}/sum", f"{name}/scale"], [name])


def products(path: Path) -> Iterator[tuple[str, Integers]]:
    """Int8 weights of products and convolutions as columns along K, with their names.

    Filters come twice: a runtime walks their window with channels outside or inside. Depthwise
    ones are left out; their kernels add in 32 bits.
    """
    model = onnx.load(str(path))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in _weights(model, constants):
        values = numpy_helper.to_array(tensor).astype(np.int64)
        if values.ndim == 2:
            yield tensor.name, values
        elif values.shape[1] > 1:
            for order in (values, np.moveaxis(values, 1, -1)):
                yield tensor.name, order.reshape(len(order), -1).T


def _weights(
    model: onnx.ModelProto, constants: dict[str, onnx.TensorProto]
) -> Iterator[onnx.TensorProto]:
    """Constants that integer products, or convolutions of dequantized constants, multiply by."""
    sources = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    for node in model.graph.node:
        if node.op_type in {"MatMulIntegerToFloat", "Conv"}:
            name = sources.get(node.input[1], node.input[1])
            if name in constants and constants[name].data_type == onnx.TensorProto.INT8:
                yield constants[name]


def saturates(columns: Integers) -> bool:
    """Whether a sum of two neighbouring products with unsigned 8-bit inputs can leave 16 bits."""
    padded = np.pad(columns, ((0, len(columns) % 2), (0, 0)))
    first, second = padded[0::2], padded[1::2]
    corners = np.stack([first, second, first + second]) * 255
    return bool((corners > INT16_MAX).any() or (corners < -INT16_MAX - 1).any())
