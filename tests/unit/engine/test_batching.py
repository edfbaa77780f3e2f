"""Which requests run together, and when."""

from __future__ import annotations

import itertools
from collections.abc import Hashable

import pytest
from deepseek_engine.batching import BatchQueue, Release, Work, dynamic_batching
from deepseek_engine.latency import LatencyModel
from hypothesis import given, settings
from hypothesis import strategies as st


def work(
    name: str,
    *,
    rows: int = 1,
    at: float = 0.0,
    bucket: Hashable = 0,
    deadline: float | None = None,
    priority: int = 0,
) -> Work[str]:
    return Work(
        rows=rows, bucket=bucket, arrival=at, payload=name, deadline=deadline, priority=priority
    )


def known(seconds_per_row: float, *, start: float = 0.0) -> LatencyModel:
    model = LatencyModel()
    for rows in (1, 8, 16, 32) * 20:
        model.observe(0, rows=rows, seconds=start + seconds_per_row * rows)
    return model


def names(queue: BatchQueue[str], now: float = 0.0) -> list[str]:
    return [item.payload for item in queue.next_batch(now).items]


def fill(queue: BatchQueue[str], *items: Work[str]) -> BatchQueue[str]:
    for item in items:
        queue.add(item)
    return queue


def test_without_a_target_a_batch_is_released_at_once() -> None:
    queue = fill(BatchQueue[str](), work("a", at=5.0))
    assert queue.release_at(5.0) == 5.0
    assert queue.next_batch(5.0).release is Release.IDLE


def test_an_empty_queue_has_no_release_time() -> None:
    assert BatchQueue[str]().release_at(0.0) is None
    with pytest.raises(IndexError):
        BatchQueue[str]().next_batch(0.0)


def test_a_full_batch_is_released_as_full() -> None:
    queue = fill(BatchQueue[str](max_batch_size=4, latency_target_s=1.0), work("a", rows=4))
    assert queue.release_at(0.0) == 0.0
    assert queue.next_batch(0.0).release is Release.FULL


def test_rows_are_counted_not_requests() -> None:
    queue = fill(
        BatchQueue[str](max_batch_size=8),
        work("a", rows=5),
        work("b", rows=5),
        work("c", rows=3),
    )
    batch = queue.next_batch(0.0)
    assert [item.payload for item in batch.items] == ["a", "c"]
    assert batch.rows == 8
    assert queue.rows == 5


def test_work_larger_than_a_batch_runs_alone() -> None:
    queue = fill(BatchQueue[str](max_batch_size=4), work("big", rows=9), work("small"))
    assert names(queue) == ["big"]


def test_a_steady_stream_is_waited_for_until_the_slack_is_used_up() -> None:
    queue = BatchQueue[str](latency_target_s=0.1, latency=known(0.001))
    for number in range(10):
        queue.add(work(str(number), at=number * 0.002))
    now = 0.018
    start = queue.release_at(now)
    assert start is not None
    assert start == pytest.approx(0.1 - 0.010, abs=0.002)
    assert queue.next_batch(start + 0.001).release is Release.SLACK


def test_a_lone_request_does_not_wait_for_company_that_is_not_expected() -> None:
    queue = fill(BatchQueue[str](latency_target_s=0.1, latency=known(0.001)), work("a", at=1.0))
    assert queue.release_at(1.0) == 1.0
    assert queue.next_batch(1.0).release is Release.IDLE


def test_a_stream_that_stopped_is_not_waited_for() -> None:
    queue = BatchQueue[str](latency_target_s=10.0, latency=known(0.001))
    for number in range(5):
        queue.add(work(str(number), at=number * 0.01))
    assert queue.release_at(0.05) > 0.05  # type: ignore[operator]
    assert queue.release_at(6.0) == 6.0


def test_a_deadline_before_the_target_is_what_counts() -> None:
    queue = BatchQueue[str](latency_target_s=10.0, latency=known(0.001))
    for number in range(5):
        queue.add(work(str(number), at=number * 0.001, deadline=0.5 if number == 3 else None))
    assert queue.release_at(0.005) == pytest.approx(0.5 - 0.005, abs=0.001)


