"""Conditions without times, and how they get their times.

Why it exists: what is true is decided without a clock; the time of a condition changes only when
its value does, as everywhere in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionStatus, ConditionType

__all__ = ["Draft", "dated"]

_MAX_MESSAGE: Final = 4096
"""Characters of a message; the schema allows more, but 64 models share one object."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A condition without times."""

    type: ConditionType
    """What it is about."""
    holds: bool
    """Whether the condition holds."""
    reason: ConditionReason
    """The stable word."""
    message: str
    """Sentences for people."""


def dated(
    drafts: Iterable[Draft], *, previous: object, generation: int | None, wall: str
) -> list[dict[str, Any]]:
    """Conditions in wire form.

    Args:
        drafts: what is true.
        previous: the list of conditions that is there, in wire form.
        generation: generation of the pipeline that was looked at.
        wall: now, RFC 3339; the time of conditions whose value changed.
    """
    before = {
        entry.get("type"): entry
        for entry in (previous if isinstance(previous, list) else ())
        if isinstance(entry, dict)
    }
    return [_dated(draft, before.get(draft.type, {}), generation, wall) for draft in drafts]


def _dated(
    draft: Draft, before: dict[str, Any], generation: int | None, wall: str
) -> dict[str, Any]:
    status = ConditionStatus.TRUE if draft.holds else ConditionStatus.FALSE
    kept = before.get("lastTransitionTime") if before.get("status") == status.value else None
    message = draft.message
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 1] + "…"
    condition: dict[str, Any] = {
        "type": draft.type.value,
        "status": status.value,
        "lastTransitionTime": kept or wall,
        "reason": draft.reason.value,
        "message": message,
    }
    if generation is not None:
        condition["observedGeneration"] = generation
    return condition
