"""Why replicas are not ready: what Kubernetes shows, and the word and advice that follow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from deepseek_api.v1alpha1.conditions import ConditionReason as Reason
from deepseek_operator.causes import causes

from tests.support.pods import (
    BUNDLE_IMAGE,
    WORKER_IMAGE,
    deployment,
    ended,
    event,
    pod,
    unscheduled,
    waiting,
)

NO_GPU = (
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. no new claims to deallocate, "
    "preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
)
NO_CLAIM = '0/1 nodes are available: persistentvolumeclaim "models" not found. not found'
PULL = (
    'Back-off pulling image "{0}": ErrImagePull: failed to pull and unpack image "{0}": not found'
)
SHORT_PROBE = {"periodSeconds": 2, "failureThreshold": 5}


def said(reason: str, message: str = "Model bert: It is so.") -> str:
    return json.dumps({"reason": reason, "message": message})


def crashed(reason: str, message: str = "Model bert: It is so.") -> dict[str, Any]:
    last = ended(1, message=said(reason, message))
    return {"started": False, "restartCount": 1, "lastState": last}


POD_CAUSES = {
    "no GPU": (pod(status=unscheduled(NO_GPU)), Reason.UNSCHEDULABLE, "with nvidia.com/gpu"),
    "no room": (
        pod(status=unscheduled("0/1 nodes are available: 1 Insufficient cpu.")),
        Reason.UNSCHEDULABLE,
        "lower the requests",
    ),
    "no claim": (pod(status=unscheduled(NO_CLAIM)), Reason.BUNDLE_UNAVAILABLE, "Create the claim"),
    "worker image": (
        pod(container=waiting("ImagePullBackOff", PULL.format(WORKER_IMAGE))),
        Reason.IMAGE_UNAVAILABLE,
        WORKER_IMAGE,
    ),
    "worker image never pulled": (
        pod(
            container=waiting(
                "ErrImageNeverPull",
                f'Container image "{WORKER_IMAGE}" is not present with pull policy of Never',
            )
        ),
        Reason.IMAGE_UNAVAILABLE,
        "images and imagePullSecrets",
    ),
    "image without a text": (
        pod(container=waiting("InvalidImageName")),
        Reason.IMAGE_UNAVAILABLE,
        "InvalidImageName",
    ),
    "bundle image": (
        pod(container=waiting("ErrImagePull", PULL.format(BUNDLE_IMAGE))),
        Reason.BUNDLE_UNAVAILABLE,
        f"the bundle {BUNDLE_IMAGE}",
    ),
    "missing Secret": (
        pod(container=waiting("CreateContainerConfigError", 'secret "hub-token" not found')),
        Reason.SECRET_MISSING,
        'secret "hub-token" not found. Create it',
    ),
    "missing key": (
        pod(
            container=waiting(
                "CreateContainerConfigError", "couldn't find key token in Secret demo/hub-token"
            )
        ),
        Reason.SECRET_MISSING,
        "key token",
    ),
    "missing folder in a claim": (
        pod(
            container=waiting(
                "CreateContainerConfigError",
                'failed to prepare subPath for volumeMount "bundle" of container "worker"',
            )
        ),
        Reason.BUNDLE_UNAVAILABLE,
        "cannot be mounted",
    ),
    "root user": (
        pod(
            container=waiting(
                "CreateContainerConfigError",
                "container has runAsNonRoot and image will run as root",
            )
        ),
        Reason.CONTAINER_NOT_CREATED,
        "runAsNonRoot",
    ),
    "out of memory": (
        pod(container={"started": False, "lastState": ended(137, reason="OOMKilled")}),
        Reason.OUT_OF_MEMORY,
        "its limit of 512Mi. Raise",
    ),
    "out of memory, in a crash loop": (
        pod(container=waiting("CrashLoopBackOff", lastState=ended(137, reason="OOMKilled"))),
        Reason.OUT_OF_MEMORY,
        "Raise resources.limits.memory",
    ),
    "bad digest": (
        pod(container=crashed("DigestMismatch", "Model bert: The digest is another one.")),
        Reason.BUNDLE_INVALID,
        "Model bert: The digest is another one.",
    ),
    "damaged bundle": (
        pod(container=waiting("CrashLoopBackOff", lastState=ended(message=said("TruncatedFile")))),
        Reason.BUNDLE_INVALID,
        "It is so.",
    ),
    "bad digest, just ended": (
        pod(container={"started": False, "state": ended(message=said("DigestMismatch"))}),
        Reason.BUNDLE_INVALID,
        "It is so.",
    ),
    "empty folder": (
        pod(container=crashed("MissingBundle")),
        Reason.BUNDLE_UNAVAILABLE,
        "It is so.",
    ),
    "other words of the worker": (
        pod(container=crashed("PrecisionUnavailable")),
        Reason.WORKER_FAILED,
        "It is so.",
    ),
    "source of an init container": (
        pod(
            container=waiting("PodInitializing"),
            init={"started": False, "state": ended(message=said("HubUnreachable"))},
        ),
        Reason.SOURCE_UNAVAILABLE,
        "It is so.",
    ),
    "crash loop": (
        pod(
            container=waiting(
                "CrashLoopBackOff",
                "back-off 10s restarting failed container",
                restartCount=2,
                lastState=ended(3, message="loading\nSegmentation fault"),
            )
        ),
        Reason.CRASH_LOOP,
        "exit code 3. Its last words: Segmentation fault. See its log",
    ),
    "crash loop, running for a moment": (
        pod(container={"started": False, "restartCount": 2, "lastState": ended(3)}),
        Reason.CRASH_LOOP,
        "again and again",
    ),
    "startup never ready": (
        pod(
            container={"started": False, "restartCount": 1, "lastState": ended(143, seconds=13)},
            probe=SHORT_PROBE,
        ),
        Reason.STARTUP_TIMEOUT,
        "did not become ready in time",
    ),
    "startup never ready, again": (
        pod(
            container=waiting("CrashLoopBackOff", restartCount=4, lastState=ended(0, seconds=10)),
            probe=SHORT_PROBE,
        ),
        Reason.STARTUP_TIMEOUT,
        "raise the startup probe",
    ),
}


@pytest.mark.parametrize(("failing", "reason", "words"), POD_CAUSES.values(), ids=POD_CAUSES)
def test_a_pod_shows_its_cause(failing: dict[str, Any], reason: Reason, words: str) -> None:
    (cause,) = causes(pods=[failing], deployment=deployment())
    assert cause.reason is reason
    assert cause.message.startswith("Pod joint-bert-7d9f-abcde: ")
    assert words in cause.message


HEALTHY = {
    "loading, startup probe fails": pod(container={"started": False}),
    "being created": pod(container=waiting("ContainerCreating")),
    "waiting for its init container": pod(
        container=waiting("PodInitializing"), init={"state": {"running": {}}}
    ),
    "after a finished init container": pod(init={"state": ended(0), "ready": True}),
    "ready after a crash": pod(ready=True, container={"lastState": ended(1)}),
    "busy after a crash long ago": pod(
        container={"started": True, "lastState": ended(137, reason="OOMKilled")}
    ),
    "restarted once without a word": pod(
        container={"started": False, "restartCount": 1, "lastState": ended(1)}
    ),
    "ending": pod(status=unscheduled(NO_GPU), ending=True),
    "evicted": pod(phase="Failed", container=crashed("DigestMismatch")),
    "held back by a gate": pod(
        status={
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
            ],
            "containerStatuses": [],
        }
    ),
    "just made": {"metadata": {"name": "p"}, "spec": {}, "status": {}},
}


@pytest.mark.parametrize("starting", HEALTHY.values(), ids=HEALTHY)
def test_what_merely_starts_has_no_cause(starting: dict[str, Any]) -> None:
    unhealthy = event("Unhealthy", "Startup probe failed: HTTP probe failed with statuscode: 503")
    assert causes(pods=[starting], deployment=deployment(), events=[unhealthy]) == ()


def test_a_container_that_was_ended_after_it_had_started_did_not_time_out() -> None:
    old = pod(
        container=waiting("CrashLoopBackOff", lastState=ended(137, seconds=7200)),
        probe=SHORT_PROBE,
    )
    assert [cause.reason for cause in causes(pods=[old], deployment=None)] == [Reason.CRASH_LOOP]


def test_an_event_tells_that_the_startup_probe_ended_a_container() -> None:
    failing = pod(container={"started": False, "lastState": ended(137, seconds=9000)})
    killed = event("Killing", "Container worker failed startup probe, will be restarted")
    (cause,) = causes(pods=[failing], deployment=None, events=[killed])
    assert cause.reason is Reason.STARTUP_TIMEOUT


@pytest.mark.parametrize(
    "text",
    [
        'MountVolume.SetUp failed for volume "config" : configmap "joint-bert" not found',
        'MountVolume.SetUp failed for volume "token" : secret "hub-token" not found',
        'MountVolume.SetUp failed for volume "x" : references non-existent secret key: token',
    ],
)
def test_an_event_tells_what_cannot_be_mounted(text: str) -> None:
    creating = pod(container=waiting("ContainerCreating"))
    (cause,) = causes(pods=[creating], deployment=None, events=[event("FailedMount", text)])
    assert cause.reason is Reason.SECRET_MISSING
    assert text in cause.message


def test_a_slow_mount_and_events_of_other_pods_are_no_cause() -> None:
    creating = pod(container=waiting("ContainerCreating"))
    slow = "MountVolume.SetUp failed: failed to sync configmap cache: timed out"
    missing = 'MountVolume.SetUp failed for volume "t" : secret "hub-token" not found'
    events = [event("FailedMount", slow), event("FailedMount", missing, of="another")]
    assert causes(pods=[creating], deployment=None, events=events) == ()


def test_an_event_tells_which_image_when_the_container_does_not() -> None:
    failing = pod(container=waiting("ErrImagePull", "rpc error: code = Unknown"))
    pulled = event("Failed", f'Failed to pull image "{BUNDLE_IMAGE}": rpc error: code = Unknown')
    (cause,) = causes(pods=[failing], deployment=None, events=[pulled])
    assert cause.reason is Reason.BUNDLE_UNAVAILABLE


@pytest.mark.parametrize(
    ("worker", "bundle", "missing"),
    [
        ("registry.example/ml", "registry.example/ml/bert:1", "bundle"),
        ("registry.example/ml/bert:1-worker", "registry.example/ml/bert:1", "worker"),
        ("docker.io/library/worker", "docker.io/library/bert", "bundle"),
    ],
)
def test_the_most_exact_image_in_the_text_is_the_missing_one(
    worker: str, bundle: str, missing: str
) -> None:
    text = PULL.format({"worker": worker, "bundle": bundle}[missing])
    failing = pod(container=waiting("ErrImagePull", text))
    failing["spec"]["containers"][0]["image"] = worker
    failing["spec"]["volumes"][0]["image"]["reference"] = bundle
    (cause,) = causes(pods=[failing], deployment=None)
    expected = {"worker": Reason.IMAGE_UNAVAILABLE, "bundle": Reason.BUNDLE_UNAVAILABLE}
    assert cause.reason is expected[missing]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'pods "joint-bert-x" is forbidden: exceeded quota: small, requested: cpu=250m, '
            "used: cpu=1, limited: cpu=1",
            Reason.QUOTA_EXCEEDED,
        ),
        (
            'pods "joint-bert-x" is forbidden: failed quota: small: must specify limits.memory',
            Reason.QUOTA_EXCEEDED,
        ),
        (
            'pods "joint-bert-x" is forbidden: violates PodSecurity "restricted:latest": '
            "runAsNonRoot != true",
            Reason.ADMISSION_REFUSED,
        ),
        (
            'admission webhook "policy.example" denied the request: no images from there',
            Reason.ADMISSION_REFUSED,
        ),
    ],
)
def test_a_deployment_tells_why_pods_are_not_created(text: str, reason: Reason) -> None:
    (cause,) = causes(pods=[], deployment=deployment(failure=text))
    assert cause.reason is reason
    assert text in cause.message


def test_one_cause_of_many_pods_is_told_once() -> None:
    pods = [pod(f"joint-bert-{n}", status=unscheduled(NO_GPU)) for n in range(3)]
    (cause,) = causes(pods=pods, deployment=deployment())
    assert cause.message.startswith("Pod joint-bert-0: ")
    assert cause.message.endswith("2 more replicas have the same cause.")


def test_different_causes_are_all_told() -> None:
    pods = [pod("a", status=unscheduled(NO_GPU)), pod("b", container=crashed("DigestMismatch"))]
    found = causes(pods=pods, deployment=deployment(failure="exceeded quota: small"))
    assert [cause.reason for cause in found] == [
        Reason.QUOTA_EXCEEDED,
        Reason.UNSCHEDULABLE,
        Reason.BUNDLE_INVALID,
    ]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[1]",
        '{"reason": 3}',
        '{"reason": "X"}',
        '{"reason": "X", "message": ""}',
        '{"a":1}',
    ],
)
def test_last_words_that_are_not_a_workers_do_not_confuse(message: str) -> None:
    looping = pod(container=waiting("CrashLoopBackOff", lastState=ended(1, message=message)))
    (cause,) = causes(pods=[looping], deployment=None)
    assert cause.reason is Reason.CRASH_LOOP


def test_foreign_texts_are_cut() -> None:
    looping = pod(status=unscheduled("0/9 nodes are available: " + "x" * 5000))
    (cause,) = causes(pods=[looping], deployment=None)
    assert len(cause.message) < 1000
