"""The models of this worker: configured, reported by the engine, and proven ready.

Why it exists: three sources say something about a model (the configuration, the engine's heartbeat,
the readiness probe), and every protocol must give the same answer. It holds state and decides;
it opens no sockets and starts no processes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deepseek_api.errors import EngineUnavailableError, ErrorCode, InferenceError
from deepseek_engine.client import ModelConfig, ModelInfo, ModelState

from deepseek_worker.decoding import invalid, quoted
from deepseek_worker.encoding import MODEL_VERSION

__all__ = ["Fleet", "ModelStatus", "Phase"]


class Phase(enum.StrEnum):
    """How far a model is, as a person or a probe sees it."""

    STARTING = "STARTING"
    """No engine process has reported it yet, or the process restarts."""
    LOADING = "LOADING"
    PROVING = "PROVING"
    """Loaded; the inference that proves it is on its way."""
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model and how far it is."""

    name: str
    phase: Phase
    reason: str
    """Stable CamelCase word; empty when the model is ready."""
    message: str
    """A sentence for a person; empty when the model is ready."""
    info: ModelInfo | None
    """What the engine last said about it."""


class Fleet:
    """What is known of every configured model."""

    def __init__(self, models: Sequence[ModelConfig]) -> None:
        self._names = tuple(model.name for model in models)
        self._current: Mapping[str, ModelInfo] = {}
        self._known: dict[str, ModelInfo] = {}
        self._proven: set[str] = set()
        self._probe_failures: dict[str, tuple[str, str]] = {}
        self._generation = 0
        self._listeners: list[Callable[[], None]] = []

    @property
    def generation(self) -> int:
        """Number of the engine process; an answer of an older one proves nothing."""
        return self._generation

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the configured models."""
        return self._names

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change."""
        self._listeners.append(listener)

    def reported(self, models: Mapping[str, ModelInfo]) -> None:
        """Take what a heartbeat says."""
        self._current = models
        self._known.update(models)
        self._notify()

    def engine_lost(self) -> None:
        """Forget what the last engine process said; readiness must be proven anew."""
        self._generation += 1
        self._current = {}
        self._proven.clear()
        self._probe_failures.clear()
        self._notify()

    def proven(self, name: str, *, generation: int) -> None:
        """A real inference of this model was answered by the engine process ``generation``."""
        if generation != self._generation:
            return
        self._proven.add(name)
        self._probe_failures.pop(name, None)
        self._notify()

    def probe_failed(self, name: str, *, reason: str, message: str) -> None:
        """The inference that should prove this model was refused."""
        self._probe_failures[name] = (reason, message)
        self._notify()

    def to_prove(self) -> list[ModelInfo]:
        """Models that the engine holds ready and that no inference has proven yet."""
        return [
            info
            for name, info in self._current.items()
            if info.state is ModelState.READY and name not in self._proven
        ]

    def status(self, name: str) -> ModelStatus:
        """How far one configured model is."""
        info = self._current.get(name)
        if info is None:
            text = "The engine process is starting."
            return ModelStatus(name, Phase.STARTING, "EngineStarting", text, self._known.get(name))
        if info.state is ModelState.FAILED:
            return ModelStatus(name, Phase.FAILED, info.reason, info.message, info)
        if info.state is ModelState.LOADING:
            return ModelStatus(name, Phase.LOADING, "Loading", "The model is loading.", info)
        if name in self._proven:
            return ModelStatus(name, Phase.READY, "", "", info)
        if name in self._probe_failures:
            reason, message = self._probe_failures[name]
            return ModelStatus(name, Phase.FAILED, reason, message, info)
        text = "The model is loaded; a first inference is on its way."
        return ModelStatus(name, Phase.PROVING, "Proving", text, info)

    def statuses(self) -> list[ModelStatus]:
        """How far every configured model is."""
        return [self.status(name) for name in self._names]

    def ready(self) -> bool:
        """Whether every model is ready."""
        return all(status.phase is Phase.READY for status in self.statuses())

    def settled(self) -> bool:
        """Whether every model is ready or failed."""
        return all(status.phase in (Phase.READY, Phase.FAILED) for status in self.statuses())

    def known(self, name: str, version: str) -> ModelInfo:
        """What a model looks like, even while its engine restarts.

        Raises:
            InferenceError: NOT_FOUND, no such model or version; UNAVAILABLE, it never loaded yet.
        """
        self._check_name(name, version)
        info = self._known.get(name)
        if info is None or info.state is ModelState.LOADING:
            raise EngineUnavailableError(f"The model '{name}' is loading.", hint="Try again later.")
        if info.state is ModelState.FAILED:
            raise self._failed(info)
        return info

    def servable(self, name: str, version: str) -> ModelInfo:
        """A model that takes requests now.

        Raises:
            InferenceError: NOT_FOUND, no such model or version; FAILED_PRECONDITION, it did not
                load; UNAVAILABLE, it is loading or its engine restarts.
        """
        info = self._current.get(name)
        if info is not None and info.state is ModelState.READY and version in ("", MODEL_VERSION):
            return info
        self._check_name(name, version)
        if info is None:
            raise EngineUnavailableError(
                "The engine process is not running at the moment.",
                hint="It restarts by itself; try again in a few seconds.",
            )
        if info.state is ModelState.FAILED:
            raise self._failed(info)
        raise EngineUnavailableError(f"The model '{name}' is loading.", hint="Try again later.")

    def _check_name(self, name: str, version: str) -> None:
        if name not in self._names:
            served = ", ".join(self._names)
            raise InferenceError(
                f"There is no model {quoted(name)}." if name else "The request names no model.",
                hint=f"This worker serves {served}.",
                code=ErrorCode.NOT_FOUND,
                reason="UnknownModel",
            )
        if version in ("", MODEL_VERSION):
            return
        hint = f"Leave the version empty or send '{MODEL_VERSION}'."
        if not (version.isascii() and version.isdigit()):
            raise invalid(f"The model version {quoted(version)} is not a number.", hint=hint)
        raise InferenceError(
            f"The model '{name}' has no version {quoted(version)}.",
            hint=hint,
            code=ErrorCode.NOT_FOUND,
            reason="UnknownVersion",
        )

    def _failed(self, info: ModelInfo) -> InferenceError:
        return InferenceError(
            f"The model '{info.name}' is not served: {info.message}",
            code=ErrorCode.FAILED_PRECONDITION,
            reason=info.reason or "ModelFailed",
        )

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()
