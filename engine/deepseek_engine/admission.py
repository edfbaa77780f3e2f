"""Whether a request is taken: the refusals of an engine, and what a model is before it is loaded.

Why it exists: every refusal carries a code, a reason and a way out, and they should read alike. It
decides from numbers that the engine passes; it keeps no state.
"""

from __future__ import annotations

from deepseek_api.errors import (
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    QueueFullError,
)

from deepseek_engine.batching import BatchQueue
from deepseek_engine.jobs import PartWork
from deepseek_engine.messages import ModelConfig, ModelInfo, ModelState, ModelStats

__all__ = ["admit", "empty_queue", "expired", "loadable", "stopping", "waiting_info"]

_RETRY_AFTER_S = (0.05, 5.0)


def waiting_info(model: ModelConfig) -> ModelInfo:
    """What is known of a model that waits to be loaded."""
    return ModelInfo(
        name=model.name,
        state=ModelState.LOADING,
        stage="waiting",
        model_type=model.model_type,
        weight=model.weight,
        max_batch_size=model.max_batch_size,
    )


def empty_queue(model: ModelConfig) -> BatchQueue[PartWork]:
    """The queue of a model."""
    target = model.latency_target_ms
    return BatchQueue(
        max_batch_size=model.max_batch_size,
        latency_target_s=target / 1e3 if target is not None else None,
    )


def expired() -> InferenceError:
    """The deadline is over."""
    return InferenceError(
        "The request was not answered before its deadline.",
        code=ErrorCode.DEADLINE_EXCEEDED,
        reason="DeadlineExceeded",
        hint="Allow more time, or send fewer requests at once.",
    )


def stopping() -> EngineUnavailableError:
    """The engine is being closed."""
    return EngineUnavailableError("The engine is stopping.", hint="Send the request elsewhere.")


def admit(name: str, stats: ModelStats, rows: int, *, waiting: int, limit: int) -> None:
    """Raise unless so many more rows may wait.

    Args:
        name: of the model.
        stats: its counters.
        rows: of the request.
        waiting: rows that wait, or are prepared, already.
        limit: rows that may wait.

    Raises:
        QueueFullError: with the time after which a retry is worth it.
    """
    # With nothing in front of it a request is always taken: one with more rows than may wait
    # would be refused for ever.
    if waiting == 0 or waiting + rows <= limit:
        return
    per_row = stats.device_seconds / max(1, stats.rows)
    low, high = _RETRY_AFTER_S
    raise QueueFullError(
        f"The queue of the model '{name}' is full: {waiting} rows wait and at most {limit} may.",
        retry_after_s=min(high, max(low, waiting * per_row)),
        hint="Try again a little later, or send fewer requests at once.",
    )


def loadable(info: ModelInfo | None, name: str, known: str) -> ModelInfo:
    """The state of a model that may be used.

    Args:
        info: of the model; None when there is none of this name.
        name: as the caller wrote it.
        known: the names that there are.

    Raises:
        InferenceError: it is unknown, or could not be loaded.
    """
    if info is None:
        raise InferenceError(
            f"There is no model '{name}' here.",
            code=ErrorCode.NOT_FOUND,
            hint=f"Models: {known or 'none'}.",
            reason="ModelNotFound",
        )
    if info.state is ModelState.FAILED:
        raise InferenceError(
            f"The model '{name}' could not be loaded: {info.message}",
            code=ErrorCode.FAILED_PRECONDITION,
            reason=info.reason,
        )
    return info
