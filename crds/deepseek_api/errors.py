"""Every error that a user of this project can meet, in one tree.

Why it exists: the operator, the engine, the worker, the client and the command line raise and catch
the same types, so that a failure keeps its code, its reason and its advice on the whole way from
the place that noticed it to the person who reads it. Mapping a code to a gRPC or HTTP status or to
an exit code is the business of the layer that speaks that protocol, never of this module. Do not
use these types for programming mistakes: those stay ``TypeError``, ``ValueError`` and so on.

The tree::

    DeepseekError
    ├── ConfigurationError            a setting or command line argument is wrong
    ├── InvalidPipelineError          a ModelPipeline file has problems (carries a list of them)
    ├── AllocationError               an allocation was asked for that cannot be computed
    ├── CatalogError                  an unknown model name or a wrong catalog entry
    ├── SourceError                   weights cannot be fetched, read or trusted
    ├── BundleError                   a bundle is missing, damaged or of an unknown format
    ├── PrecisionError                a precision is unknown or not possible for this model
    ├── DeviceError                   a device is unknown or not available here
    └── InferenceError                one request failed; the code says whose fault it was
        ├── EngineUnavailableError    the engine is starting, restarting or stopping
        └── QueueFullError            too many requests wait (carries the time to retry after)

A message is one sentence that says what is wrong. A hint is one sentence that says what to do.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "AllocationError",
    "BundleError",
    "CatalogError",
    "ConfigurationError",
    "DeepseekError",
    "DeviceError",
    "EngineUnavailableError",
    "ErrorCode",
    "InferenceError",
    "InvalidPipelineError",
    "PrecisionError",
    "Problem",
    "QueueFullError",
    "SourceError",
]


class ErrorCode(enum.StrEnum):
    """The kind of a failure, named as the gRPC status codes are named."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """The caller sent something wrong; the same call will fail again."""
    NOT_FOUND = "NOT_FOUND"
    """The named model, file or entry does not exist."""
    UNAVAILABLE = "UNAVAILABLE"
    """The service cannot answer now; trying again later is right."""
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    """The answer would have come after the deadline of the caller."""
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    """Memory, a quota or a size limit was used up."""
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    """The request is fine, but this machine or this bundle is not in a state to serve it."""
    UNIMPLEMENTED = "UNIMPLEMENTED"
    """The operation is known and not supported here."""
    INTERNAL = "INTERNAL"
    """A defect of this project; the log has the details."""


class DeepseekError(Exception):
    """The base of every error of this project.

    Catching it is enough to show any failure to a person::

        try:
            engine.infer(request)
        except DeepseekError as error:
            print(error)  # the message, then the hint

    Attributes:
        code: the kind of the failure.
        reason: a stable CamelCase word for programs; it never changes between releases.
        message: one sentence that says what is wrong.
        hint: one sentence that says what to do, or None.
    """

    default_code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    default_reason: ClassVar[str] = "Internal"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: ErrorCode | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code if code is not None else self.default_code
        self.reason = reason if reason is not None else self.default_reason

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the message only, which loses the keyword
        # arguments and breaks subclasses that require more; errors do cross process borders.
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(
    cls: type[DeepseekError], args: tuple[object, ...], state: dict[str, object]
) -> DeepseekError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(DeepseekError):
    """A setting, an environment variable or a command line argument is wrong."""

    default_code = ErrorCode.INVALID_ARGUMENT
    default_reason = "InvalidConfiguration"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (or suspicious) in a ModelPipeline file."""

    message: str
    """What is wrong, one sentence."""
    hint: str | None = None
    """What to write instead, one sentence."""
    path: str = ""
    """The field as Kubernetes writes it, for example ``spec.models[0].replicas``; empty: the
    document itself."""
    file: str | None = None
    """The name of the file as the user gave it, or None for text without a file."""
    line: int | None = None
    """Line in the file, counted from 1."""
    column: int | None = None
    """Column in the line, counted from 1."""
    reason: str = "Invalid"
    """A stable CamelCase word for programs."""

    @property
    def location(self) -> str:
        """The place as ``file:line:column``, as far as it is known."""
        parts = [self.file or "<input>"]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        return ":".join(parts)

    def __str__(self) -> str:
        where = f"{self.location}: {self.path}: " if self.path else f"{self.location}: "
        return f"{where}{self.message}" + (f" {self.hint}" if self.hint else "")


class InvalidPipelineError(DeepseekError):
    """A ModelPipeline is not valid.

    Attributes:
        problems: every problem that was found, in the order of the file.
    """

    default_code = ErrorCode.INVALID_ARGUMENT
    default_reason = "InvalidPipeline"

    def __init__(
        self, problems: Sequence[Problem], *, hint: str | None = None, reason: str | None = None
    ) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(
            "\n".join(str(problem) for problem in self.problems), hint=hint, reason=reason
        )


class AllocationError(DeepseekError):
    """Replicas cannot be allocated from what was given."""

    default_code = ErrorCode.INVALID_ARGUMENT
    default_reason = "InvalidAllocation"


class CatalogError(DeepseekError):
    """A name is not in the catalog, or a catalog entry is wrong."""

    default_code = ErrorCode.NOT_FOUND
    default_reason = "UnknownModel"


class SourceError(DeepseekError):
    """The weights of a model cannot be fetched, read or trusted."""

    default_code = ErrorCode.FAILED_PRECONDITION
    default_reason = "SourceUnavailable"


class BundleError(DeepseekError):
    """A bundle is missing, damaged, of another digest or of an unknown format."""

    default_code = ErrorCode.FAILED_PRECONDITION
    default_reason = "InvalidBundle"


class PrecisionError(DeepseekError):
    """A precision is unknown, or not possible for this model on this device."""

    default_code = ErrorCode.INVALID_ARGUMENT
    default_reason = "PrecisionUnavailable"


class DeviceError(DeepseekError):
    """A device is unknown, or not available on this machine."""

    default_code = ErrorCode.FAILED_PRECONDITION
    default_reason = "DeviceUnavailable"


class InferenceError(DeepseekError):
    """One inference request failed; ``code`` is required and says how."""

    default_reason = "InferenceFailed"

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode,
        hint: str | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code, reason=reason)


class EngineUnavailableError(InferenceError):
    """The engine is starting, restarting after a failure, or stopping."""

    default_reason = "EngineUnavailable"

    def __init__(self, message: str, *, hint: str | None = None, reason: str | None = None) -> None:
        super().__init__(message, code=ErrorCode.UNAVAILABLE, hint=hint, reason=reason)


class QueueFullError(InferenceError):
    """Too many requests wait already.

    Attributes:
        retry_after_s: seconds after which a retry has a chance.
    """

    default_reason = "QueueFull"

    def __init__(self, message: str, *, retry_after_s: float, hint: str | None = None) -> None:
        super().__init__(message, code=ErrorCode.UNAVAILABLE, hint=hint)
        self.retry_after_s = retry_after_s
