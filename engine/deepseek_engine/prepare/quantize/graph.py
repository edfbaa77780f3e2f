"""Rewriting an ONNX graph node by node, without losing track of its constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deepseek_engine.codec import Array

MICROSOFT = "com.microsoft"
"""Operator set of ONNX Runtime's own operators."""
SMALLEST_TABLE = 256
"""Rows from which a gathered table is taken for an embedding."""
BLOCKS = 21
"""The first operator set in which values are quantized in blocks. Graphs are raised to it: of what
the exporter writes, nothing changes its meaning there."""


class GraphRewriter:
    """A copy of a graph whose nodes are replaced in order.

    The caller walks over :attr:`original`, calls :meth:`emit` for every node that the new graph
    shall have, and :meth:`finish` at the end; constants that nothing reads any more are dropped.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self.original: list[onnx.NodeProto] = list(self._model.graph.node)
        self._constants = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._producers = {name: node for node in self.original for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.original:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._dimensions = {
            value.name: tuple(
                d.dim_param or str(d.dim_value or "") for d in value.type.tensor_type.shape.dim
            )
            for value in (*self._model.graph.input, *self._model.graph.value_info)
        }
        self._emitted: list[onnx.NodeProto] = []
        self._computed: set[str] = set()
        self._dropped: set[str] = set()

    def is_matrix(self, name: str) -> bool:
        """Whether a name is a constant FP32 matrix."""
        tensor = self._constants.get(name)
        return (
            tensor is not None and len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT
        )

    def is_vector(self, name: str) -> bool:
        """Whether a name is a constant with one dimension."""
        return name in self._constants and len(self._constants[name].dims) == 1

    def weights(self, node: onnx.NodeProto) -> Array | None:
        """The constant matrix ``[K, N]`` that a node multiplies activations by.

        None for other nodes, and for those that add what is not a constant vector. The matrix may
        be stored transposed, as a table that is also the head of a decoder is.
        """
        if node.op_type == "Gemm":
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            plain = given.get("alpha", 1.0) == 1.0 == given.get("beta", 1.0)
            turned_over = given.get("transA", 0) or given.get("transB", 0)
            if not plain or turned_over or not all(map(self.is_vector, node.input[2:])):
                return None
        elif node.op_type != "MatMul":
            return None
        if self.is_matrix(node.input[1]):
            return self.array(node.input[1])
        turned = self.producer(node.input[1])
        if turned is None or turned.op_type != "Transpose" or not self.is_matrix(turned.input[0]):
            return None
        return self.array(turned.input[0]).T

    def is_output(self, name: str) -> bool:
        """Whether a value is an output of the graph."""
        return any(output.name == name for output in self._model.graph.output)

    def is_embedding(self, node: onnx.NodeProto) -> bool:
        """Whether a node picks rows of a large constant FP32 table."""
        return (
            node.op_type == "Gather"
            and self.is_matrix(node.input[0])
            and self._constants[node.input[0]].dims[0] >= SMALLEST_TABLE
        )

    def dimensions(self, name: str) -> tuple[str, ...]:
        """Names or sizes of a value's dimensions; empty if one of them is not known."""
        found = self._dimensions.get(name, ())
        return found if all(found) else ()

    def array(self, name: str) -> Array:
        """Value of a constant."""
        value: Array = numpy_helper.to_array(self._constants[name])
        return value

    def constant(self, name: str, value: Array | np.generic) -> str:
        """Add a constant once; return its name."""
        if name not in self._constants:
            tensor = numpy_helper.from_array(np.require(value, requirements="C"), name)
            self._constants[name] = tensor
        return name

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The original nodes that read a value."""
        return self._readers.get(name, [])

    def take_bias(self, node: onnx.NodeProto) -> tuple[str, Array | None]:
        """Absorb the constant vector that is added to a product, if that is all that reads it.

        A ``Gemm`` has its own.

        Returns:
            The name that the new node's result must have, and the bias.
        """
        if len(node.input) > 2:
            return node.output[0], self.array(node.input[2])
        readers = self.readers(node.output[0])
        if len(readers) == 1 and readers[0].op_type == "Add":
            for name in readers[0].input:
                if self.is_vector(name):
                    self._dropped.add(readers[0].output[0])
                    return readers[0].output[0], self.array(name)
        return node.output[0], None

    def emit(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> str:
        """Append a node of the standard operators; return its first output."""
        return self._append(kind, inputs, outputs, "", attributes)

    def emit_microsoft(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> str:
        """Append a node of ONNX Runtime's operators; return its first output."""
        return self._append(kind, inputs, outputs, MICROSOFT, attributes)

    def _append(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str,
        attributes: dict[str, Any],
    ) -> str:
        name = f"{outputs[0]}/{kind}"
        node = helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes)
        self._emitted.append(node)
        self._computed.update(outputs)
        return outputs[0]

    def has_emitted(self, name: str) -> bool:
        """Whether a node of the new graph computes a value."""
        return name in self._computed

    def keep(self, node: onnx.NodeProto) -> None:
        """Append a node as it was, unless it was absorbed."""
        if node.output[0] not in self._dropped:
            self._emitted.append(node)

    def finish(self) -> onnx.ModelProto:
        """The new graph."""
        graph = self._model.graph
        used = {output.name for output in graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self._emitted):  # what only a replaced node read is left out
            if used & set(node.output):
                kept.append(node)
                used.update(node.input)
        # Shapes between nodes go: with them the runtime would fuse sums into layer norms, and its
        # operator for both takes twice as long as the two.
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(reversed(kept))
        graph.initializer.extend(t for t in self._constants.values() if t.name in used)
        if all(opset.domain != MICROSOFT for opset in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
        for opset in self._model.opset_import:
            if not opset.domain:
                opset.version = max(opset.version, BLOCKS)
        return self._model
