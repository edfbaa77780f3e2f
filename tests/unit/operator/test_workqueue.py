"""The queue: coalescing, one run per key at a time, waits after failures."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from deepseek_operator.workqueue import Outcome, QueueSettings, WorkQueue, run_workers
from hypothesis import given
from hypothesis import strategies as st

A, B, C = ("default", "a"), ("default", "b"), ("default", "c")
DONE = Outcome()
FAILED = Outcome(failed=True)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(
        clock, settings=QueueSettings(debounce_s=0.2, jitter=0.2), rng=random.Random(1)
    )


def test_a_key_added_many_times_runs_once(queue: WorkQueue) -> None:
    for _ in range(100):
        queue.add(A)
    assert queue.take() == A
    assert queue.take() is None


def test_the_first_run_does_not_wait(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A)
    assert queue.next_due() == clock.now


def test_a_key_added_while_it_runs_runs_once_more_after_the_debounce(
    queue: WorkQueue, clock: Clock
) -> None:
    queue.add(A)
    assert queue.take() == A
    queue.add(A)
    queue.add(A)
    assert queue.take() is None
    queue.finish(A, DONE)
    assert queue.take() is None
    clock.now += 0.21
    assert queue.take() == A
    queue.finish(A, DONE)
    clock.now += 10
    assert queue.take() is None


def test_an_urgent_key_goes_before_those_that_wait(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A)
    queue.add(B)
    clock.now += 1
    queue.add(C, urgent=True)
    assert [queue.take(), queue.take(), queue.take()] == [C, A, B]


def test_a_waiting_key_that_becomes_urgent_goes_first_and_runs_once(
    queue: WorkQueue, clock: Clock
) -> None:
    queue.add(A)
    clock.now += 1
    queue.add(B)
    queue.add(B, urgent=True)
    assert [queue.take(), queue.take(), queue.take()] == [B, A, None]


def test_a_key_stays_urgent_when_it_is_added_again_as_usual(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A)
    clock.now += 1
    queue.add(B, urgent=True)
    queue.add(B)
    assert queue.take() == B


def test_keys_that_waited_for_long_take_turns_with_urgent_ones(
    queue: WorkQueue, clock: Clock
) -> None:
    old = [("default", f"old{number}") for number in range(3)]
    new = [("default", f"urgent{number}") for number in range(3)]
    for key in old:
        queue.add(key)
    clock.now += 30.1
    for key in new:
        queue.add(key, urgent=True)
    taken = [queue.take() for _ in range(6)]
    assert taken == [new[0], old[0], new[1], old[1], new[2], old[2]]


def test_an_urgent_key_whose_time_has_not_come_holds_nobody_up(queue: WorkQueue) -> None:
    queue.add(A, after_s=5, urgent=True)
    queue.add(B)
    assert [queue.take(), queue.take()] == [B, None]


def test_a_key_that_became_urgent_while_it_ran_goes_first_in_its_next_run(
    queue: WorkQueue, clock: Clock
) -> None:
    queue.add(A)
    assert queue.take() == A
    queue.add(A, urgent=True)
    queue.add(B)
    queue.finish(A, DONE)
    clock.now += 0.21
    assert [queue.take(), queue.take()] == [A, B]


def test_a_run_leaves_no_urgency_behind(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A, urgent=True)
    assert queue.take() == A
    queue.finish(A, DONE)
    clock.now += 1
    queue.add(B)
    queue.add(A, after_s=0.1)
    clock.now += 1
    assert [queue.take(), queue.take()] == [B, A]


def test_a_key_edited_a_hundred_times_a_second_runs_a_few_times(
    queue: WorkQueue, clock: Clock
) -> None:
    runs = 0
    for _ in range(100):
        queue.add(A)
        if key := queue.take():
            runs += 1
            queue.finish(key, DONE)
        clock.now += 0.01
    assert 4 <= runs <= 6


def test_keys_run_side_by_side(queue: WorkQueue) -> None:
    for key in (A, B, C):
        queue.add(key)
    assert {queue.take(), queue.take(), queue.take()} == {A, B, C}
    assert queue.busy() == 3


def test_waits_after_failures_double_up_to_a_limit_and_vary(queue: WorkQueue, clock: Clock) -> None:
    waits = []
    queue.add(A)
    for _ in range(12):
        assert queue.take() == A
        queue.finish(A, FAILED)
        due = queue.next_due()
        assert due is not None
        waits.append(due - clock.now)
        clock.now = due
    for number, wait in enumerate(waits):
        expected = min(2.0**number, 300.0)
        assert expected * 0.8 <= wait <= expected * 1.2
    assert len({round(wait / min(2.0**number, 300.0), 6) for number, wait in enumerate(waits)}) > 6


def test_success_resets_the_wait(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A)
    for outcome in (FAILED, FAILED, FAILED, DONE, FAILED):
        due = queue.next_due()
        if due is None:
            queue.add(A)
            due = clock.now + 1
        clock.now = max(clock.now, due)
        assert queue.take() == A
        queue.finish(A, outcome)
    due = queue.next_due()
    assert due is not None
    assert due - clock.now <= 1.2


def test_an_event_ends_the_wait_after_a_failure(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A)
    for _ in range(6):
        clock.now = queue.next_due() or clock.now
        queue.take()
        queue.finish(A, FAILED)
    queue.add(A)
    clock.now += 0.21
    assert queue.take() == A


def test_an_event_does_not_end_a_hold(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A)
    queue.take()
    queue.finish(A, Outcome(failed=True, hold_s=7))
    queue.add(A)
    clock.now += 6.9
    assert queue.take() is None
    clock.now += 0.2
    assert queue.take() == A


def test_the_earliest_reason_to_run_counts(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A, after_s=60)
    queue.add(A, after_s=5)
    queue.add(A, after_s=30)
    clock.now += 5
    assert queue.take() == A
    queue.finish(A, Outcome(requeue_after_s=9))
    assert queue.next_due() == clock.now + 9


def test_ages_count_from_when_a_key_was_due(queue: WorkQueue, clock: Clock) -> None:
    assert queue.oldest_age() == 0
    queue.add(A, after_s=10)
    clock.now += 5
    assert (queue.oldest_age(), queue.depth()) == (0, 0)
    clock.now += 8
    assert (queue.oldest_age(), queue.depth()) == (3, 1)
    queue.take()
    clock.now += 4
    assert (queue.oldest_age(), queue.depth()) == (7, 0)
    queue.finish(A, DONE)
    assert queue.oldest_age() == 0


def test_a_long_queue_that_moves_is_not_stalled(queue: WorkQueue, clock: Clock) -> None:
    for number in range(50):
        queue.add(("default", str(number)))
    for _ in range(50):
        clock.now += 20
        key = queue.take()
        assert key
        queue.finish(key, DONE)
        assert queue.stalled_for() == 0
    assert queue.oldest_age() == 0


def test_a_queue_that_stands_still_is_stalled(queue: WorkQueue, clock: Clock) -> None:
    clock.now += 1000
    queue.add(A)
    assert queue.stalled_for() == 0
    queue.take()
    clock.now += 400
    assert queue.stalled_for() == 400


def test_an_idle_queue_is_not_stalled(queue: WorkQueue, clock: Clock) -> None:
    queue.add(A, after_s=5000)
    clock.now += 4000
    assert queue.stalled_for() == 0


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "later", "urgent", "take", "ok", "fail", "tick"]),
            st.sampled_from([A, B, C]),
        ),
        max_size=60,
    )
)
def test_no_key_is_lost_and_none_runs_twice_at_once(
    steps: list[tuple[str, tuple[str, str]]],
) -> None:
    clock = Clock()
    queue = WorkQueue(clock, settings=QueueSettings(jitter=0), rng=random.Random(1))
    running: set[tuple[str, str]] = set()
    owed: set[tuple[str, str]] = set()
    for step, key in steps:
        match step:
            case "add" | "later" | "urgent":
                queue.add(key, after_s=2.0 if step == "later" else 0.0, urgent=step == "urgent")
                owed.add(key)
            case "take":
                if taken := queue.take():
                    assert taken not in running
                    running.add(taken)
                    owed.discard(taken)
            case "ok" | "fail" if key in running:
                running.discard(key)
                queue.finish(key, DONE if step == "ok" else FAILED)
                owed |= {key} if step == "fail" else set()
            case "tick":
                clock.now += 0.5
    for key in list(running):
        queue.finish(key, DONE)
    clock.now += 1000
    seen = Counter(iter(queue.take, None))
    assert set(seen) == owed
    assert set(seen.values()) <= {1}


async def drain(queue: WorkQueue) -> None:
    while queue.busy() or queue.next_due() is not None:
        await asyncio.sleep(0)


def test_workers_keep_to_the_limit_and_run_everything() -> None:
    async def scenario() -> tuple[int, Counter[tuple[str, str]]]:
        clock = Clock()
        queue = WorkQueue(clock)
        most, now = 0, 0
        runs: Counter[tuple[str, str]] = Counter()

        async def work(key: tuple[str, str]) -> Outcome:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            runs[key] += 1
            return DONE

        workers = asyncio.create_task(run_workers(queue, work, concurrency=3))
        for number in range(20):
            queue.add(("default", str(number)))
        await drain(queue)
        workers.cancel()
        await asyncio.gather(workers, return_exceptions=True)
        return most, runs

    most, runs = asyncio.run(scenario())
    assert most == 3
    assert len(runs) == 20
    assert set(runs.values()) == {1}


def test_cancelled_workers_cancel_their_runs() -> None:
    async def scenario() -> bool:
        queue = WorkQueue(Clock())
        started, cut = asyncio.Event(), asyncio.Event()

        async def work(_: tuple[str, str]) -> Outcome:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cut.set()
            return DONE

        workers = asyncio.create_task(run_workers(queue, work, concurrency=1))
        queue.add(A)
        await started.wait()
        workers.cancel()
        await asyncio.gather(workers, return_exceptions=True)
        return cut.is_set() and queue.busy() == 0

    assert asyncio.run(scenario())
