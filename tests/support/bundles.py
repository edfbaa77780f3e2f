"""Tiny real bundles for tests: written in milliseconds, without torch, with seeded weights.

Every builder takes the folder to write into (it is made), returns that folder, and makes a bundle
that `deepseek_engine.bundles.open_bundle` accepts. All use ONNX Runtime and precision ``fp32``
(``auto`` selects it).

====================  ======================  =====================================================
builder               task                    what it computes
====================  ======================  =====================================================
`write_echo`          tensors                 ``OUT = IN`` for FP32 ``[-1,16]``; answers bit-exact
`write_echo_all`      tensors                 ``OUT_<TYPE> = IN_<TYPE>`` ``[-1,2]`` for the 13
                                              fixed-size datatypes (`FIXED_TYPES`); a request gives
                                              all of them
`write_echo_type`     tensors                 ``OUT = IN`` ``[-1,2]`` for one datatype, BYTES too
                                              (UTF-8 text; ONNX Runtime cannot take BYTES together
                                              with BF16, so that one graph cannot have all 14)
`write_slow`          tensors                 ``OUT = IN`` ``[-1,16]`` after ``steps`` products of a
                                              512 x 512 matrix (about 2 to 10 ms a step, whatever
                                              the number of rows)
`write_picky`         tensors                 ``OUT = table[IN]``, INT64 ``[-1,1]`` to FP32
                                              ``[-1,1]``; a value outside -4..3 raises at run time
`write_failing`       tensors                 loads, and raises at run time whatever the input is
`write_embedding`     text-embedding          words `WORDS`, 8 numbers, mean pooling, length 1
`write_classifier`    image-classification    16 x 16 pictures; labels red, green and blue: the
                                              strongest mean channel has the best score
====================  ======================  =====================================================

`write_bundle` is the common base and takes any ONNX model. `digest_of` gives a bundle's digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from deepseek_api.manifest import Manifest, bundle_digest, parse_manifest
from onnx import TensorProto, helper, numpy_helper

from tests.support.tokenizer import word_tokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran")
"""Vocabulary of `write_embedding`, by token number."""

ONNX_TYPES: Mapping[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
"""All 14 datatypes and ONNX's number for each."""

FIXED_TYPES = tuple(name for name in ONNX_TYPES if name != "BYTES")
"""The 13 datatypes of fixed size."""

Spec = tuple[str, str, tuple[int, ...]]
"""Name, datatype and shape of a tensor."""


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """What `write_bundle` needs besides the graph."""

    task: str
    inputs: Sequence[Spec]
    outputs: Sequence[Spec]
    model_type: str = "Multimodal"
    preprocessing: Mapping[str, Any] = field(default_factory=lambda: {"kind": "none"})
    postprocessing: Mapping[str, Any] = field(default_factory=lambda: {"kind": "none"})
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Shared files by path."""
    memory_bytes: int = 1_000_000
    random_weights: bool = False
    variant: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the variant that replace the usual ones."""


def write_bundle(folder: Path, model: onnx.ModelProto, parts: BundleParts, *, name: str) -> Path:
    """Write a bundle with one fp32 ONNX variant."""
    return write_raw(folder, model.SerializeToString(), parts, name=name)


