"""A real bundle with the same model at two precisions, written in milliseconds and without torch.

``OUT = IN x W1 x ... x Wn``, FP32 ``[-1,256]``. The variant ``fp32`` multiplies floats; the variant
``int8`` holds 8-bit weights and multiplies 8-bit integers, with activations quantized at run time.
Weights are random orthogonal matrices, so that the answers keep their size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from deepseek_engine.codec import Array, to_tensor
from deepseek_engine.messages import InferenceRequest
from onnx import TensorProto, helper, numpy_helper

WIDTH = 256
_SHAPE: list[str | int | None] = ["batch", WIDTH]


def write_twins(
    folder: Path,
    *,
    layers: int = 6,
    memory_bytes: int = 1_000_000,
    ratios: tuple[float, float] | None = None,
    int8: Mapping[str, Any] | None = None,
) -> Path:
    """Write the bundle.

    Args:
        folder: to write into; it is made.
        layers: matrices one after the other.
        memory_bytes: of each variant, as the manifest states it.
        ratios: measured speeds of fp32 and int8 against fp32; None: not measured.
        int8: fields of the variant ``int8`` that replace the usual ones.
    """
    folder.mkdir(parents=True)
    weights = [_orthogonal(seed) for seed in range(layers)]
    graphs = {"fp32": _floats(weights), "int8": _integers(weights)}
    variants = []
    for index, (name, graph) in enumerate(graphs.items()):
        content = graph.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        variant = {
            "id": name,
            "backend": "onnxruntime",
            "precision": name,
            "instructionSet": "any",
            "files": [_file(f"{name}.onnx", content)],
            "graph": f"{name}.onnx",
            "tensorBytes": len(content),
            "memoryBytes": memory_bytes,
        }
        if ratios:
            variant["speed"] = {
                "medianMs": 1.0 / ratios[index],
                "shape": "1",
                "device": "a processor",
                "threads": 1,
                "instructionSet": "avx2",
                "runtime": "onnxruntime",
                "ratioToFp32": ratios[index],
            }
        variants.append({**variant, **(int8 or {})} if name == "int8" else variant)
    spec = {"datatype": "FP32", "shape": [-1, WIDTH]}
    manifest = {
        "schemaVersion": 1,
        "name": folder.name,
        "modelType": "Multimodal",
        "task": "tensors",
        "signature": {"inputs": [{"name": "IN", **spec}], "outputs": [{"name": "OUT", **spec}]},
        "preprocessing": {"kind": "none"},
        "postprocessing": {"kind": "none"},
        "files": [],
        "variants": variants,
        "selection": {name: {"any": name} for name in graphs} | {"auto": {"any": "fp32"}},
        "source": {"uri": "random://test?seed=0"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def rows_of(name: str, *, seed: int = 0, rows: int = 4) -> InferenceRequest:
    """A request with random rows."""
    return InferenceRequest(name, (to_tensor("IN", "FP32", values(seed=seed, rows=rows)),))


def values(*, seed: int = 0, rows: int = 4) -> Array:
    """Random rows."""
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


def _orthogonal(seed: int) -> Array:
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)))
    return matrix.astype(np.float32)


def _floats(weights: list[Array]) -> onnx.ModelProto:
    nodes, constants, name = [], {}, "IN"
    for index, weight in enumerate(weights):
        constants[f"w{index}"] = weight
        last = index == len(weights) - 1
        nodes.append(
            helper.make_node("MatMul", [name, f"w{index}"], ["OUT" if last else f"x{index}"])
        )
        name = f"x{index}"
    return _model(nodes, constants)


def _integers(weights: list[Array]) -> onnx.ModelProto:
    nodes, constants, name = [], {}, "IN"
    for index, weight in enumerate(weights):
        n = str(index)
        # 6 bits, so that no processor's 16-bit sums of two products saturate.
        scale = np.abs(weight).max(axis=0) / 31
        constants[f"w{n}"] = np.round(weight / scale).astype(np.int8)
        constants[f"s{n}"] = scale.astype(np.float32)
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [name], [f"q{n}", f"a{n}", f"z{n}"]),
            helper.make_node("MatMulInteger", [f"q{n}", f"w{n}", f"z{n}"], [f"i{n}"]),
            helper.make_node("Cast", [f"i{n}"], [f"f{n}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"a{n}", f"s{n}"], [f"m{n}"]),
            helper.make_node(
                "Mul", [f"f{n}", f"m{n}"], ["OUT" if index == len(weights) - 1 else f"x{n}"]
            ),
        ]
        name = f"x{n}"
    return _model(nodes, constants)


def _model(nodes: list[onnx.NodeProto], constants: Mapping[str, Array]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "twins",
        [helper.make_tensor_value_info("IN", TensorProto.FLOAT, _SHAPE)],
        [helper.make_tensor_value_info("OUT", TensorProto.FLOAT, _SHAPE)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _file(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
