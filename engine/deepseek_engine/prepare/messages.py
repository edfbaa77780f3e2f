"""What the caller of prepare and its child process say to each other: JSON lines, nothing else."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class PrepareRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One model to prepare."""

    name: str
    """Name of the model, as in the catalog or in the pipeline."""
    uri: str
    """Source: ``pip://``, ``file://``, ``hf://`` or ``random://``."""
    revision: str = ""
    digest: str = ""
    """Expected digest of the source (``sha256:...``); empty trusts what is found."""
    precisions: tuple[str, ...] = ("auto",)
    """``auto`` builds and measures every variant that this release has for the device."""
    device: str = "cpu"
    random_weights: bool = False
    """Replace the weights by seeded random ones of the same architecture (``--weights random``)."""
    seed: int = 0
    entry: dict[str, Any] = msgspec.field(default_factory=dict)
    """The catalog entry as JSON fields, if there is one: task, architecture, processing."""
    task: str = ""
    """Overrides the entry's task."""
    threads: int = 0
    """Threads for measuring; 0 means what the process may use."""


class PrepareEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of a preparation."""

    kind: Literal["progress", "warning", "done", "error"]
    stage: str = ""
    """What is going on, in words for a person: ``download``, ``convert``, ``export`` ..."""
    done: float = 0.0
    total: float = 0.0
    """Amount of the stage and how much of it is done; a total of 0 is unknown."""
    unit: str = ""
    """``B`` for bytes, else the noun of what is counted."""
    message: str = ""
    code: str = ""
    """Error code of :class:`deepseek_api.errors.ErrorCode` when the kind is ``error``."""
    reason: str = ""
    hint: str = ""
    digest: str = ""
    """Digest of the bundle when the kind is ``done``."""