def write_raw(
    folder: Path,
    graph: bytes,
    parts: BundleParts,
    *,
    name: str,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a bundle whose graph file has any content; ``extra`` are more files of the variant."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {"model.onnx": graph, **(extra or {})}
    contents = {**parts.files, **own}
    for path, content in contents.items():
        (folder / path).write_bytes(content)
    variant = {
        "id": "fp32",
        "backend": "onnxruntime",
        "precision": "fp32",
        "instructionSet": "any",
        "files": [_file(path, content) for path, content in own.items()],
        "graph": "model.onnx",
        "tensorBytes": sum(map(len, own.values())),
        "memoryBytes": parts.memory_bytes,
        **parts.variant,
    }
    by_set = {"any": variant["id"]}
    manifest = {
        "schemaVersion": 1,
        "name": name,
        "modelType": parts.model_type,
        "task": parts.task,
        "signature": {"inputs": _specs(parts.inputs), "outputs": _specs(parts.outputs)},
        "preprocessing": dict(parts.preprocessing),
        "postprocessing": dict(parts.postprocessing),
        "files": [_file(path, content) for path, content in parts.files.items()],
        "variants": [variant],
        "selection": {"auto": by_set, "fp32": by_set},
        "source": {"uri": "random://test?seed=0"},
        "randomWeights": parts.random_weights,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle."""
    return parse_manifest((folder / "manifest.json").read_bytes())


def digest_of(folder: Path) -> str:
    """The digest of a bundle."""
    return bundle_digest(read_manifest(folder))


def write_echo(
    folder: Path,
    *,
    name: str = "echo",
    memory_bytes: int = 1_000_000,
    variant: Mapping[str, Any] | None = None,
) -> Path:
    """``OUT = IN``, FP32 ``[-1,16]``; ``variant`` are fields that replace the usual ones."""
    specs: list[Spec] = [("IN", "FP32", (-1, 16))]
    outputs: list[Spec] = [("OUT", "FP32", (-1, 16))]
    model = _model([helper.make_node("Identity", ["IN"], ["OUT"])], specs, outputs)
    parts = BundleParts(
        task="tensors",
        inputs=specs,
        outputs=outputs,
        memory_bytes=memory_bytes,
        variant=variant or {},
    )
    return write_bundle(folder, model, parts, name=name)


def write_echo_type(folder: Path, datatype: str, *, name: str = "echo-type") -> Path:
    """``OUT = IN`` ``[-1,2]`` for one datatype."""
    inputs: list[Spec] = [("IN", datatype, (-1, 2))]
    outputs: list[Spec] = [("OUT", datatype, (-1, 2))]
    model = _model([helper.make_node("Identity", ["IN"], ["OUT"])], inputs, outputs)
    return write_bundle(
        folder, model, BundleParts(task="tensors", inputs=inputs, outputs=outputs), name=name
    )


def write_identity(folder: Path, specs: Sequence[Spec], *, name: str) -> Path:
    """``OUT_<NAME> = <NAME>`` for each tensor."""
    outputs = [(f"OUT_{spec[0]}", *spec[1:]) for spec in specs]
    nodes = [helper.make_node("Identity", [spec[0]], [f"OUT_{spec[0]}"]) for spec in specs]
    parts = BundleParts(task="tensors", inputs=specs, outputs=outputs)
    return write_bundle(folder, _model(nodes, specs, outputs), parts, name=name)


def write_echo_all(folder: Path, *, name: str = "echo-all") -> Path:
    """``OUT_<TYPE> = IN_<TYPE>`` ``[-1,2]`` for every datatype of fixed size."""
    inputs: list[Spec] = [(f"IN_{kind}", kind, (-1, 2)) for kind in FIXED_TYPES]
    outputs: list[Spec] = [(f"OUT_{kind}", kind, (-1, 2)) for kind in FIXED_TYPES]
    nodes = [helper.make_node("Identity", [f"IN_{kind}"], [f"OUT_{kind}"]) for kind in FIXED_TYPES]
    parts = BundleParts(task="tensors", inputs=inputs, outputs=outputs)
    return write_bundle(folder, _model(nodes, inputs, outputs), parts, name=name)


def write_slow(folder: Path, *, steps: int = 20, name: str = "slow") -> Path:
    """``OUT = IN`` after ``steps`` matrix products that cannot be optimized away."""
    inputs: list[Spec] = [("IN", "FP32", (-1, 16))]
    outputs: list[Spec] = [("OUT", "FP32", (-1, 16))]
    # A permutation keeps the numbers in range; its product is multiplied by zero at the end.
    matrix = np.eye(512, dtype=np.float32)[np.random.default_rng(0).permutation(512)]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond_in"], ["cond_out"]),
            helper.make_node("MatMul", ["state_in", "matrix"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_in", TensorProto.FLOAT, [512, 512]),
        ],
        [
            helper.make_tensor_value_info("cond_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [512, 512]),
        ],
    )
    nodes = [
        # The start depends on the input, so that constant folding cannot run the loop ahead.
        helper.make_node("ReduceMax", ["IN"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["peak", "zero"], ["nothing"]),
        helper.make_node("Add", ["matrix", "nothing"], ["start"]),
        helper.make_node("Loop", ["steps", "yes", "start"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "zero"], ["none"]),
        helper.make_node("Add", ["IN", "none"], ["OUT"]),
    ]
    constants = {
        "matrix": matrix,
        "zero": np.float32(0),
        "steps": np.int64(steps),
        "yes": np.bool_(True),
    }
    parts = BundleParts(task="tensors", inputs=inputs, outputs=outputs)
    return write_bundle(folder, _model(nodes, inputs, outputs, constants), parts, name=name)


def write_picky(folder: Path, *, name: str = "picky") -> Path:
    """``OUT = table[IN]``; an index outside -4..3 raises inside the runtime."""
    inputs: list[Spec] = [("IN", "INT64", (-1, 1))]
    outputs: list[Spec] = [("OUT", "FP32", (-1, 1))]
    nodes = [helper.make_node("Gather", ["table", "IN"], ["OUT"])]
    constants = {"table": np.array([10, 11, 12, 13], dtype=np.float32)}
    parts = BundleParts(task="tensors", inputs=inputs, outputs=outputs)
    return write_bundle(folder, _model(nodes, inputs, outputs, constants), parts, name=name)


def write_failing(folder: Path, *, name: str = "failing") -> Path:
    """``OUT = table[IN * 0 + 9]`` of a table of four: every run raises, no load does."""
    inputs: list[Spec] = [("IN", "INT64", (-1, 1))]
    outputs: list[Spec] = [("OUT", "FP32", (-1, 1))]
    nodes = [
        helper.make_node("Mul", ["IN", "zero"], ["none"]),
        helper.make_node("Add", ["none", "nine"], ["outside"]),
        helper.make_node("Gather", ["table", "outside"], ["OUT"]),
    ]
    constants = {
        "table": np.array([10, 11, 12, 13], dtype=np.float32),
        "zero": np.int64(0),
        "nine": np.int64(9),
    }
    parts = BundleParts(task="tensors", inputs=inputs, outputs=outputs)
    return write_bundle(folder, _model(nodes, inputs, outputs, constants), parts, name=name)


def write_ragged(folder: Path, *, name: str = "ragged") -> Path:
    """Each row alone: ``[1,1]`` with the number n becomes n columns of ones."""
    inputs: list[Spec] = [("IN", "INT64", (-1, 1))]
    outputs: list[Spec] = [("OUT", "FP32", (-1, -1))]
    nodes = [
        helper.make_node("Reshape", ["IN", "one"], ["columns"]),
        helper.make_node("Concat", ["one", "columns"], ["shape"], axis=0),
        helper.make_node("Expand", ["unit", "shape"], ["OUT"]),
    ]
    constants = {"one": np.array([1], dtype=np.int64), "unit": np.array([[1]], dtype=np.float32)}
    parts = BundleParts(
        task="tensors", inputs=inputs, outputs=outputs, variant={"rowBatching": "single"}
    )
    return write_bundle(folder, _model(nodes, inputs, outputs, constants), parts, name=name)


def write_embedding(
    folder: Path, *, name: str = "embed", max_length: int = 32, pooled: bool = False
) -> Path:
    """Embedding table, one matrix, tanh; ``pooled`` puts mean pooling into the graph."""
    random = np.random.default_rng(7)
    constants: dict[str, Any] = {
        "table": random.standard_normal((len(WORDS), 8)).astype(np.float32),
        "matrix": random.standard_normal((8, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "matrix"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["hidden"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["hidden", "mask3"], ["last_hidden_state"]),
    ]
    constants["last"] = np.array([2], dtype=np.int64)
    graph_outputs: list[Spec] = [("last_hidden_state", "FP32", (-1, -1, 8))]
    if pooled:
        constants["tokens_axis"] = np.array([1], dtype=np.int64)
        nodes += [
            helper.make_node(
                "ReduceSum", ["last_hidden_state", "tokens_axis"], ["sum"], keepdims=0
            ),
            helper.make_node("ReduceSum", ["mask", "tokens_axis"], ["count"], keepdims=1),
            helper.make_node("Div", ["sum", "count"], ["mean"]),
            helper.make_node("LpNormalization", ["mean"], ["embedding"], axis=1, p=2),
        ]
        graph_outputs = [("embedding", "FP32", (-1, 8))]
    graph_inputs: list[Spec] = [
        ("input_ids", "INT64", (-1, -1)),
        ("attention_mask", "INT64", (-1, -1)),
    ]
    parts = BundleParts(
        task="text-embedding",
        model_type="NLP",
        inputs=[("text", "BYTES", (-1,))],
        outputs=[("embedding", "FP32", (-1, 8))],
        preprocessing={"kind": "text", "tokenizer": "tokenizer.json", "maxLength": max_length},
        postprocessing={"kind": "embedding", "pooling": "mean", "normalize": True},
        files={"tokenizer.json": word_tokenizer(WORDS)},
    )
    model = _model(nodes, graph_inputs, graph_outputs, constants)
    return write_bundle(folder, model, parts, name=name)


def write_classifier(folder: Path, *, name: str = "colours", size: int = 16) -> Path:
    """The score of each class is the mean of its channel, times four."""
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "four"], ["logits"]),
    ]
    inputs: list[Spec] = [("pixel_values", "FP32", (-1, 3, size, size))]
    outputs: list[Spec] = [("logits", "FP32", (-1, 3))]
    parts = BundleParts(
        task="image-classification",
        model_type="CV",
        inputs=[("image", "BYTES", (-1,))],
        outputs=[
            ("labels", "BYTES", (-1, -1)),
            ("scores", "FP32", (-1, -1)),
            ("class_ids", "INT64", (-1, -1)),
            ("logits", "FP32", (-1, 3)),
        ],
        preprocessing={
            "kind": "image",
            "size": size,
            "cropFraction": 0.875,
            "interpolation": "bicubic",
            "mean": [127.0, 127.0, 127.0],
            "std": [128.0, 128.0, 128.0],
        },
        postprocessing={"kind": "classification", "labels": "labels.txt", "topK": 2},
        files={"labels.txt": b"red\ngreen\nblue\n"},
    )
    model = _model(nodes, inputs, outputs, {"four": np.float32(4)})
    return write_bundle(folder, model, parts, name=name)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    constants: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [_value(spec) for spec in inputs],
        [_value(spec) for spec in outputs],
        [
            numpy_helper.from_array(np.asarray(value), key)
            for key, value in (constants or {}).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _value(spec: Spec) -> onnx.ValueInfoProto:
    name, datatype, shape = spec
    dims = [f"{name}_{axis}" if size < 0 else size for axis, size in enumerate(shape)]
    dims[0] = "batch"
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], dims)


def _specs(specs: Sequence[Spec]) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": datatype, "shape": list(shape)}
        for name, datatype, shape in specs
    ]


def _file(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
