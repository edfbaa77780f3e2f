"""The seed's file on a real cluster: applied verbatim, ready, and answering."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from deepseek import Client
from PIL import Image

from tests.support.cluster import ROOT, Space, Wire, deepseek
from tests.support.cluster_probe import reach

SEED = ROOT / "examples" / "nlp-vision-joint.yaml"
NAME = "nlp-vision-joint"


@pytest.fixture(scope="module", autouse=True)
def seed(space: Space, figures: Callable[[str], None]) -> Iterator[str]:
    """The file as it is, through kubectl; waited for as a person does."""
    started = time.monotonic()
    space.kube.kubectl("apply", "-n", space.name, "-f", str(SEED))
    space.kube.kubectl(
        *("wait", "-n", space.name, "--for=condition=Ready", f"mpl/{NAME}", "--timeout=240s"),
        timeout_s=250,
    )
    figures(f"seed file from apply to Ready (3 replicas): {time.monotonic() - started:.1f} s")
    yield NAME
    space.delete("ModelPipeline", NAME)


def test_the_weights_give_two_replicas_to_nlp_and_one_to_cv(space: Space) -> None:
    status = space.status(NAME)
    assert {m["name"]: (m["replicas"], m["readyReplicas"]) for m in status["models"]} == {
        "bert-base": (2, 2),
        "resnet50": (1, 1),
    }
    assert space.granted(NAME) == {"bert-base": 2, "resnet50": 1}
    assert {name: len(space.pod_uids(NAME, name)) for name in ("bert-base", "resnet50")} == {
        "bert-base": 2,
        "resnet50": 1,
    }


def test_kubectl_get_shows_ready_and_granted_replicas(space: Space) -> None:
    shown = space.kube.kubectl("get", "mpl", NAME, "-n", space.name).stdout
    assert "3/3" in shown.splitlines()[1], shown


def test_each_service_answers_an_inference(space: Space) -> None:
    with reach(space, f"{NAME}-bert-base") as target, Client(target) as client:
        vectors = client.embed("bert-base", ["a cat sat on the mat", "stocks fell sharply"])
    assert vectors.shape == (2, 768)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    picture = io.BytesIO()
    Image.new("RGB", (320, 240), (200, 30, 30)).save(picture, "PNG")
    with reach(space, f"{NAME}-resnet50") as target, Client(target) as client:
        [labels] = client.classify("resnet50", [picture.getvalue()])
    assert len(labels) == 5


def test_status_says_what_serves_and_that_the_weights_mean_nothing(space: Space) -> None:
    models = {m["name"]: m for m in space.status(NAME)["models"]}
    bert = models["bert-base"]
    assert bert["endpoint"] == f"{NAME}-bert-base.{space.name}:8001"
    assert bert["type"] == "NLP"
    assert bert["digest"].startswith("sha256:")
    assert bert["source"].startswith("oci://")
    assert bert["workerImage"].startswith("localhost/deepseek/worker-cpu:")


def test_workers_meet_the_restricted_standard_with_a_read_only_root(space: Space) -> None:
    for pod in space.pods(NAME):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_events_tell_the_story(space: Space) -> None:
    events = [e for e in space.items("Event") if e["involvedObject"].get("name") == NAME]
    assert {e["involvedObject"]["kind"] for e in events} == {"ModelPipeline"}
    assert all(e.get("message") for e in events)
    shown = space.kube.kubectl("describe", "mpl", NAME, "-n", space.name).stdout
    assert events[0]["reason"] in shown


def test_explain_gives_the_allocation_of_both_models(space: Space) -> None:
    shown = deepseek(space.kube, "explain", NAME, "-n", space.name, "-o", "json").stdout
    document: Wire = json.loads(shown)
    assert document["ready"] is True
    assert {m["model"]: m["granted"] for m in document["models"]} == {
        "bert-base": 2,
        "resnet50": 1,
    }
    assert all(m["explanation"] for m in document["models"])
