"""Events: what changed between two statuses, once and not too often."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_operator.events import EventLimiter, PipelineEvent, invalid, transitions

Wire = dict[str, Any]
PIPELINE = ModelPipeline.model_validate(
    {"metadata": {"name": "joint"}, "spec": {"models": [{"name": "bert"}]}}
)


def condition(kind: str, value: str, reason: str = "Because", message: str = "So it is.") -> Wire:
    return {"type": kind, "status": value, "reason": reason, "message": message}


def state(*conditions: Wire, model: tuple[Wire, ...] = (), granted: int | None = 2) -> Wire:
    row = {"model": "bert", "demand": 4, "granted": granted, "limitedBy": "budget"}
    return {
        "conditions": list(conditions),
        "models": [{"name": "bert", "conditions": list(model)}],
        "allocation": [row],
    }


def told(old: Wire | None, new: Wire) -> list[tuple[str, str, str | None]]:
    return [(event.type, event.reason, event.model) for event in transitions(old, new, PIPELINE)]


READY = condition("Ready", "True", "AllReplicasReady")
NOT_READY = condition("Ready", "False", "ReplicasNotReady")
BROKEN = condition("Degraded", "True", "CrashLoop", "Pod p: it ends again and again.")
WELL = condition("Degraded", "False", "AsExpected")
CONFLICT = condition("ScalingConflict", "True", "ForeignAutoscaler")
NO_CONFLICT = condition("ScalingConflict", "False", "NoConflict")
REJECTED = condition("ChildRejected", "True", "RejectedByServer")
MISSING = condition("MetricsAvailable", "False", "MetricMissing")

CHANGES = {
    "grant": (state(granted=1), state(granted=3), [("Normal", "GrantChanged", "bert")]),
    "first grant": ({}, state(), [("Normal", "GrantChanged", "bert")]),
    "degraded": (
        state(WELL, model=(WELL,)),
        state(BROKEN, model=(BROKEN,)),
        [("Warning", "CrashLoop", "bert")],
    ),
    "another cause": (
        state(model=(condition("Degraded", "True", "OutOfMemory"),)),
        state(model=(BROKEN,)),
        [("Warning", "CrashLoop", "bert")],
    ),
    "another message of the same cause": (
        state(BROKEN, model=(BROKEN,)),
        state(BROKEN, model=(condition("Degraded", "True", "CrashLoop", "Pod q"),)),
        [],
    ),
    "recovered and ready": (
        state(NOT_READY, BROKEN, model=(BROKEN, NOT_READY)),
        state(READY, WELL, model=(WELL, READY)),
        [
            ("Normal", "Recovered", "bert"),
            ("Normal", "ModelReady", "bert"),
            ("Normal", "Ready", None),
        ],
    ),
    "not ready any more": (state(READY, model=(READY,)), state(NOT_READY, model=(NOT_READY,)), []),
    "conflict": (state(NO_CONFLICT), state(CONFLICT), [("Warning", "ForeignAutoscaler", None)]),
    "conflict is over": (state(CONFLICT), state(NO_CONFLICT), [("Normal", "NoConflict", None)]),
    "metric missing": (state(), state(MISSING), [("Warning", "MetricMissing", None)]),
    "refused, told by the model already": (
        state(),
        state(REJECTED, model=(condition("Degraded", "True", "RejectedByServer"),)),
        [("Warning", "RejectedByServer", "bert")],
    ),
    "refused, of no model": (
        state(),
        state(REJECTED, condition("Degraded", "True", "RejectedByServer")),
        [("Warning", "RejectedByServer", None)],
    ),
    "nothing": (state(READY, CONFLICT, BROKEN), state(READY, CONFLICT, BROKEN), []),
}


@pytest.mark.parametrize(("old", "new", "expected"), CHANGES.values(), ids=CHANGES)
def test_changes_are_told(old: Wire, new: Wire, expected: list[tuple[str, str, str]]) -> None:
    assert told(old, new) == expected


def test_notes_say_what_changed() -> None:
    (event,) = transitions(state(granted=1), state(granted=3), PIPELINE)
    assert event.note == "bert: 1 -> 3 replicas; it asks for 4, limited by budget."
    (event,) = transitions(state(), state(model=(BROKEN,)), PIPELINE)
    assert event.note == "bert: Pod p: it ends again and again."


@pytest.mark.parametrize(
    ("text", "kept"),
    [("x" * 5000, "x" * 1015), ("é" * 5000, "é" * 507), ("日本" * 2000, "日本" * 169)],
    ids=["one byte", "two bytes", "three bytes"],
)
def test_a_note_has_at_most_the_bytes_that_the_server_takes(text: str, kept: str) -> None:
    long = condition("Degraded", "True", "CrashLoop", text)
    (event,) = transitions(state(), state(model=(long,)), PIPELINE)
    assert event.note == f"bert: {kept}…"
    assert len(event.note.encode()) <= 1024


def test_a_note_of_as_many_bytes_as_the_server_takes_is_not_cut() -> None:
    full = "é" * 509
    (event,) = transitions(
        state(), state(model=(condition("Degraded", "True", "CrashLoop", full),)), PIPELINE
    )
    assert event.note == f"bert: {full}"


def test_no_status_before_is_no_failure() -> None:
    assert told(None, {}) == []


def test_a_pipeline_that_cannot_be_read_is_told() -> None:
    (event,) = invalid({"metadata": {"name": "joint"}}, "models: too short")
    assert (event.type, event.reason) == ("Warning", "SpecInvalid")
    assert "joint" in event.note
    assert "models: too short" in event.note


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def warning(note: str = "n") -> PipelineEvent:
    return PipelineEvent("Warning", "CrashLoop", note)


def test_the_same_event_passes_again_after_a_while() -> None:
    clock = Clock()
    limiter = EventLimiter(clock, repeat_s=300)
    assert limiter.allow("u", warning())
    clock.now += 299
    assert not limiter.allow("u", warning())
    assert limiter.allow("other", warning())
    clock.now += 1
    assert limiter.allow("u", warning())


def test_a_flapping_pipeline_gets_a_bounded_number_of_events() -> None:
    clock = Clock()
    limiter = EventLimiter(clock, burst=3, refill_s=60)
    assert [limiter.allow("u", warning(str(n))) for n in range(5)] == [True] * 3 + [False] * 2
    assert limiter.allow("calm", warning())
    clock.now += 60
    assert limiter.allow("u", warning("a"))
    assert not limiter.allow("u", warning("b"))


def test_a_refused_event_may_pass_as_soon_as_there_is_room() -> None:
    clock = Clock()
    limiter = EventLimiter(clock, burst=1, refill_s=10)
    assert limiter.allow("u", warning("a"))
    assert not limiter.allow("u", warning("b"))
    clock.now += 10
    assert limiter.allow("u", warning("b"))


def test_memory_is_bounded() -> None:
    limiter = EventLimiter(Clock(), remembered=5)
    for number in range(50):
        assert limiter.allow(f"u{number}", warning())
    assert limiter.allow("u0", warning())
    assert not limiter.allow("u0", warning())
