"""A bundle for the task ``segmentation``, written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from tests.support.bundles import BundleParts, write_bundle


def write_segmentation(folder: Path, *, preprocessing: Mapping[str, Any] | None = None) -> Path:
    """Two scores a voxel, ``[-v, v]``; values are cut to [-1000, 500] and halved."""
    sides = ["depth", "height", "width"]
    graph = helper.make_graph(
        [
            helper.make_node("Neg", ["volume"], ["background"]),
            helper.make_node("Concat", ["background", "volume"], ["logits"], axis=1),
        ],
        "test",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, ["batch", 1, *sides])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, *sides])],
    )
    usual = {"kind": "volume", "multiple": 2, "low": -1000, "high": 500, "mean": 0, "std": 2}
    parts = BundleParts(
        task="segmentation",
        model_type="CV",
        inputs=[("volume", "FP32", (-1, 1, -1, -1, -1))],
        outputs=[("logits", "FP32", (-1, 2, -1, -1, -1))],
        preprocessing=preprocessing or usual,
        postprocessing={"kind": "segmentation"},
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return write_bundle(folder, model, parts, name=folder.name)
