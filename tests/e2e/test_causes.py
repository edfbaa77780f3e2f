"""Ten ways to fail: each has its own stable reason, soon after the cluster shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deepseek_api.v1alpha1.conditions import ConditionReason as Reason

from tests.support.cluster import Space, Wire, eventually
from tests.support.cluster_images import Bundle

WRONG = "sha256:" + "0" * 64


def worker(**fields: Any) -> Wire:
    """A pod template that changes the worker's container."""
    return {"podTemplate": {"spec": {"containers": [{"name": "worker"} | fields]}}}


def waits(pod: Wire) -> str:
    """Why the first container waits."""
    statuses = pod["status"].get("containerStatuses", ())
    return next((s["state"].get("waiting", {}).get("reason", "") for s in statuses), "")


def ended(pod: Wire) -> str:
    """How the first container ended last."""
    for status in pod["status"].get("containerStatuses", ()):
        for state in (status["state"], status.get("lastState", {})):
            if "terminated" in state:
                return str(state["terminated"].get("reason", ""))
    return ""


def unscheduled(pod: Wire) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(c.get("reason") == "Unschedulable" for c in conditions)


def refused(space: Space, text: str) -> bool:
    """Whether the Deployment says that pods are refused."""
    found = space.items("Deployment", "deepseek.ai/model=echo")
    conditions = [c for d in found for c in d.get("status", {}).get("conditions", ())]
    return any(c["type"] == "ReplicaFailure" and text in c["message"] for c in conditions)


def any_pod(test: Callable[[Wire], bool]) -> Callable[[Space], bool]:
    return lambda space: any(map(test, space.items("Pod", "deepseek.ai/model=echo")))


CRASHES = "import sys; sys.exit(3)"
HOGS = "b = bytearray(512 << 20); b[::4096] = b'x' * len(b[::4096])"
HANGS = "import threading; threading.Event().wait()"
FAILURES: dict[str, tuple[Wire, Reason, Callable[[Space], bool]]] = {
    "unschedulable-gpu": (
        {"device": "cuda"},
        Reason.UNSCHEDULABLE,
        any_pod(unscheduled),
    ),
    "image-pull": (
        worker(image="localhost:1/deepseek/nowhere:1"),
        Reason.IMAGE_UNAVAILABLE,
        any_pod(lambda pod: waits(pod) in {"ErrImagePull", "ImagePullBackOff"}),
    ),
    "bad-digest": (
        {"digest": WRONG},
        Reason.BUNDLE_INVALID,
        any_pod(lambda pod: ended(pod) != ""),
    ),
    "missing-bundle": (
        {"source": {"uri": "oci://localhost:1/deepseek/no-bundle:1"}},
        Reason.BUNDLE_UNAVAILABLE,
        any_pod(lambda pod: waits(pod) in {"ErrImagePull", "ImagePullBackOff"}),
    ),
    "out-of-memory": (
        {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}}
        | worker(command=["python", "-c", HOGS]),
        Reason.OUT_OF_MEMORY,
        any_pod(lambda pod: ended(pod) == "OOMKilled"),
    ),
    "crash-loop": (
        worker(command=["python", "-c", CRASHES]),
        Reason.CRASH_LOOP,
        any_pod(lambda pod: waits(pod) == "CrashLoopBackOff"),
    ),
    "quota": ({}, Reason.QUOTA_EXCEEDED, lambda space: refused(space, "quota")),
    "missing-secret": (
        worker(envFrom=[{"secretRef": {"name": "not-there"}}]),
        Reason.SECRET_MISSING,
        any_pod(lambda pod: waits(pod) == "CreateContainerConfigError"),
    ),
    "refused-admission": (
        worker(securityContext={"privileged": True, "allowPrivilegeEscalation": True}),
        Reason.ADMISSION_REFUSED,
        lambda space: refused(space, "violates PodSecurity"),
    ),
    "startup-never-ready": (
        worker(
            command=["python", "-c", HANGS],
            startupProbe={"periodSeconds": 1, "failureThreshold": 3, "timeoutSeconds": 1},
        )
        | {},
        Reason.STARTUP_TIMEOUT,
        any_pod(lambda pod: ended(pod) != ""),
    ),
}


@pytest.fixture
def quota(space: Space, request: pytest.FixtureRequest) -> Iterator[None]:
    """No room for a pod, for the one case that is about it."""
    if request.node.callspec.params["case"] != "quota":
        yield
        return
    spec = {"hard": {"pods": "0"}}
    space.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": spec}
    )
    eventually(lambda: (space.get("ResourceQuota", "none") or {}).get("status", {}).get("hard"))
    yield
    space.delete("ResourceQuota", "none")


@pytest.mark.usefixtures("quota")
@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_has_its_own_reason(
    case: str,
    space: Space,
    pipeline: Callable[..., Wire],
    bundles: dict[str, Bundle],
    figures: Callable[[str], None],
) -> None:
    fields, reason, shows = FAILURES[case]
    fields = dict(fields)
    if digest := fields.pop("digest", None):
        fields["source"] = bundles["echo"].source | {"digest": digest}
    pipeline(case, {"echo": fields, "other": {"bundle": "other", "replicas": 0}})
    eventually(lambda: shows(space), timeout_s=90, what=lambda: space.story(case), every_s=0.05)
    shown = time.monotonic()
    eventually(
        lambda: space.condition(case, "Degraded", "echo").get("reason") == reason.value,
        timeout_s=60,
        what=lambda: f"no {reason.value}: {space.story(case)}",
        every_s=0.05,
    )
    seconds = time.monotonic() - shown
    figures(f"{case}: {reason.value} {seconds:.2f} s after the cluster showed it")
    condition = space.condition(case, "Degraded", "echo")
    assert condition["status"] == "True"
    assert len(condition["message"]) > len(reason.value)
    assert space.condition(case, "Degraded", "other").get("status") != "True"


def test_every_failure_has_another_reason() -> None:
    reasons = [reason for _, reason, _ in FAILURES.values()]
    assert len(set(reasons)) == len(reasons) == 10
