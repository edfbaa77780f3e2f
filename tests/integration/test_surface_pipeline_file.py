"""The ModelPipeline file that must work verbatim, forever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import invoke, run

FILE = Path(__file__).resolve().parents[2] / "examples" / "nlp-vision-joint.yaml"
VERBATIM = """\
apiVersion: deepseek.ai/v1alpha1
kind: ModelPipeline
metadata:
  name: nlp-vision-joint
spec:
  models:
  - name: bert-base
    type: NLP
    replicas: 2
  - name: resnet50
    type: CV
    replicas: 1
  scheduler:
    policy: priority-based
    priorityRules:
    - modelType: NLP
      weight: 0.7
"""


def test_the_example_is_the_file_verbatim() -> None:
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    assert "\n".join(lines).strip() == VERBATIM.strip()


def test_it_is_valid() -> None:
    assert invoke("validate", "-f", "-", stdin=VERBATIM).code == 0


def test_it_plans_two_and_one_replicas_with_weights_of_70_and_30_percent() -> None:
    plan = json.loads(invoke("plan", "-f", "-", "-o", "json", stdin=VERBATIM).out)
    rows = {row["model"]: (row["granted"], row["weight"]) for row in plan["models"]}
    assert rows == {"bert-base": (2, "0.7"), "resnet50": (1, "0.3")}


@pytest.mark.timeout(120)
def test_without_a_hub_serving_it_fails_with_the_way_out(tmp_path: Path) -> None:
    ran = run(
        "serve", "-f", str(FILE), "--grpc-port", "0", "--http-port", "0",
        cache=tmp_path, timeout_s=110,
    )  # fmt: skip
    assert ran.code == 1
    assert "google-bert/bert-base-uncased" in ran.err
    assert "hub" in ran.err
    assert "--weights random" in ran.err
    assert "Traceback" not in ran.err
