"""Why replicas of a model are not ready: one stable word and one sentence for each cause.

Why it exists: Kubernetes spreads the cause of a failure over container states, pod conditions,
the Deployment and Events. A person wants the cause and what to do. This module reads what is
there and nothing else: no clock, no cluster. A container that still loads its model fails its
startup probe again and again; that is progress and never a cause. Deciding whether a model is
degraded is the business of `status`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from deepseek_api.v1alpha1.conditions import ConditionReason as Reason

from deepseek_operator.labels import WORKER_CONTAINER
from deepseek_operator.observed import K8sObject

__all__ = ["Cause", "causes"]

_MAX_TEXT: Final = 600
"""Characters of a foreign message that are kept."""
_IMAGE_FAILURES: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_NOT_CREATED: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_STOPPED_BY_SIGNAL: Final = frozenset({0, 137, 143})
"""Exit codes of a container that the kubelet ended."""
_WORKER_REASONS: Final[Mapping[str, Reason]] = {
    "MissingBundle": Reason.BUNDLE_UNAVAILABLE,
    **dict.fromkeys(
        (
            "DigestMismatch",
            "InvalidBundle",
            "MissingFile",
            "SizeMismatch",
            "TruncatedFile",
            "UnreadableGraph",
            "UnreadableTokenizer",
            "UnsafePath",
        ),
        Reason.BUNDLE_INVALID,
    ),
    "InsufficientMemory": Reason.OUT_OF_MEMORY,
    "OutOfMemory": Reason.OUT_OF_MEMORY,
    "SourceUnavailable": Reason.SOURCE_UNAVAILABLE,
}
"""What a worker writes as ``reason`` when it ends, as a reason of a condition."""
_MISSING_OBJECT: Final = re.compile(
    r"(?i)\b(secret|configmap)s? \"[^\"]+\" not found"
    r"|couldn't find key .* in (secret|configmap)"
    r"|references non-existent (secret|config) key"
)
_MISSING_CLAIM: Final = re.compile(r"persistentvolumeclaim \"[^\"]+\" (not found|is being deleted)")
_MISSING_FOLDER: Final = re.compile(r"(?i)subpath|image ?volume")
_DEVICE: Final = re.compile(r"Insufficient ([a-z0-9.-]+/[a-z0-9.-]+)")


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause of replicas that are not ready."""

    reason: Reason
    """The stable word."""
    message: str
    """What is wrong, in which pod, and what to do."""


def causes(
    *, pods: Sequence[K8sObject], deployment: K8sObject | None, events: Sequence[K8sObject] = ()
) -> tuple[Cause, ...]:
    """Find why the replicas of one model are not ready.

    Args:
        pods: the model's pods of the current template; pods that end or have ended do not count.
        deployment: the model's Deployment; it tells why pods are not even created.
        events: Events about those pods; may be incomplete.

    Returns:
        One cause for each reason, in the order in which they were found; empty when everything
        that is not ready merely starts.
    """
    alive = [pod for pod in pods if _is_alive(pod)]
    found = [*_of_deployment(deployment)]
    for pod in alive:
        cause = _of_pod(pod, events)
        if cause is not None:
            found.append(cause)
    by_reason: dict[Reason, list[Cause]] = {}
    for cause in found:
        by_reason.setdefault(cause.reason, []).append(cause)
    return tuple(_merged(group) for group in by_reason.values())


def _merged(group: list[Cause]) -> Cause:
    if len(group) == 1:
        return group[0]
    others = len(group) - 1
    more = f"{others} more {'replica has' if others == 1 else 'replicas have'} the same cause."
    return Cause(group[0].reason, f"{group[0].message} {more}")


def _is_alive(pod: K8sObject) -> bool:
    ended = pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}
    return not ended and "deletionTimestamp" not in pod["metadata"]


def _of_deployment(deployment: K8sObject | None) -> Iterable[Cause]:
    conditions = (deployment or {}).get("status", {}).get("conditions", ())
    for condition in conditions:
        if condition.get("type") != "ReplicaFailure" or condition.get("status") != "True":
            continue
        text = _clean(condition.get("message"))
        if "exceeded quota" in text or "failed quota" in text:
            hint = "Raise the quota of the namespace, or lower the replicas or their resources."
            yield Cause(Reason.QUOTA_EXCEEDED, f"No pod can be created: {text}. {hint}")
        else:
            hint = "Change the policy of the namespace, or podTemplate and resources of the model."
            yield Cause(Reason.ADMISSION_REFUSED, f"No pod can be created: {text}. {hint}")


def _of_pod(pod: K8sObject, events: Sequence[K8sObject]) -> Cause | None:
    name = pod["metadata"]["name"]
    own = [event for event in events if _about(event, pod)]
    found = _scheduling(pod)
    if found is None:
        for status, is_init in _containers(pod):
            found = _of_container(pod, status, is_init=is_init, events=own)
            if found is not None:
                break
    found = found or _mounting(pod, own)
    return None if found is None else Cause(found.reason, f"Pod {name}: {found.message}")


