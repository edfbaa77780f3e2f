"""Commands that talk to a cluster, against a loopback server that plays the API server."""

from __future__ import annotations

import builtins
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deepseek.cli.rollout import is_done

from tests.support.command import invoke
from tests.support.loopback_api import LoopbackApi, Wire, failure

PIPELINE = "/apis/deepseek.ai/v1alpha1/namespaces/demo/modelpipelines/joint"
DEPLOYMENTS = "/apis/apps/v1/namespaces/demo/deployments"


def condition(kind: str, value: str, reason: str, message: str = "So it is.") -> Wire:
    return {"type": kind, "status": value, "reason": reason, "message": message}


def row(model: str, weight: str, granted: int, limited_by: str) -> Wire:
    return {
        "model": model,
        "weight": weight,
        "demand": 10,
        "floor": 1,
        "cap": 10,
        "entitled": str(granted),
        "granted": granted,
        "limitedBy": limited_by,
    }


def model(name: str, kind: str, granted: int, ready: int, *conditions: Wire) -> Wire:
    return {
        "name": name,
        "type": kind,
        "replicas": granted,
        "readyReplicas": ready,
        "endpoint": f"joint-{name}.demo:8001",
        "conditions": list(conditions),
    }


def joint() -> Wire:
    """A pipeline under a budget whose second model is broken."""
    broken = condition("Degraded", "True", "BundleInvalid", "Pod joint-resnet50-x: No such digest.")
    return {
        "metadata": {"name": "joint", "namespace": "demo", "generation": 2},
        "spec": {
            "models": [
                {"name": "bert-base", "type": "NLP", "replicas": 10},
                {"name": "resnet50", "replicas": 10},
            ],
            "scheduler": {
                "priorityRules": [{"modelType": "NLP", "weight": 0.7}],
                "budget": {"replicas": 10},
            },
        },
        "status": {
            "observedGeneration": 2,
            "replicas": "9/10",
            "conditions": [
                condition("Ready", "False", "ReplicasNotReady"),
                condition("Degraded", "True", "BundleInvalid"),
                condition("MetricsAvailable", "False", "MetricMissing", "No value for cpu."),
            ],
            "models": [
                model("bert-base", "NLP", 7, 7, condition("Ready", "True", "AllReplicasReady")),
                model("resnet50", "CV", 3, 2, broken) | {"randomWeights": True},
            ],
            "allocation": [
                row("bert-base", "0.7", 7, "weight"),
                row("resnet50", "0.3", 3, "weight"),
            ],
        },
    }


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackApi]:
    with LoopbackApi() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path)))
        fake.routes["GET", PIPELINE] = (200, joint())
        yield fake


def test_explain_shows_table_reasons_and_causes(cluster: LoopbackApi) -> None:
    ran = invoke("explain", "joint", columns=100)
    assert (ran.code, ran.err.splitlines()) == (
        0,
        ["MetricsAvailable: MetricMissing: No value for cpu."],
    )
    assert [line.rstrip() for line in ran.out.splitlines()] == [
        "demo/joint: not ready, 9/10 replicas ready, budget 10 replicas",
        "MODEL      TYPE  WEIGHT  WANTS  ENTITLED  GETS  READY  LIMITED BY",
        "─────────────────────────────────────────────────────────────────",
        "bert-base  NLP     70 %     10         7     7      7  weight",
        "resnet50   CV      30 %     10         3     3      2  weight",
        "",
        "bert-base: Weight 0.7 entitles it to 7 replicas within the budget of 10 replicas: "
        "it gets 7 of the 10 it could use.",
        "resnet50: Weight 0.3 entitles it to 3 replicas within the budget of 10 replicas: "
        "it gets 3 of the 10 it could use.",
        "",
        "resnet50: BundleInvalid: Pod joint-resnet50-x: No such digest.",
        "",
        "bert-base: gRPC on joint-bert-base.demo:8001 inside the cluster",
        "resnet50: gRPC on joint-resnet50.demo:8001 inside the cluster "
        "(random weights: the answers mean nothing)",
    ]
    assert cluster.asked[0]["headers"]["authorization"] == "Bearer t0ken"


def test_explain_as_json_gives_the_same(cluster: LoopbackApi) -> None:
    ran = invoke("explain", "joint", "-o", "json")
    made = json.loads(ran.out)
    assert (made["ready"], made["replicas"], made["upToDate"]) == (False, "9/10", True)
    assert [(one["model"], one["granted"], one["ready"]) for one in made["models"]] == [
        ("bert-base", 7, 7),
        ("resnet50", 3, 2),
    ]
    assert [one["reason"] for one in made["models"][1]["problems"]] == ["BundleInvalid"]
    assert ran.err == ""


def test_explain_trusts_the_operator_more_than_its_own_arithmetic(cluster: LoopbackApi) -> None:
    pipeline = joint()
    pipeline["status"]["allocation"][0]["granted"] = 6
    cluster.routes["GET", PIPELINE] = (200, pipeline)
    assert "bert-base: A larger weight could give it more.\n" in invoke("explain", "joint").out


def test_explain_says_when_the_operator_is_behind_or_silent(cluster: LoopbackApi) -> None:
    pipeline = joint()
    pipeline["metadata"]["generation"] = 3
    cluster.routes["GET", PIPELINE] = (200, pipeline)
    assert "has not looked at the latest change" in invoke("explain", "joint").err
    del pipeline["status"]
    ran = invoke("explain", "joint")
    assert "the operator has written no status yet" in ran.out
    assert "deepseek doctor --cluster" in ran.err
    assert ran.code == 0


