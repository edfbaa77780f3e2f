"""How the preparing process tells its caller where it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeVar

import msgspec

from deepseek_engine.prepare.messages import PrepareEvent

Item = TypeVar("Item")


class Reporter:
    """Writes events as JSON lines; safe to call from several threads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    @classmethod
    def take_over_stdout(cls) -> Reporter:
        """Keep stdout for events and send whatever libraries print to stderr instead."""
        stream = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)
        return cls(stream)

    def send(self, event: PrepareEvent) -> None:
        """Write one event."""
        with self._lock:
            self._stream.write(msgspec.json.encode(event) + b"\n")

    def progress(self, stage: str, done: float = 0, total: float = 0, unit: str = "") -> None:
        """Say that a stage began or moved on."""
        self.send(PrepareEvent(kind="progress", stage=stage, done=done, total=total, unit=unit))

    def warning(self, message: str) -> None:
        """Tell the person something that is no error."""
        self.send(PrepareEvent(kind="warning", message=message))

    def track(self, stage: str, items: Iterable[Item], total: int, unit: str) -> Iterator[Item]:
        """Pass items through and report each as one step of a stage."""
        self.progress(stage, 0, total, unit)
        for count, item in enumerate(items, start=1):
            yield item
            self.progress(stage, count, total, unit)
