"""How the engine drives sequences that generate.

Why it exists: the event loop owns every decision and the device's thread only computes, as for
other models. A step is therefore three calls: `plan` and `commit` in the loop, `run` on the thread;
between a plan and its commit the loop may still add and abort sequences, which take part from the
next plan on. No lock is needed and none is held. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deepseek_engine.generation.requests import FinishReason, GenerationRequest, TokenLogprob

__all__ = ["Generator", "GeneratorStats", "SequenceUpdate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceUpdate:
    """What a step did for one sequence."""

    sequence: int
    tokens: tuple[int, ...] = ()
    """Generated in this step; a speculative step may give several."""
    text: str = ""
    """Text that became complete and cannot be part of a stop text any more."""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    matched_stop: str | int | None = None
    error: Exception | None = None
    """A DeepseekError: this sequence failed (its scores were not numbers, ...); it has ended."""
    cached_tokens: int = 0
    """With the last update: tokens of the prompt that were not computed but reused."""
    preemptions: int = 0
    """With the last update: how often its blocks were taken away."""
    queue_s: float = 0.0
    """With the last update: seconds from `Generator.add` to its first step."""


@dataclass(slots=True)
class GeneratorStats:
    """Gauges and counters; counters only grow."""

    running: int = 0
    """Sequences that hold blocks (gauge)."""
    waiting: int = 0
    """Sequences that hold none yet, or none any more after a preemption (gauge)."""
    blocks_total: int = 0
    blocks_used: int = 0
    """Blocks that running sequences hold (gauge); cached free ones do not count."""
    blocks_cached: int = 0
    """Free blocks whose content can be reused (gauge)."""
    steps: int = 0
    prompt_tokens: int = 0
    """Tokens of prompts that were computed."""
    cached_tokens: int = 0
    """Tokens of prompts that were reused."""
    generated_tokens: int = 0
    preemptions: int = 0
    guessed_tokens: int = 0
    """Tokens that speculation proposed."""
    accepted_tokens: int = 0
    """Those of them that the model confirmed."""


class Generator(Protocol):
    """All sequences of one model."""

    def prepare(self, request: GenerationRequest) -> None:
        """Do the slow part of `add` beforehand; on any thread, and only if it is worth one.

        It is for requests with a constraint, which may take a second to prepare. Without it `add`
        does the same work itself.

        Raises:
            InferenceError: INVALID_ARGUMENT: what the text must match is wrong or too complex.
        """
        ...

    def add(self, sequence: int, request: GenerationRequest, prompt: Sequence[int]) -> None:
        """Let a sequence wait for its first step.

        Args:
            sequence: a number that no living sequence has.
            request: its settings.
            prompt: its tokens; never empty.

        Raises:
            InferenceError: INVALID_ARGUMENT for a prompt that is empty, holds unknown tokens, is
                longer than the context or could never fit into the cache (with the arithmetic).
            QueueFullError: too many wait.
        """
        ...

    def abort(self, sequence: int) -> None:
        """Forget a sequence; its blocks are free when the running step, if any, is committed.

        Unknown numbers are ignored: an answer and an abort may cross.
        """
        ...

    def has_work(self) -> bool:
        """Whether `plan` would return a step."""
        ...

    def plan(self) -> Any | None:
        """Choose the sequences and tokens of the next step; None: nothing to do."""
        ...

    def run(self, plan: Any) -> Any:
        """Compute a planned step. On the device's thread; changes no state that `plan` reads.

        Raises:
            Exception: the step failed as a whole.
        """
        ...

    def commit(self, plan: Any, result: Any) -> list[SequenceUpdate]:
        """Account for a computed step; aborted sequences are not told of."""
        ...

    def fail(self, plan: Any, error: Exception) -> list[SequenceUpdate]:
        """Account for a step that raised: its sequences end with ``error``, the others go on."""
        ...

    def stats(self) -> GeneratorStats:
        """A snapshot."""
        ...

    def close(self) -> None:
        """Free weights and cache."""
        ...