REFUSALS = {
    "no such pipeline": (
        failure(404, "NotFound", 'modelpipelines "joint" not found', name="joint"),
        "There is no ModelPipeline 'joint' in namespace 'demo'.",
    ),
    "no CRD": (
        failure(404, "NotFound", "the server could not find the requested resource"),
        "does not know ModelPipelines",
    ),
    "not allowed": (failure(403, "Forbidden", "users may not"), "does not allow it: users may not"),
    "broken": (failure(500, "InternalError", "etcd is tired"), "refused: etcd is tired"),
}


@pytest.mark.parametrize(("reply", "words"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("command", ["explain", "rollout"])
def test_refusals_are_sentences(
    cluster: LoopbackApi, command: str, reply: tuple[int, Wire], words: str
) -> None:
    cluster.routes["GET", PIPELINE] = reply
    ran = invoke(command, "joint")
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.err


def test_a_cluster_that_does_not_answer_is_named(
    cluster: LoopbackApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        path = tmp_path / "dead"
        text = Path(cluster.kubeconfig(tmp_path)).read_text()
        path.write_text(text.replace(cluster.url, f"http://127.0.0.1:{port}"))
        monkeypatch.setenv("KUBECONFIG", str(path))
        ran = invoke("explain", "joint")
    assert ran.code == 1
    assert f"The API server http://127.0.0.1:{port} cannot be reached" in ran.err


@pytest.mark.parametrize("text", ["", "{", "kind: Config\n"])
def test_an_unusable_kubeconfig_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    ran = invoke("explain", "joint")
    assert ran.code == 2
    assert "no usable cluster configuration" in ran.err


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "kubernetes":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    ran = invoke("explain", "joint")
    assert ran.code == 2
    assert "pip install 'deepseek[operator]'" in ran.err


@pytest.mark.parametrize(
    ("options", "namespace"),
    [((), "demo"), (("-n", "other"), "other"), (("--context", "there"), "elsewhere")],
)
def test_the_namespace_is_the_option_or_the_contexts(
    cluster: LoopbackApi, options: tuple[str, ...], namespace: str
) -> None:
    invoke("explain", "joint", *options)
    assert f"/namespaces/{namespace}/" in cluster.asked[0]["path"]


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ((), r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
        (("--model", "resnet50"), r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/resnet50"),
    ],
)
def test_rollout_sets_one_annotation_by_a_merge_patch(
    cluster: LoopbackApi, options: tuple[str, ...], pattern: str
) -> None:
    cluster.routes["PATCH", PIPELINE] = (200, joint())
    assert invoke("rollout", "joint", *options).code == 0
    patch = cluster.asked[-1]
    assert patch["headers"]["content-type"] == "application/merge-patch+json"
    assert list(patch["body"]) == ["metadata"]
    assert re.fullmatch(pattern, patch["body"]["metadata"]["annotations"]["deepseek.ai/rollout-at"])


def test_rollout_of_an_unknown_model_changes_nothing(cluster: LoopbackApi) -> None:
    ran = invoke("rollout", "joint", "--model", "resnet5")
    assert ran.code == 2
    assert "Did you mean 'resnet50'?" in ran.err
    assert [one["method"] for one in cluster.asked] == ["GET"]


def rolled(name: str, at: str, *, updated: int = 2, generation: int = 5) -> Wire:
    counts = {"replicas": 2, "updatedReplicas": updated, "readyReplicas": 2}
    return {
        "metadata": {
            "generation": generation,
            "labels": {"deepseek.ai/model": name},
            "annotations": {"deepseek.ai/pinned": json.dumps({"rolloutAt": at})},
        },
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 5, **counts},
    }


def test_rollout_waits_for_the_replicas_of_the_chosen_model(cluster: LoopbackApi) -> None:
    def patched(body: Wire) -> tuple[int, Wire]:
        value = body["metadata"]["annotations"]["deepseek.ai/rollout-at"]
        listed = [rolled("bert-base", "long ago"), rolled("resnet50", value)]
        cluster.routes["GET", DEPLOYMENTS] = (200, {"items": listed})
        return 200, joint()

    cluster.routes["PATCH", PIPELINE] = patched
    ran = invoke("rollout", "joint", "--model", "resnet50", "--wait", "--timeout", "5")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-1] == "1 model replaced."
    assert cluster.asked[-1]["query"] == {"labelSelector": "deepseek.ai/pipeline=joint"}


def test_rollout_that_does_not_end_names_the_models(cluster: LoopbackApi) -> None:
    cluster.routes["PATCH", PIPELINE] = (200, joint())
    cluster.routes["GET", DEPLOYMENTS] = (200, {"items": [rolled("bert-base", "long ago")]})
    ran = invoke("rollout", "joint", "--wait", "--timeout", "1")
    assert ran.code == 1
    assert "still wait for new replicas: bert-base, resnet50" in ran.err
    assert "deepseek explain joint -n demo" in ran.err


@pytest.mark.parametrize(
    ("deployment", "done"),
    [
        (rolled("m", "T"), True),
        (rolled("m", "T/m"), True),
        (rolled("m", "S"), False),
        (rolled("m", "T", updated=1), False),
        (rolled("m", "T", generation=6), False),
        (None, False),
        ({**rolled("m", "T"), "metadata": {"annotations": {"deepseek.ai/pinned": "{"}}}, False),
    ],
)
def test_a_rollout_is_done_when_all_replicas_are_its_own(
    deployment: Wire | None, done: bool
) -> None:
    assert is_done(deployment, "T") is done