def _about(event: K8sObject, pod: K8sObject) -> bool:
    about = event.get("involvedObject") or event.get("regarding") or {}
    if about.get("kind") not in {None, "Pod"} or about.get("name") != pod["metadata"]["name"]:
        return False
    # A new pod can have the name of an old one only with a StatefulSet, but uids cost nothing.
    uids = {about.get("uid"), pod["metadata"].get("uid")} - {None}
    return len(uids) < 2


def _scheduling(pod: K8sObject) -> Cause | None:
    for condition in pod.get("status", {}).get("conditions", ()):
        unscheduled = condition.get("type") == "PodScheduled" and condition.get("status") == "False"
        if not unscheduled or condition.get("reason") != "Unschedulable":
            continue
        text = _clean(condition.get("message"))
        if _MISSING_CLAIM.search(text):
            hint = "Create the claim, or correct the source's uri."
            return Cause(Reason.BUNDLE_UNAVAILABLE, f"{text}. {hint}")
        device = _DEVICE.search(text)
        hint = (
            f"Add nodes with {device[1]}, install its device plugin, or lower the budget."
            if device
            else "Add nodes, or lower the requests of the model."
        )
        return Cause(Reason.UNSCHEDULABLE, f"no node takes it: {text}. {hint}")
    return None


def _containers(pod: K8sObject) -> list[tuple[K8sObject, bool]]:
    status = pod.get("status", {})
    inits = [(one, True) for one in status.get("initContainerStatuses", ())]
    workers = [(one, False) for one in status.get("containerStatuses", ())]
    return inits + sorted(workers, key=lambda pair: pair[0].get("name") != WORKER_CONTAINER)


def _of_container(
    pod: K8sObject, status: K8sObject, *, is_init: bool, events: Sequence[K8sObject]
) -> Cause | None:
    state = status.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, text = str(waiting.get("reason", "")), _clean(waiting.get("message"))
    if reason in _IMAGE_FAILURES:
        return _image(pod, status, reason=reason, text=text, events=events)
    if reason in _NOT_CREATED:
        return _not_created(status, reason=reason, text=text)
    if status.get("ready") or (status.get("started") and not is_init and not waiting):
        return None
    ended = state.get("terminated") or (status.get("lastState") or {}).get("terminated")
    if not ended or (is_init and ended.get("exitCode") == 0):
        return None
    return _ended(pod, status, ended=ended, is_init=is_init, events=events)


def _image(
    pod: K8sObject,
    status: K8sObject,
    *,
    reason: str,
    text: str,
    events: Sequence[K8sObject],
) -> Cause:
    # An image volume that cannot be pulled looks like a container whose image cannot be pulled;
    # only the text says which image it was.
    said = " ".join([text, *(str(e.get("message") or e.get("note") or "") for e in events)])
    spec = pod.get("spec", {})
    bundles = [v["image"].get("reference", "") for v in spec.get("volumes", ()) if "image" in v]
    images = [
        str(c.get("image", ""))
        for c in (*spec.get("initContainers", ()), *spec.get("containers", ()))
        if c.get("name") == status.get("name")
    ] or [str(status.get("image", ""))]
    for where in (text, said):
        named = [image for image in (*bundles, *images) if image and _tail(image) in where]
        if named:
            longest = max(named, key=len)
            is_bundle = longest in bundles and longest not in images
            return _image_cause(longest, text or reason, is_bundle=is_bundle)
    return _image_cause(images[0], text or reason, is_bundle=False)


def _tail(image: str) -> str:
    """The part of a reference that a runtime repeats after having completed the reference."""
    return image.removeprefix("docker.io/").removeprefix("library/")


def _image_cause(image: str, text: str, *, is_bundle: bool) -> Cause:
    if is_bundle:
        hint = "Push the image, or correct the source's uri and its pull secret."
        return Cause(
            Reason.BUNDLE_UNAVAILABLE, f"the bundle {image} cannot be pulled: {text}. {hint}"
        )
    hint = "Push the image, or correct the operator's images and imagePullSecrets."
    return Cause(Reason.IMAGE_UNAVAILABLE, f"the image {image} cannot be pulled: {text}. {hint}")


def _not_created(status: K8sObject, *, reason: str, text: str) -> Cause:
    container, text = status.get("name", ""), text or reason
    if _MISSING_OBJECT.search(text):
        return _missing_object(text)
    if _MISSING_FOLDER.search(text):
        hint = "Put the bundle at that place, or correct the source's uri."
        return Cause(Reason.BUNDLE_UNAVAILABLE, f"the bundle cannot be mounted: {text}. {hint}")
    hint = "Check the podTemplate of the model and the node's runtime."
    return Cause(
        Reason.CONTAINER_NOT_CREATED, f"container {container} cannot be created: {text}. {hint}"
    )


