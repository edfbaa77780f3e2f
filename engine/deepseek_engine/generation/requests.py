"""What is asked of a model that generates, and what it answers.

Why it exists: front ends, the SDK and the engine share these types; they must import neither NumPy
nor torch here. Checks that need no model stand in `SamplingParameters`; whoever knows the
vocabulary and the cache checks the rest.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from deepseek_api.errors import ErrorCode, InferenceError

__all__ = [
    "MAX_LOGPROBS",
    "MAX_STOPS",
    "Constraint",
    "FinishReason",
    "GenerationChunk",
    "GenerationRequest",
    "GenerationUsage",
    "SamplingParameters",
    "TokenLogprob",
]

MAX_LOGPROBS = 20
"""Most alternatives of a token that a request may ask for."""
MAX_STOPS = 16
"""Most stop strings, and most stop tokens, of a request."""
_MAX_STOP_CHARACTERS = 256


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole text must match."""

    kind: Literal["json_schema", "json_object", "regex"]
    """How ``definition`` is read."""
    definition: str = ""
    """A JSON schema or a regular expression; empty for ``json_object``."""


class SamplingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen, and when to stop.

    Raises:
        InferenceError: INVALID_ARGUMENT, naming the parameter and what it may be.
    """

    max_tokens: int | None = None
    """Most tokens to generate; None: what the model's settings and context leave."""
    min_tokens: int = 0
    """Before so many tokens nothing but ``max_tokens`` ends the text."""
    temperature: float = 1.0
    """0 takes the likeliest token (greedy)."""
    top_k: int = 0
    """Choose among so many likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Leave out tokens less likely than this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative scores of tokens that occurred, prompt included."""
    presence_penalty: float = 0.0
    """Taken from the scores of tokens that were generated."""
    frequency_penalty: float = 0.0
    """Taken from a token's score for every time it was generated."""
    seed: int | None = None
    """Makes the choice repeatable, whatever else runs; None: drawn for each request."""
    logprobs: int | None = None
    """How many alternatives to report for each token; None: no log probabilities."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, besides the model's own."""
    ignore_eos: bool = False
    """Whether the model's own end token is generated like any other."""
    constraint: Constraint | None = None
    """What the text must match."""

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, bool, str]] = {
            "temperature": (self.temperature, 0 <= self.temperature <= 100, "0 to 100"),
            "top_k": (self.top_k, self.top_k >= 0, "0 (all) or more"),
            "top_p": (self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (self.min_p, 0 <= self.min_p <= 1, "0 to 1"),
            "repetition_penalty": (
                self.repetition_penalty,
                0 < self.repetition_penalty <= 100,
                "above 0 and at most 100",
            ),
            "presence_penalty": (self.presence_penalty, abs(self.presence_penalty) <= 2, "-2 to 2"),
            "frequency_penalty": (
                self.frequency_penalty,
                abs(self.frequency_penalty) <= 2,
                "-2 to 2",
            ),
            "min_tokens": (self.min_tokens, self.min_tokens >= 0, "0 or more"),
        }
        if self.max_tokens is not None:
            ranges["max_tokens"] = (self.max_tokens, self.max_tokens >= 1, "1 or more")
            least = f"at most max_tokens, {self.max_tokens}"
            if self.max_tokens >= 1:
                ranges["min_tokens"] = (
                    self.min_tokens,
                    0 <= self.min_tokens <= self.max_tokens,
                    f"0 or more and {least}",
                )
        if self.logprobs is not None:
            ranges["logprobs"] = (
                self.logprobs,
                0 <= self.logprobs <= MAX_LOGPROBS,
                f"0 to {MAX_LOGPROBS}",
            )
        if self.seed is not None:
            ranges["seed"] = (self.seed, 0 <= self.seed < 1 << 64, "0 to 2^64 - 1")
        for name, (value, fits, allowed) in ranges.items():
            # Comparisons with NaN are false, so that it lands here with everything out of range.
            if not fits or (isinstance(value, float) and not math.isfinite(value)):
                raise _invalid(f"{name} is {value}.", f"It must be {allowed}.")
        self._check_stops()

    def _check_stops(self) -> None:
        for name, stops in (("stop", self.stop), ("stop_token_ids", self.stop_token_ids)):
            if len(stops) > MAX_STOPS:
                raise _invalid(f"{name} has {len(stops)} entries.", f"At most {MAX_STOPS} fit.")
        for stop in self.stop:
            if not 1 <= len(stop) <= _MAX_STOP_CHARACTERS:
                raise _invalid(
                    f"A stop text has {len(stop)} characters.",
                    f"It must have 1 to {_MAX_STOP_CHARACTERS}.",
                )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A checked request to one model that generates."""

    model: str
    prompt: str | tuple[int, ...]
    """Text, or token numbers as they are, start token included."""
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    id: str = ""
    deadline: float | None = None
    """Seconds on the machine's monotonic clock (`time.monotonic`); None: no limit."""
    priority: int = 0
    """1 is served first, 2 next; 0 is the default and ranks behind every explicit priority."""
    client: str = ""
    """Whose request this is, for fair shares; empty: the connection's common share."""
    adapter: str = ""
    """Name of the LoRA adapter to use; empty: the model itself."""
    text: bool = True
    """Whether chunks carry text; without it nothing is turned into text but for stop texts."""


class FinishReason(enum.StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """An end token or a stop text was generated."""
    LENGTH = "length"
    """``max_tokens`` or the context was reached."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Natural log probability of a generated token, and of the likeliest ones in its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """Token and log probability, likeliest first."""


class GenerationUsage(msgspec.Struct, frozen=True, array_like=True):
    """What an answer took, told with its last chunk."""

    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt whose keys and values were reused."""
    completion_tokens: int
    queue_ms: float
    """From arrival to the first step."""
    first_token_ms: float
    """From arrival to the first token."""
    total_ms: float
    preemptions: int = 0
    """How often its cache was taken away and computed again."""


class GenerationChunk(msgspec.Struct, frozen=True, kw_only=True):
    """The next part of an answer."""

    token_ids: tuple[int, ...] = ()
    """New tokens; those of an end token or a stop text are included."""
    text: str = ""
    """New text; complete characters only, and never a part of a stop text."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One entry for each new token, when they were asked for."""
    finish_reason: FinishReason | None = None
    """Set on the last chunk."""
    matched_stop: str | int | None = None
    """The stop text or token that ended the answer."""
    usage: GenerationUsage | None = None
    """Set on the last chunk."""


def _invalid(message: str, hint: str) -> InferenceError:
    return InferenceError(
        message, code=ErrorCode.INVALID_ARGUMENT, hint=hint, reason="InvalidParameter"
    )
