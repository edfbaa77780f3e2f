"""Who is next, who makes room, and what a step holds."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest
from deepseek_engine.generation.blocks import root
from deepseek_engine.generation.requests import GenerationRequest
from deepseek_engine.generation.scheduler import Scheduler
from deepseek_engine.generation.sequences import Sequence, StepPlan
from deepseek_engine.generation.settings import GenerationSettings
from hypothesis import given, settings
from hypothesis import strategies as st


class Field:
    """A scheduler whose model always answers with the same token."""

    def __init__(self, blocks: int = 64, **given: Any) -> None:
        self.now = 0.0
        self.settings = GenerationSettings(**{"block_size": 4, "prefix_reuse": False, **given})
        self.scheduler = Scheduler(self.settings, blocks, clock=lambda: self.now)
        self.living: dict[int, Sequence] = {}
        self.count = 0

    def add(
        self, prompt: int, answer: int = 4, *, client: str = "", priority: int = 0, first: int = 1
    ) -> Sequence:
        self.count += 1
        sequence = Sequence(
            id=self.count,
            request=GenerationRequest(model="m", prompt=(), client=client, priority=priority),
            tokens=array("q", [first] * prompt),
            prompt=prompt,
            max_tokens=answer,
            arrival=self.count,
            root=root(),
        )
        self.living[sequence.id] = sequence
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> StepPlan:
        plan = self.scheduler.plan()
        assert plan is not None
        self.now += 1.0
        self.scheduler.settle(plan)
        for work in plan.work:
            if work.samples:
                self.scheduler.extend(work.sequence, [7])
                if work.sequence.generated == work.sequence.max_tokens:
                    self.end(work.sequence)
        return plan

    def end(self, sequence: Sequence) -> None:
        del self.living[sequence.id]
        self.scheduler.end(sequence)


def ids(plan: StepPlan) -> list[int]:
    return [work.sequence.id for work in plan.work]


def test_a_step_keeps_the_budget_and_those_who_decode_come_first() -> None:
    field = Field(token_budget=16)
    short = field.add(3, answer=20)
    field.step()
    long = field.add(40)
    chunks = []
    while short.generated < 5:
        plan = field.step()
        assert plan.work[0].sequence is short
        assert plan.tokens <= 16
        chunks += [work.count for work in plan.work if work.sequence is long]
    assert chunks == [15, 15, 10, 1]


def test_only_the_step_with_the_last_token_of_a_prompt_gives_a_new_one() -> None:
    field = Field(token_budget=16)
    field.add(40)
    assert [field.step().work[0].samples for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("priorities", "order"),
    [([0, 2, 1, 0], [3, 2, 1, 4]), ([5, 5, 5], [1, 2, 3]), ([0, 0], [1, 2])],
    ids=["explicit before none", "by arrival", "without any"],
)
def test_waiting_sequences_start_by_priority_then_arrival(
    priorities: list[int], order: list[int]
) -> None:
    field = Field(max_sequences=1)
    for priority in priorities:
        field.add(3, answer=1, priority=priority)
    assert [ids(field.step())[0] for _ in priorities] == order


def test_without_blocks_the_newest_of_the_lowest_priority_gives_way() -> None:
    field = Field(blocks=9)
    field.add(8, answer=12, priority=1)
    old = field.add(8, answer=12)
    new = field.add(8, answer=12)
    while not field.scheduler.counts.preemptions:
        field.step()
    assert (old.preemptions, new.preemptions) == (0, 1)


def test_a_higher_priority_takes_the_seat_of_a_lower_one() -> None:
    field = Field(max_sequences=2)
    first, second = field.add(4, answer=50), field.add(4, answer=50)
    field.step()
    urgent = field.add(4, answer=2, priority=1)
    assert urgent.id in ids(field.step())
    assert (first.preemptions, second.preemptions) == (0, 1)


def test_an_equal_priority_interrupts_nobody_to_begin() -> None:
    field = Field(max_sequences=2, blocks=6)
    for _ in range(4):
        field.add(4, answer=8)
    while field.living:
        field.step()
    assert field.scheduler.counts.preemptions == 0


def test_nobody_is_interrupted_for_a_sequence_that_would_not_fit_anyway() -> None:
    field = Field(blocks=10)
    field.add(16, answer=4, priority=1)
    low = field.add(4, answer=4)
    field.step()
    field.add(20, answer=1, priority=2)
    field.step()
    assert low.preemptions == 0


def test_the_first_waiting_sequence_is_not_passed_over_by_smaller_ones() -> None:
    field = Field(blocks=8)
    field.add(16, answer=12)
    field.step()
    large, small = field.add(24, answer=1), field.add(1, answer=1)
    while large.id in field.living:
        started = ids(field.step())
        assert small.id not in started or large.id in started


def test_the_wait_ends_with_the_first_step() -> None:
    field = Field(max_sequences=1)
    field.add(3, answer=5)
    later = field.add(3, answer=1)
    while field.living:
        field.step()
    assert later.queue_s == 5.0


def test_a_plan_must_be_settled_before_the_next_one() -> None:
    field = Field()
    field.add(3)
    plan = field.scheduler.plan()
    assert plan is not None
    with pytest.raises(RuntimeError, match="while another one runs"):
        field.scheduler.plan()
    field.scheduler.settle(plan)
    with pytest.raises(RuntimeError, match="not planned last"):
        field.scheduler.settle(plan)


def test_nothing_to_do_is_no_step() -> None:
    assert Field().scheduler.plan() is None


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    blocks=st.integers(6, 20),
    seats=st.integers(1, 6),
    extra=st.integers(0, 12),
    reuse=st.booleans(),
)
def test_whatever_comes_and_goes_all_finish_and_every_block_comes_back(
    seed: int, blocks: int, seats: int, extra: int, reuse: bool
) -> None:
    draw = random.Random(seed)
    field = Field(
        blocks, max_sequences=seats, token_budget=seats + extra, prefix_reuse=reuse, max_queue=99
    )
    arrivals, steps = 25, 0
    while arrivals or field.living:
        while arrivals and draw.random() < 0.5:
            arrivals -= 1
            prompt = draw.randint(1, 3 * blocks)
            answer = draw.randint(1, 4 * blocks - prompt + 1)
            field.add(
                prompt,
                min(answer, 20),
                client=draw.choice("abc"),
                priority=draw.choice([0, 0, 1, 2]),
                first=draw.randint(0, 1),
            )
        if field.living and draw.random() < 0.1:
            field.end(field.living[draw.choice(sorted(field.living))])
        if field.living:
            field.step()
            steps += 1
        assert field.scheduler.pool.used <= blocks
        assert field.scheduler.running <= seats
        assert steps < 20_000
    assert field.scheduler.pool.free == blocks
    assert (field.scheduler.running, field.scheduler.waiting) == (0, 0)
    assert len(field.scheduler.shares) == 0
