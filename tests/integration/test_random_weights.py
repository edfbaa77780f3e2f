"""Random weights of a real architecture are marked wherever somebody may take them for real ones.

The architecture is the smallest ResNet that timm has, in fp32: nearly all of the time goes into
importing what prepares it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from deepseek import Client
from PIL import Image

from tests.support.command import Serve

pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

CATALOG = """
models:
  tiny-resnet:
    description: The ResNet that timm tests itself with.
    source: {uri: "hf://timm/test_resnet.r160_in1k"}
    task: image-classification
    type: CV
    architecture: timm/test_resnet
    preprocessing: {kind: none}
    postprocessing: {kind: none}
    memoryRequest: 256Mi
    license: Apache-2.0
    downloadMiB: 2
"""
PIPELINE = """
apiVersion: deepseek.ai/v1alpha1
kind: ModelPipeline
metadata: {name: random}
spec:
  models:
  - {name: tiny-resnet, precision: fp32}
"""


def test_random_weights_are_marked_in_the_table_the_log_and_every_answer(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    Image.new("RGB", (200, 200), (220, 20, 30)).save(tmp_path / "red.png")
    arguments = ["-f", "-", "--weights", "random", "--catalog", str(tmp_path / "catalog.yaml")]
    cache = {"DEEPSEEK_CACHE": str(tmp_path / "cache")}
    with Serve(*arguments, stdin=PIPELINE, extra=cache) as process:
        process.wait_line("Stop it with Ctrl-C.", timeout_s=240)
        with Client(process.url) as client:
            answer = client.classify("tiny-resnet", tmp_path / "red.png")
            parameters = client.infer(
                "tiny-resnet", {"image": [(tmp_path / "red.png").read_bytes()]}
            ).parameters
    (row,) = [line for line in process.out if line.startswith("tiny-resnet")]
    assert row.split()[1:3] == ["CV", "fp32"]
    assert row.rstrip().endswith("random weights")
    assert len(answer[0]) > 0
    assert parameters["random_weights"] is True
    logged = [json.loads(line) for line in process.err if line.startswith("{")]
    (ready,) = [log for log in logged if log["message"] == "model ready"]
    assert ready["random_weights"] is True
    (manifest,) = (tmp_path / "cache").glob("bundles/*/manifest.json")
    assert json.loads(manifest.read_text())["randomWeights"] is True
