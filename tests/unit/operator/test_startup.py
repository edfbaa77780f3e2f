"""What the operator does while the API server does not answer yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from deepseek_operator.cluster import (
    ClusterError,
    Rejected,
    ServerFault,
    Throttled,
    Unauthorized,
    Unavailable,
)
from deepseek_operator.startup import PATIENCE_S, kind_is_served

DOWN = Unavailable("connection refused")


class World:
    """A server that gives these answers, each after a second, and a clock."""

    def __init__(self, answers: Iterator[bool | ClusterError]) -> None:
        self.answers = answers
        self.now = 50.0
        self.asked: list[float] = []

    async def ask(self) -> bool:
        self.asked.append(self.now)
        self.now += 1
        answer = next(self.answers)
        if isinstance(answer, ClusterError):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self) -> bool:
        return asyncio.run(kind_is_served(self.ask, clock=lambda: self.now, sleep=self.sleep))


def always(answer: bool | ClusterError) -> Iterator[bool | ClusterError]:
    while True:
        yield answer


@pytest.mark.parametrize("served", [True, False])
def test_an_answer_is_taken_at_once(served: bool) -> None:
    world = World(iter([served]))
    assert world.run() is served


@pytest.mark.parametrize(
    "error", [Rejected("forbidden"), Unauthorized("401: who are you?")], ids=["403", "401"]
)
def test_refused_credentials_are_not_tried_again(error: ClusterError) -> None:
    world = World(always(error))
    with pytest.raises(type(error)):
        world.run()
    assert len(world.asked) == 1


@pytest.mark.parametrize(
    "error", [DOWN, ServerFault("etcd is down"), Throttled("slow", retry_after_s=3)]
)
def test_an_outage_is_waited_for(error: ClusterError) -> None:
    world = World(iter([error, error, error, True]))
    assert world.run() is True
    assert world.now - 50 < 20


def test_the_waits_grow_and_end_after_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    world = World(always(DOWN))
    with pytest.raises(Unavailable, match="connection refused"):
        world.run()
    pauses = [later - earlier for earlier, later in zip(world.asked, world.asked[1:], strict=False)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 2
    assert pauses[-1] <= 6
    assert PATIENCE_S - 10 <= world.asked[-1] - 50 <= PATIENCE_S
    assert len(caplog.records) == len(pauses)


def test_the_wait_that_the_server_asks_for_is_kept() -> None:
    world = World(iter([Throttled("slow", retry_after_s=20), True]))
    assert world.run() is True
    assert world.asked == [50, 71]
