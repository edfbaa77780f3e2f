"""A sampler that looks at one pipeline every 100 ms, beside whatever a test does to it.

What it saw is read after the block; what must hold of it is in `cluster_checks`, which needs no
cluster. Two threads: the quick one reads what can be wrong for a moment, the slow one reads every
object with a label of the pipeline, for owners that no longer exist.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import urllib3

from tests.support.cluster import ApiRefused, Space, Wire

__all__ = [
    "Autoscaler", "Census", "PodSeen", "Sample", "Sampler", "is_ready", "ownerless",
    "replica_writers",
]  # fmt: skip

EVERY_S: Final = 0.1
CENSUS_S: Final = 0.5
_OWNED: Final = (
    "Pod", "ReplicaSet", "Deployment", "ServiceAccount", "ConfigMap", "NetworkPolicy", "Service",
    "HorizontalPodAutoscaler", "PodDisruptionBudget",
)  # fmt: skip
"""What carries a pipeline's label, those that others own first: an owner that appears while the
lists are read is then known."""
_OPERATOR: Final = "app.kubernetes.io/component=operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSeen:
    """A pod."""

    uid: str
    model: str
    ready: bool
    """Whether it is ready and does not end."""
    ending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaler:
    """What an autoscaler may do, and what it last did."""

    minimum: int
    maximum: int
    desired: int
    last_scale: str
    """``status.lastScaleTime``, changed with every change that it makes; empty: none yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One moment of a pipeline, by model where nothing else is said."""

    at: float
    """Monotonic time, seconds."""
    replicas: dict[str, int]
    """``spec.replicas`` of the Deployments."""
    uids: dict[str, str] = field(default_factory=dict)
    """Of the Deployments."""
    writers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Field managers of ``spec.replicas``."""
    seen: tuple[PodSeen, ...] = ()
    """Pods that exist, ending ones included."""
    autoscalers: dict[str, Autoscaler] = field(default_factory=dict)
    granted: dict[str, int] = field(default_factory=dict)
    """What status grants."""
    floors: dict[str, int] = field(default_factory=dict)
    """What status calls the least that each model gets, where the budget allows it."""
    says_ready: bool = False
    """Whether status calls the newest generation ready."""
    operators: int = 1
    """Operators that are ready."""
    blind: bool = False
    """Whether the test keeps the operator or everybody from the API server."""
    epoch: int = 0
    """How often that has begun or ended so far."""

    @property
    def pods(self) -> dict[str, int]:
        """Number of pods, ending ones included."""
        return dict(Counter(pod.model for pod in self.seen))

    @property
    def ready(self) -> dict[str, int]:
        """Number of pods that are ready and do not end."""
        return dict(Counter(pod.model for pod in self.seen if pod.ready))


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Objects of a pipeline whose owners do not exist, at one moment."""

    at: float
    ownerless: frozenset[str]
    """Kind, name and uid."""
    epoch: int = 0
    """As in `Sample`."""


class Sampler:
    """Looks at a pipeline; a context manager.

    Args:
        space: its namespace.
        pipeline: its name.
        operators: where the operator's pods are; None: they are not looked at.
    """

    def __init__(self, space: Space, pipeline: str, *, operators: Space | None = None) -> None:
        self.samples: list[Sample] = []
        self.census: list[Census] = []
        self.missed = 0
        """Samples that failed while the API server was not kept away on purpose."""
        self.killed: set[str] = set()
        """Uids of pods that the test itself killed, or whose Deployment it deleted."""
        self._space, self._pipeline, self._operators = space, pipeline, operators
        self._selector = f"deepseek.ai/pipeline={pipeline}"
        self._blind, self._epoch = False, 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._sample, name="sampler"),
            threading.Thread(target=self._count, name="census"),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """The operator cannot see the cluster inside the block; nobody else may either."""
        self._blind, self._epoch = True, self._epoch + 1
        try:
            yield
        finally:
            self._blind, self._epoch = False, self._epoch + 1

    def changes(self, model: str) -> list[int]:
        """Values of ``spec.replicas`` in order, without repetitions."""
        values = [s.replicas[model] for s in self.samples if model in s.replicas]
        return [v for i, v in enumerate(values) if i == 0 or values[i - 1] != v]

    def _sample(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self.samples.append(self._look(started))
            except (ApiRefused, urllib3.exceptions.HTTPError, OSError):
                self.missed += not self._blind
            self._stop.wait(max(0.0, EVERY_S - (time.monotonic() - started)))

    def _look(self, at: float) -> Sample:
        blind, epoch = self._blind, self._epoch
        # Pods first: replicas that are lowered in between are then still counted as pods.
        pods = self._space.items("Pod", self._selector)
        deployments = self._space.items("Deployment", self._selector)
        # Afterwards, because an autoscaler tells what it did when it has done it.
        autoscalers = self._space.items("HorizontalPodAutoscaler", self._selector)
        raw = self._space.get("ModelPipeline", self._pipeline) or {"metadata": {}}
        operators = [] if self._operators is None else self._operators.items("Pod", _OPERATOR)
        return Sample(
            at=at,
            replicas={_model(d): d["spec"].get("replicas", 1) for d in deployments},
            uids={_model(d): d["metadata"]["uid"] for d in deployments},
            writers={_model(d): replica_writers(d) for d in deployments},
            seen=tuple(map(_pod, pods)),
            autoscalers={_model(item): _autoscaler(item) for item in autoscalers},
            granted=_allocated(raw, "granted"),
            floors=_allocated(raw, "floor"),
            says_ready=_says_ready(raw),
            operators=1 if self._operators is None else sum(map(is_ready, operators)),
            blind=blind,
            epoch=epoch,
        )

    def _count(self) -> None:
        while not self._stop.is_set():
            at, epoch = time.monotonic(), self._epoch
            with contextlib.suppress(ApiRefused, urllib3.exceptions.HTTPError, OSError):
                found = {
                    kind: self._space.kube.items(
                        kind, self._space.name, self._selector, metadata_only=True
                    )
                    for kind in _OWNED
                }
                pipelines = self._space.kube.items(
                    "ModelPipeline", self._space.name, metadata_only=True
                )
                alive = {item["metadata"]["uid"] for item in pipelines}
                self.census.append(Census(at=at, ownerless=ownerless(found, alive), epoch=epoch))
            self._stop.wait(max(0.0, CENSUS_S - (time.monotonic() - at)))


def ownerless(found: dict[str, list[Wire]], pipelines: Collection[str]) -> frozenset[str]:
    """Objects of which no owner is among the pipelines or among the objects themselves.

    Args:
        found: objects by kind.
        pipelines: uids of those that exist.
    """
    alive = {item["metadata"]["uid"] for items in found.values() for item in items}
    alive |= set(pipelines)
    return frozenset(
        f"{kind} {item['metadata']['name']} ({item['metadata']['uid']})"
        for kind, items in found.items()
        for item in items
        if not any(o["uid"] in alive for o in item["metadata"].get("ownerReferences", ()))
    )


def replica_writers(deployment: Wire) -> tuple[str, ...]:
    """Managers that own ``spec.replicas`` of a Deployment."""
    entries = deployment["metadata"].get("managedFields", ())
    return tuple(
        entry["manager"]
        for entry in entries
        if "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {})
    )


def is_ready(pod: Wire) -> bool:
    """Whether a pod is ready and does not end."""
    conditions = pod["status"].get("conditions", ())
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not _ends(pod)


def _ends(pod: Wire) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _model(item: Wire) -> str:
    return str(item["metadata"]["labels"]["deepseek.ai/model"])


def _pod(pod: Wire) -> PodSeen:
    uid = pod["metadata"]["uid"]
    return PodSeen(uid=uid, model=_model(pod), ready=is_ready(pod), ending=_ends(pod))


def _autoscaler(item: Wire) -> Autoscaler:
    spec, status = item["spec"], item.get("status") or {}
    return Autoscaler(
        minimum=spec.get("minReplicas", 1),
        maximum=spec["maxReplicas"],
        desired=status.get("desiredReplicas", 0),
        last_scale=status.get("lastScaleTime") or "",
    )


def _allocated(raw: Wire, column: str) -> dict[str, int]:
    rows = (raw.get("status") or {}).get("allocation", ())
    return {row["model"]: row[column] for row in rows}


def _says_ready(raw: Wire) -> bool:
    status = raw.get("status") or {}
    if status.get("observedGeneration") != raw["metadata"].get("generation"):
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))
