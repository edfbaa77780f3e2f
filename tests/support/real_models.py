"""What tests do with real models: open variants, read the committed sentences, count bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from deepseek_api.manifest import Variant, choose_variant
from deepseek_api.vocabulary import Precision
from deepseek_engine.backends.onnxruntime import session_options
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.hardware import detect_cpu
from onnx import numpy_helper

Array = npt.NDArray[np.float32]

SENTENCES = Path(__file__).resolve().parents[1] / "data" / "sentences.txt"
"""Texts of one word to a paragraph, written for judging encoders; prepare never sees them."""


def variant_for(bundle: OpenBundle, precision: Precision) -> Variant:
    """What serves a precision on this machine."""
    return choose_variant(bundle.manifest, precision, detect_cpu().instruction_sets)


def open_graph(bundle: OpenBundle, variant: Variant, *, threads: int = 1) -> ort.InferenceSession:
    """A variant in ONNX Runtime, opened as the serving back end opens it."""
    path = str(bundle.path(variant.graph))
    return ort.InferenceSession(
        path, session_options(threads=threads), providers=["CPUExecutionProvider"]
    )


def sentences() -> list[str]:
    """The committed list."""
    return SENTENCES.read_text(encoding="utf-8").splitlines()


def unit(vectors: Array) -> Array:
    """Rows divided by their length."""
    scaled: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def graph_tensor_bytes(bundle: OpenBundle, variant: Variant) -> int:
    """Bytes of a graph's constants: weights, scales, zero points and biases."""
    graph = onnx.load(str(bundle.path(variant.graph))).graph
    tensors = list(graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            tensors += [a.t for a in node.attribute if a.name == "value"]
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in tensors)
