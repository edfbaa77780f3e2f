"""What is worth an Event: the difference between two statuses, and how often it may be said.

Why it exists: ``kubectl describe`` shows Events, so they must tell what changed and not repeat
what is. They follow from the status that was and the status that is, so a restarted operator
repeats nothing. Writing them is the business of `kube`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from deepseek_api.v1alpha1.conditions import ConditionReason
from deepseek_api.v1alpha1.conditions import ConditionType as Type
from deepseek_api.v1alpha1.pipeline import ModelPipeline

from deepseek_operator.observed import K8sObject

__all__ = ["EventLimiter", "PipelineEvent", "invalid", "transitions"]

_MAX_NOTE: Final = 1024
"""Bytes in UTF-8 that the API server takes."""
_CUT: Final = "…"
_ALARMS: Final[Mapping[Type, str]] = {
    Type.SCALING_CONFLICT: "True",
    Type.METRICS_AVAILABLE: "False",
    Type.BUDGET_SUFFICIENT: "False",
    Type.NAME_CONFLICT: "True",
    Type.DEVICE_UNAVAILABLE: "True",
    Type.CHILD_REJECTED: "True",
}
"""Conditions of a pipeline with the value that is worth a warning."""


@dataclass(frozen=True, slots=True)
class PipelineEvent:
    """One Event about a pipeline."""

    type: Literal["Normal", "Warning"]
    """Whether somebody should look."""
    reason: str
    """A stable word."""
    note: str
    """What happened, sentences; at most 1024 bytes in UTF-8."""
    model: str | None = None
    """The model that it is about; None: the whole pipeline."""


def transitions(
    old_status: Mapping[str, Any] | None, new_status: Mapping[str, Any], pipeline: ModelPipeline
) -> tuple[PipelineEvent, ...]:
    """The Events that lead from one status to the next.

    Args:
        old_status: the status that was, in wire form; None or empty: the pipeline is new.
        new_status: the status that is.
        pipeline: what the user wants.
    """
    old: Mapping[str, Any] = old_status or {}
    told = list(_grants(old, new_status))
    explained: set[str] = set()
    before = _by(old.get("models"), "name")
    for name, model in _by(new_status.get("models"), "name").items():
        was = _by(before.get(name, {}).get("conditions"), "type")
        now = _by(model.get("conditions"), "type")
        told += _model(name, was, now)
        if _value(now, Type.DEGRADED) == "True":
            explained.add(str(now[Type.DEGRADED].get("reason")))
    told += _pipeline(old, new_status, name=pipeline.metadata.name, explained=explained)
    return tuple(told)


def invalid(pipeline: K8sObject, text: str) -> tuple[PipelineEvent, ...]:
    """The Events about a stored pipeline that cannot be read.

    Args:
        pipeline: the object as it is stored.
        text: why it cannot be read.
    """
    note = f"{pipeline['metadata']['name']} cannot be read, so nothing is changed: {text}"
    return (_event("Warning", ConditionReason.SPEC_INVALID.value, note),)


def _grants(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[PipelineEvent]:
    before = _by(old.get("allocation"), "model")
    for name, row in _by(new.get("allocation"), "model").items():
        was, now = before.get(name, {}).get("granted"), row.get("granted")
        if was == now:
            continue
        change = f"{now} replicas" if was is None else f"{was} -> {now} replicas"
        note = (
            f"{name}: {change}; it asks for {row.get('demand')}, limited by {row.get('limitedBy')}."
        )
        yield _event("Normal", "GrantChanged", note, name)


def _model(
    name: str, was: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]
) -> Iterator[PipelineEvent]:
    old, new = was.get(Type.DEGRADED, {}), now.get(Type.DEGRADED, {})
    if new.get("status") == "True":
        if (old.get("status"), old.get("reason")) != ("True", new.get("reason")):
            yield _event("Warning", str(new.get("reason")), f"{name}: {new.get('message')}", name)
    elif old.get("status") == "True":
        yield _event("Normal", "Recovered", f"{name}: {old.get('reason')} is over.", name)
    if _value(now, Type.READY) == "True" and _value(was, Type.READY) != "True":
        note = f"{name}: {now[Type.READY].get('message')}"
        yield _event("Normal", "ModelReady", note, name)


def _pipeline(
    old: Mapping[str, Any], new: Mapping[str, Any], *, name: str, explained: set[str]
) -> Iterator[PipelineEvent]:
    was, now = _by(old.get("conditions"), "type"), _by(new.get("conditions"), "type")
    for kind, alarming in _ALARMS.items():
        reason = str(now.get(kind, {}).get("reason"))
        alarmed = (_value(was, kind) == alarming, _value(now, kind) == alarming)
        same = was.get(kind, {}).get("reason") == reason
        if alarmed[1] and not (alarmed[0] and same) and reason not in explained:
            yield _event("Warning", reason, str(now[kind].get("message")))
        elif alarmed[0] and not alarmed[1]:
            yield _event("Normal", reason, f"{kind.value}: {now.get(kind, {}).get('message')}")
    if _value(now, Type.READY) == "True" and _value(was, Type.READY) != "True":
        yield _event("Normal", "Ready", f"{name}: {now[Type.READY].get('message')}")
    yield from _degraded(was, now, explained)


def _degraded(
    was: Mapping[str, Mapping[str, Any]],
    now: Mapping[str, Mapping[str, Any]],
    explained: set[str],
) -> Iterator[PipelineEvent]:
    new, old = now.get(Type.DEGRADED, {}), was.get(Type.DEGRADED, {})
    reason = str(new.get("reason"))
    known = explained | {str(now.get(kind, {}).get("reason")) for kind in _ALARMS}
    if new.get("status") != "True" or reason in known:
        return
    if (old.get("status"), old.get("reason")) != ("True", reason):
        yield _event("Warning", reason, str(new.get("message")))


def _event(
    kind: Literal["Normal", "Warning"], reason: str, note: str, model: str | None = None
) -> PipelineEvent:
    return PipelineEvent(kind, reason, _shortened(note), model)


def _shortened(note: str) -> str:
    text = note.encode(errors="replace")
    if len(text) <= _MAX_NOTE:
        return note
    # A character that the cut would split goes as a whole.
    return text[: _MAX_NOTE - len(_CUT.encode())].decode(errors="ignore") + _CUT


def _by(entries: object, key: str) -> dict[str, Mapping[str, Any]]:
    listed = entries if isinstance(entries, list) else ()
    return {str(entry.get(key)): entry for entry in listed if isinstance(entry, dict)}


def _value(conditions: Mapping[str, Mapping[str, Any]], kind: Type) -> object:
    return conditions.get(kind, {}).get("status")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class EventLimiter:
    """Decides whether an Event may be written: no repetition, no flood.

    The same Event of the same pipeline passes once in a while, and a pipeline that flaps gets a
    bounded number of Events. Memory is bounded as well: what was not asked about for longest is
    forgotten first.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        repeat_s: float = 300,
        burst: int = 25,
        refill_s: float = 60,
        remembered: int = 10_000,
    ) -> None:
        """Make one.

        Args:
            clock: monotonic time, seconds.
            repeat_s: the same Event passes again after this many seconds.
            burst: Events of one pipeline that may come at once.
            refill_s: seconds after which a pipeline may write one more.
            remembered: Events and pipelines that are remembered.
        """
        self._clock = clock
        self._repeat_s = repeat_s
        self._burst = burst
        self._refill_s = refill_s
        self._remembered = remembered
        self._said: OrderedDict[tuple[str, PipelineEvent], float] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def allow(self, uid: str, event: PipelineEvent) -> bool:
        """Whether to write this Event about the pipeline of this uid now."""
        now = self._clock()
        said = self._said.get((uid, event))
        if said is not None and now - said < self._repeat_s:
            return False
        bucket = self._buckets.setdefault(uid, _Bucket(self._burst, now))
        self._buckets.move_to_end(uid)
        refilled = bucket.tokens + (now - bucket.at) / self._refill_s
        bucket.tokens, bucket.at = min(float(self._burst), refilled), now
        _trim(self._buckets, self._remembered)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        self._said[(uid, event)] = now
        self._said.move_to_end((uid, event))
        _trim(self._said, self._remembered)
        return True


def _trim(memory: OrderedDict[Any, Any], size: int) -> None:
    while len(memory) > size:
        memory.popitem(last=False)