def test_a_batch_is_no_larger_than_its_head_can_wait_for() -> None:
    queue = BatchQueue[str](latency_target_s=0.0105, latency=known(0.001))
    fill(queue, *(work(str(number)) for number in range(20)))
    batch = queue.next_batch(0.0)
    assert (batch.rows, batch.release) == (10, Release.SLACK)


def test_a_late_queue_is_cleared_with_the_largest_batches() -> None:
    queue = BatchQueue[str](latency_target_s=0.010, latency=known(0.001))
    fill(queue, *(work(str(number)) for number in range(40)))
    assert queue.next_batch(1.0).rows == 32


def test_only_one_bucket_shares_a_batch() -> None:
    queue = fill(BatchQueue[str](), work("a", bucket=8), work("b", bucket=16), work("c", bucket=8))
    assert names(queue) == ["a", "c"]
    assert names(queue) == ["b"]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param(
            [work("none"), work("two", priority=2), work("one", priority=1)],
            ["one", "two", "none"],
            id="explicit priorities come first, the lowest number before all",
        ),
        pytest.param(
            [work("later", at=1.0), work("sooner", at=2.0, deadline=1.5)],
            ["later", "sooner"],
            id="earlier due time first",
        ),
        pytest.param(
            [work("first"), work("second"), work("third")],
            ["first", "second", "third"],
            id="equal due times in order of arrival",
        ),
    ],
)
def test_order(items: list[Work[str]], expected: list[str]) -> None:
    assert names(fill(BatchQueue[str](), *items)) == expected


def test_removed_work_never_runs() -> None:
    gone, kept = work("gone"), work("kept")
    queue = fill(BatchQueue[str](), gone, kept)
    assert queue.remove(gone)
    assert not queue.remove(gone)
    assert names(queue) == ["kept"]
    assert (len(queue), queue.rows) == (0, 0)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 12), st.integers(0, 2), st.integers(0, 3)), max_size=60
    ),
    most=st.integers(1, 16),
    target=st.none() | st.floats(0.001, 10),
)
def test_every_row_runs_exactly_once_and_no_batch_is_too_large(
    sizes: list[tuple[int, int, int]], most: int, target: float | None
) -> None:
    queue = BatchQueue[str](max_batch_size=most, latency_target_s=target)
    for number, (count, bucket, priority) in enumerate(sizes):
        queue.add(
            work(str(number), rows=count, bucket=bucket, priority=priority, at=number * 0.001)
        )
    seen: list[str] = []
    while len(queue):
        batch = queue.next_batch(1.0)
        assert batch.rows <= most or len(batch.items) == 1
        assert len({item.bucket for item in batch.items}) == 1
        seen += [item.payload for item in batch.items]
        assert queue.rows == sum(
            sizes[int(name)][0] for name in map(str, range(len(sizes))) if name not in seen
        )
    assert sorted(seen, key=int) == [str(number) for number in range(len(sizes))]


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        pytest.param(5, 2, [[0, 1], [2, 3], [4]], id="remainder"),
        pytest.param(4, 2, [[0, 1], [2, 3]], id="even"),
        pytest.param(0, 2, [], id="empty"),
        pytest.param(1, 32, [[0]], id="one"),
    ],
)
def test_dynamic_batching_cuts_in_order(count: int, size: int, expected: list[list[int]]) -> None:
    assert list(dynamic_batching(range(count), max_batch_size=size)) == expected


def test_dynamic_batching_has_a_default_maximum_of_32() -> None:
    assert [len(batch) for batch in dynamic_batching(range(70))] == [32, 32, 6]


def test_dynamic_batching_takes_endless_requests() -> None:
    assert next(dynamic_batching(itertools.count(), 3)) == [0, 1, 2]


def test_dynamic_batching_refuses_a_size_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        next(dynamic_batching([1], 0))
