"""Driving a generator to the end, and what its answers are when nothing disturbs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek_engine.generation.generator import LocalGenerator
from deepseek_engine.generation.interface import GeneratorStats, SequenceUpdate
from deepseek_engine.generation.requests import GenerationRequest, SamplingParameters
from deepseek_engine.generation.sequences import StepPlan
from deepseek_engine.generation.settings import GenerationSettings
from deepseek_engine.generation.steps import DecoderModel


@dataclass
class Answered:
    """What came of one sequence."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    updates: list[SequenceUpdate] = field(default_factory=list)

    @property
    def last(self) -> SequenceUpdate:
        return self.updates[-1]


def request(
    *, client: str = "", priority: int = 0, adapter: str = "", text: bool = False, **sampling: Any
) -> GenerationRequest:
    """A greedy request, unless the sampling says otherwise."""
    parameters = SamplingParameters(**{"temperature": 0.0, **sampling})
    return GenerationRequest(
        model="m",
        prompt=(),
        sampling=parameters,
        client=client,
        priority=priority,
        adapter=adapter,
        text=text,
    )


def make(
    model: DecoderModel, tokenizer: Any = None, *, adapters: Any = None, **settings: Any
) -> LocalGenerator:
    """A generator; without other settings nothing is short."""
    given = {"kv_cache_blocks": 256, "block_size": 4, **settings}
    return LocalGenerator(model, tokenizer, GenerationSettings(**given), adapters=adapters)


def planned(generator: LocalGenerator) -> StepPlan:
    """The next step, which there must be."""
    plan = generator.plan()
    assert plan is not None
    return plan


def step(generator: LocalGenerator) -> list[SequenceUpdate]:
    """One step, computed and committed."""
    plan = planned(generator)
    return generator.commit(plan, generator.run(plan))


def drain(
    generator: LocalGenerator, answers: dict[int, Answered] | None = None, *, limit: int = 10_000
) -> dict[int, Answered]:
    """Run until nothing is left to do."""
    answers = {} if answers is None else answers
    for _ in range(limit):
        if not generator.has_work():
            return answers
        note(answers, step(generator))
    raise AssertionError(f"still at work after {limit} steps")


def note(answers: dict[int, Answered], updates: Sequence[SequenceUpdate]) -> None:
    """Append updates to the answers that they belong to."""
    for update in updates:
        answer = answers.setdefault(update.sequence, Answered())
        answer.tokens += update.tokens
        answer.text += update.text
        answer.updates.append(update)


def generate(
    generator: LocalGenerator, requests: Mapping[int, tuple[GenerationRequest, Sequence[int]]]
) -> dict[int, Answered]:
    """Answer requests that arrive together."""
    for number, (asked, prompt) in requests.items():
        generator.add(number, asked, prompt)
    return drain(generator)


def alone(
    model: DecoderModel, asked: GenerationRequest, prompt: Sequence[int], tokenizer: Any = None
) -> Answered:
    """The answer of a generator that does nothing else, and none of it cleverly."""
    generator = make(model, tokenizer, prefix_reuse=False, token_budget=1024, max_sequences=1)
    return generate(generator, {0: (asked, prompt)})[0]


def at_rest(stats: GeneratorStats) -> bool:
    """Whether no sequence is left and holds anything."""
    return (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
