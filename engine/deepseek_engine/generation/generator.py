"""All sequences of one model on one device: scheduler, step runner, sampler and text together.

Why it exists: it is the inside of the seam in `interface`, and the only place that knows all parts.
What decides (scheduler, stops) runs where `plan` and `commit` are called, what computes where `run`
is called; the two never run at the same time for one model, so there is no lock.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Tokens
from typing import Any

from deepseek_api.errors import DeepseekError, ErrorCode, InferenceError, QueueFullError

from deepseek_engine.generation import speculation
from deepseek_engine.generation.admitting import Bounds, invalid
from deepseek_engine.generation.blocks import root
from deepseek_engine.generation.cache_size import cache_blocks
from deepseek_engine.generation.constraints import ConstraintCompiler, Grammar
from deepseek_engine.generation.detokenizing import Detokenizer
from deepseek_engine.generation.interface import GeneratorStats, SequenceUpdate
from deepseek_engine.generation.requests import FinishReason, GenerationRequest, TokenLogprob
from deepseek_engine.generation.sampling import Choice
from deepseek_engine.generation.scheduler import Scheduler
from deepseek_engine.generation.sequences import Sequence, StepPlan
from deepseek_engine.generation.settings import GenerationSettings
from deepseek_engine.generation.step_runner import Outcome, StepRunner
from deepseek_engine.generation.steps import DecoderModel
from deepseek_engine.generation.stopping import Answer

__all__ = ["LocalGenerator"]


class LocalGenerator:
    """A `Generator` of a model in this process."""

    def __init__(
        self,
        model: DecoderModel,
        tokenizer: Any,
        settings: GenerationSettings,
        *,
        adapters: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the cache; no sequence is there yet.

        Args:
            model: its weights are loaded.
            tokenizer: a `tokenizers.Tokenizer`; None: requests get no text and may set no stops
                that are text.
            settings: checked.
            adapters: numbers of loaded adapters by name.
            clock: seconds, monotonic.

        Raises:
            DeviceError: RESOURCE_EXHAUSTED: the cache does not fit.
        """
        self._limits = model.limits
        self._tokenizer = tokenizer
        self._settings = settings
        self._adapters = dict(adapters or {})
        blocks = cache_blocks(model, settings)
        self._runner: StepRunner | None = StepRunner(
            model, model.make_cache(blocks, settings.block_size), settings
        )
        self._scheduler = Scheduler(settings, blocks, clock=clock, guess=self._guess)
        self._bounds = Bounds(
            settings,
            vocabulary=model.limits.vocabulary,
            context=model.limits.context,
            blocks=blocks,
        )
        self._constraints = None
        if tokenizer is not None:
            self._constraints = ConstraintCompiler(
                tokenizer, vocabulary=model.limits.vocabulary, end_tokens=model.limits.end_tokens
            )
        self._sequences: dict[int, Sequence] = {}
        self._in_step: set[Sequence] = set()
        self._arrivals = 0

    def prepare(self, request: GenerationRequest) -> None:
        """Prepare what the text must match; on any thread.

        Raises:
            InferenceError: INVALID_ARGUMENT: it is wrong or too complex.
        """
        self._matcher(request)

    def add(self, sequence: int, request: GenerationRequest, prompt: Tokens[int]) -> None:
        """Let a sequence wait for its first step.

        Raises:
            InferenceError: INVALID_ARGUMENT, saying what does not fit and why.
            QueueFullError: too many wait.
            ValueError: a living sequence has this number.
        """
        if sequence in self._sequences:
            raise ValueError(f"sequence {sequence} lives already")
        tokens = self._bounds.prompt(prompt)
        most = self._bounds.max_tokens(len(tokens), request.sampling)
        self._bounds.stops(request.sampling)
        adapter = self._adapter(request.adapter)
        answer = self._answer(request, tokens, most)
        matcher = self._matcher(request)
        if self._scheduler.waiting >= self._settings.max_queue:
            raise QueueFullError(
                f"{self._scheduler.waiting} requests wait for this model already.",
                retry_after_s=1.0,
                hint="Send it again later, or raise max_queue.",
            )
        seed = request.sampling.seed
        self._arrivals += 1
        living = Sequence(
            id=sequence,
            request=request,
            tokens=tokens,
            prompt=len(tokens),
            max_tokens=most,
            arrival=self._arrivals,
            root=root(request.adapter),
            choice=Choice(
                request.sampling,
                tokens,
                seed=secrets.randbits(64) if seed is None else seed,
                ends=answer.ends,
                matcher=matcher,
            ),
            text=answer,
            adapter=adapter,
        )
        self._sequences[sequence] = living
        self._scheduler.add(living)

    def abort(self, sequence: int) -> None:
        """Forget a sequence; its blocks are free when the running step, if any, is committed."""
        living = self._sequences.pop(sequence, None)
        if living is None:
            return
        living.aborted = True
        if living not in self._in_step:
            self._scheduler.end(living)

    def has_work(self) -> bool:
        """Whether `plan` would return a step."""
        return bool(self._sequences)

    def plan(self) -> StepPlan | None:
        """Choose the sequences and tokens of the next step; None: nothing to do."""
        plan = self._scheduler.plan()
        if plan is not None:
            self._in_step = {work.sequence for work in plan.work}
        return plan

    def run(self, plan: StepPlan) -> list[Outcome]:
        """Compute a planned step.

        Raises:
            EngineUnavailableError: the model was closed.
        """
        if self._runner is None:
            raise InferenceError(
                "The model is closed.", code=ErrorCode.UNAVAILABLE, reason="EngineUnavailable"
            )
        return self._runner.run(plan)

    def commit(self, plan: StepPlan, result: list[Outcome]) -> list[SequenceUpdate]:
        """Account for a computed step; aborted sequences are not told of."""
        self._scheduler.settle(plan)
        self._in_step = set()
        updates = []
        for work, outcome in zip(plan.work, result, strict=True):
            sequence = work.sequence
            if sequence.aborted:
                self._scheduler.end(sequence)
                continue
            self._scheduler.counts.guessed_tokens += len(work.guesses)
            self._scheduler.counts.accepted_tokens += max(0, len(outcome.tokens) - 1)
            update = self._advance(sequence, outcome)
            if update is not None:
                updates.append(update)
        return updates

    def fail(self, plan: StepPlan, error: Exception) -> list[SequenceUpdate]:
        """Account for a step that raised: its sequences end with ``error``, the others go on."""
        self._scheduler.settle(plan, failed=True)
        self._in_step = set()
        if not isinstance(error, DeepseekError):
            error = InferenceError(
                "A step of the model failed.",
                code=ErrorCode.INTERNAL,
                hint="The log of the engine has the cause.",
                reason="StepFailed",
            )
        updates = []
        for work in plan.work:
            if work.sequence.aborted:
                self._scheduler.end(work.sequence)
            else:
                updates.append(self._end(work.sequence, error=error))
        return updates

    def stats(self) -> GeneratorStats:
        """A snapshot."""
        return self._scheduler.stats()

    def close(self) -> None:
        """Free weights and cache."""
        if self._runner is not None:
            self._runner.close()
        self._runner = None

    def _advance(self, sequence: Sequence, outcome: Outcome) -> SequenceUpdate | None:
        """Take the tokens of a step until one of them ends the answer."""
        if not outcome.tokens and not outcome.failed:
            return None
        text, used, finish, stop = "", 0, None, None
        for token in outcome.tokens:
            used += 1
            progress = sequence.text.feed(
                token, complete=used == len(outcome.tokens) and sequence.choice.complete
            )
            text += progress.text
            finish, stop = progress.finish, progress.matched_stop
            if finish is not None:
                break
        self._scheduler.extend(sequence, outcome.tokens[:used])
        error = None
        if outcome.failed and finish is None:
            error = sequence.choice.error or _not_numbers()
        made = (outcome.tokens[:used], text, outcome.logprobs[:used])
        if finish is not None or error is not None:
            return self._end(sequence, made=made, finish=finish, stop=stop, error=error)
        return SequenceUpdate(sequence=sequence.id, tokens=made[0], text=text, logprobs=made[2])

    def _end(
        self,
        sequence: Sequence,
        *,
        made: tuple[tuple[int, ...], str, tuple[TokenLogprob, ...]] = ((), "", ()),
        finish: FinishReason | None = None,
        stop: str | int | None = None,
        error: Exception | None = None,
    ) -> SequenceUpdate:
        self._scheduler.end(sequence)
        self._sequences.pop(sequence.id, None)
        return SequenceUpdate(
            sequence=sequence.id,
            tokens=made[0],
            text=made[1],
            logprobs=made[2],
            finish=finish,
            matched_stop=stop,
            error=error,
            cached_tokens=sequence.reused or 0,
            preemptions=sequence.preemptions,
            queue_s=sequence.queue_s,
        )

    def _answer(self, request: GenerationRequest, prompt: Tokens[int], most: int) -> Answer:
        wanted = bool(request.text or request.sampling.stop)
        if (wanted or request.sampling.constraint) and self._tokenizer is None:
            raise invalid(
                "This model has no tokenizer, so that it cannot give text, look for stop texts or "
                "make a text match.",
                hint="Ask for tokens without text, and end them with stop_token_ids.",
                reason="NoTokenizer",
            )
        return Answer(
            request.sampling,
            max_tokens=most,
            end_tokens=self._limits.end_tokens,
            source=Detokenizer(self._tokenizer, prompt) if wanted else None,
            text=request.text,
        )

    def _matcher(self, request: GenerationRequest) -> Grammar | None:
        constraint = request.sampling.constraint
        if constraint is None or self._constraints is None:
            return None
        return self._constraints.grammar(constraint)

    def _adapter(self, name: str) -> int:
        if not name:
            return -1
        if name not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise invalid(
                f"The adapter '{name[:80]}' is not loaded.",
                hint=f"Loaded adapters: {known}.",
                reason="UnknownAdapter",
            )
        return self._adapters[name]

    def _guess(self, sequence: Sequence, most: int) -> Tokens[int]:
        asked = self._settings.speculative
        if asked is None or not sequence.choice.guessable:
            return ()
        return speculation.guess(sequence.tokens, ngram=asked.ngram, most=min(most, asked.guesses))


def _not_numbers() -> InferenceError:
    return InferenceError(
        "The model's scores for the next token are not numbers.",
        code=ErrorCode.INTERNAL,
        hint="Other requests are not affected; if it happens again, the weights or their precision "
        "are at fault.",
        reason="InvalidScores",
    )
