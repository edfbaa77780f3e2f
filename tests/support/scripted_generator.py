"""A `Generator` that follows the protocol and a script: no model, no torch.

Every step gives each sequence that runs one token: the last token of its prompt plus how many it
has, so that an answer can be told from every other. `Script` says what goes wrong and how long a
step takes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepseek_api.errors import ErrorCode, InferenceError, QueueFullError
from deepseek_engine.generation.interface import GeneratorStats, SequenceUpdate
from deepseek_engine.generation.opened import OpenedGenerator
from deepseek_engine.generation.requests import FinishReason, GenerationRequest, TokenLogprob
from deepseek_engine.messages import GenerationInfo

from tests.support.bundles import BundleParts, write_raw

CONTEXT = 4096
VOCABULARY = 10_000
BROKEN = 13
"""A prompt that ends with this token fails in its first step."""


@dataclass
class Script:
    """How the steps of a `ScriptedGenerator` go."""

    gate: threading.Event = field(default_factory=threading.Event)
    """Steps wait for it on the device's thread."""
    max_sequences: int = 64
    max_queue: int = 256
    step_s: float = 0.0
    error: Exception | None = None
    """What the next steps raise."""
    steps: int = 0
    prepared: list[threading.Thread] = field(default_factory=list)
    """Threads on which constraints were prepared."""

    def __post_init__(self) -> None:
        self.gate.set()


@dataclass
class _Sequence:
    request: GenerationRequest
    prompt: tuple[int, ...]
    most: int
    tokens: list[int] = field(default_factory=list)


class ScriptedGenerator:
    """Answers by counting up."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.closed = False
        self._sequences: dict[int, _Sequence] = {}
        self._counts = GeneratorStats(blocks_total=script.max_sequences)

    def prepare(self, request: GenerationRequest) -> None:
        self.script.prepared.append(threading.current_thread())
        constraint = request.sampling.constraint
        if constraint is not None and constraint.definition == "(":
            raise _invalid("The expression '(' is not complete.")

    def add(self, sequence: int, request: GenerationRequest, prompt: Sequence[int]) -> None:
        if not prompt:
            raise _invalid("The prompt has no tokens.")
        if not all(0 <= token < VOCABULARY for token in prompt):
            raise _invalid("The prompt has an unknown token.")
        most = request.sampling.max_tokens or CONTEXT - len(prompt)
        if len(prompt) + most > CONTEXT:
            raise _invalid(f"{len(prompt)} + {most} tokens do not fit into {CONTEXT}.")
        if request.adapter:
            raise _invalid(f"The adapter '{request.adapter}' is not loaded.")
        if len(self._sequences) >= self.script.max_queue:
            raise QueueFullError("Too many wait.", retry_after_s=0.5)
        self._sequences[sequence] = _Sequence(request, tuple(prompt), most)

    def abort(self, sequence: int) -> None:
        self._sequences.pop(sequence, None)

    def has_work(self) -> bool:
        return bool(self._sequences)

    def plan(self) -> list[int] | None:
        return list(self._sequences)[: self.script.max_sequences] or None

    def run(self, plan: list[int]) -> list[int]:
        self.script.gate.wait(20)
        if self.script.step_s:
            threading.Event().wait(self.script.step_s)
        if self.script.error is not None:
            raise self.script.error
        return plan

    def commit(self, plan: list[int], result: list[int]) -> list[SequenceUpdate]:
        self.script.steps += 1
        self._counts.steps += 1
        living = [number for number in plan if number in self._sequences]
        return [self._advance(number) for number in living]

    def fail(self, plan: list[int], error: Exception) -> list[SequenceUpdate]:
        living = [number for number in plan if self._sequences.pop(number, None)]
        return [SequenceUpdate(sequence=number, error=error) for number in living]

    def stats(self) -> GeneratorStats:
        running = min(len(self._sequences), self.script.max_sequences)
        self._counts.running = self._counts.blocks_used = running
        self._counts.waiting = len(self._sequences) - running
        return self._counts

    def close(self) -> None:
        self.closed = True

    def _advance(self, number: int) -> SequenceUpdate:
        one = self._sequences[number]
        if one.prompt[-1] == BROKEN:
            del self._sequences[number]
            error = InferenceError(
                "The model's scores are not numbers.", code=ErrorCode.INTERNAL, reason="NaN"
            )
            return SequenceUpdate(sequence=number, error=error)
        if not one.tokens:
            self._counts.prompt_tokens += len(one.prompt)
        token = one.prompt[-1] + len(one.tokens) + 1
        one.tokens.append(token)
        self._counts.generated_tokens += 1
        sampling = one.request.sampling
        finish: FinishReason | None = None
        stop: int | str | None = None
        if token in sampling.stop_token_ids:
            finish, stop = FinishReason.STOP, token
        elif len(one.tokens) == one.most:
            finish = FinishReason.LENGTH
        if finish is not None:
            del self._sequences[number]
        logprobs: tuple[TokenLogprob, ...] = ()
        if sampling.logprobs is not None:
            top = tuple((token + i, -1.0 - i) for i in range(sampling.logprobs))
            logprobs = (TokenLogprob(token, -1.0, top),)
        return SequenceUpdate(
            sequence=number,
            tokens=(token,),
            text=f"{token} " if one.request.text else "",
            logprobs=logprobs,
            finish=finish,
            matched_stop=stop,
            cached_tokens=1 if finish else 0,
            queue_s=0.25 if finish else 0.0,
        )


def opened(script: Script, *, chat: bool = False) -> OpenedGenerator:
    """What an opener gives; text is numbers, separated by spaces."""
    return OpenedGenerator(
        generator=ScriptedGenerator(script),
        encode=lambda text: [int(word) for word in text.split()],
        info=GenerationInfo(
            vocabulary=VOCABULARY,
            context=CONTEXT,
            end_tokens=(2,),
            max_sequences=script.max_sequences,
            chat=chat,
        ),
    )


def answer_of(prompt: int, count: int) -> list[int]:
    """The tokens that answer a prompt which ends with a token."""
    return [prompt + number + 1 for number in range(count)]


def write_generating(folder: Path, *, name: str = "counter") -> Path:
    """A bundle whose task is to generate; its weights are opened by nobody."""
    parts = BundleParts(
        task="generate",
        model_type="LLM",
        inputs=[("text", "BYTES", (1,)), ("input_ids", "INT64", (1, -1))],
        outputs=[("text", "BYTES", (1,)), ("token_ids", "INT64", (1, -1))],
        variant={"backend": "torch"},
    )
    return write_raw(folder, json.dumps({"model_type": "counter"}).encode(), parts, name=name)


def _invalid(message: str) -> InferenceError:
    return InferenceError(message, code=ErrorCode.INVALID_ARGUMENT, hint="Do not.", reason="Bad")