def _missing_object(text: str) -> Cause:
    hint = "Create it in the namespace of the pipeline, or correct its name."
    return Cause(Reason.SECRET_MISSING, f"{text}. {hint}")


def _mounting(pod: K8sObject, events: Sequence[K8sObject]) -> Cause | None:
    states = [status.get("state") or {} for status, _ in _containers(pod)]
    if any("running" in state for state in states):
        return None
    for event in events:
        text = _clean(event.get("message") or event.get("note"))
        if event.get("reason") not in {"FailedMount", "FailedAttachVolume"}:
            continue
        if _MISSING_OBJECT.search(text):
            return _missing_object(text)
    return None


def _ended(
    pod: K8sObject,
    status: K8sObject,
    *,
    ended: K8sObject,
    is_init: bool,
    events: Sequence[K8sObject],
) -> Cause | None:
    container = status.get("name", "")
    said = _termination_message(ended.get("message"))
    if ended.get("reason") == "OOMKilled":
        hint = "Raise resources.limits.memory of the model, or choose a smaller precision."
        limit = _memory_limit(pod, str(container))
        text = f"container {container} used more memory than its limit{limit}."
        return Cause(Reason.OUT_OF_MEMORY, f"{text} {hint}")
    if said is not None:
        word, text = said
        default = Reason.SOURCE_UNAVAILABLE if is_init else Reason.WORKER_FAILED
        return Cause(_WORKER_REASONS.get(word, default), text)
    if _startup_failed(pod, status, ended=ended, events=events):
        hint = "See its log for what takes so long, or raise the startup probe in podTemplate."
        return Cause(
            Reason.STARTUP_TIMEOUT,
            f"container {container} was ended because it did not become ready in time. {hint}",
        )
    return _crash_loop(status, ended)


def _crash_loop(status: K8sObject, ended: K8sObject) -> Cause | None:
    waits = ((status.get("state") or {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    # Between two waits the container runs for a moment; the cause is the same then.
    again = int(status.get("restartCount", 0)) >= 2 and ended.get("exitCode") != 0
    if not (waits or again):
        return None
    lines = str(ended.get("message") or "").strip().splitlines()
    last = f" Its last words: {_clean(lines[-1])}." if lines else ""
    return Cause(
        Reason.CRASH_LOOP,
        f"container {status.get('name', '')} ends again and again, last with exit code "
        f"{ended.get('exitCode')}.{last} See its log: kubectl logs --previous.",
    )


def _termination_message(message: object) -> tuple[str, str] | None:
    """The ``reason`` and ``message`` that a worker left behind, if it did."""
    try:
        said = json.loads(str(message or ""))
    except ValueError:
        return None
    if not isinstance(said, dict) or not isinstance(said.get("reason"), str):
        return None
    text = said.get("message")
    return (said["reason"], _clip(text.strip())) if isinstance(text, str) and text.strip() else None


def _startup_failed(
    pod: K8sObject, status: K8sObject, *, ended: K8sObject, events: Sequence[K8sObject]
) -> bool:
    if ended.get("exitCode") not in _STOPPED_BY_SIGNAL:
        return False
    container = str(status.get("name", ""))
    killed = f"{container} failed startup probe"
    if any(killed in str(e.get("message") or e.get("note") or "") for e in events):
        return True
    probe = _spec_of(pod, container).get("startupProbe")
    started, finished = _time(ended.get("startedAt")), _time(ended.get("finishedAt"))
    if not probe or started is None or finished is None:
        return False
    period = int(probe.get("periodSeconds", 10))
    limit = int(probe.get("initialDelaySeconds", 0)) + period * int(
        probe.get("failureThreshold", 3)
    )
    grace = int(pod.get("spec", {}).get("terminationGracePeriodSeconds", 30))
    lived = (finished - started).total_seconds()
    # The last failure comes one period before the limit at the earliest, and times are cut to
    # seconds. One that lived much longer had started, and something else ended it.
    return limit - period - 1 <= lived <= limit + period + grace + 10


def _spec_of(pod: K8sObject, container: str) -> Mapping[str, Any]:
    spec = pod.get("spec", {})
    for one in (*spec.get("containers", ()), *spec.get("initContainers", ())):
        if one.get("name") == container:
            return dict(one)
    return {}


def _memory_limit(pod: K8sObject, container: str) -> str:
    limit = _spec_of(pod, container).get("resources", {}).get("limits", {}).get("memory")
    return f" of {limit}" if limit else ""


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _clean(text: object) -> str:
    """One line of bounded length without the final full stop."""
    return _clip(" ".join(str(text or "").split()).rstrip(". "))


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1].rstrip() + "…"
