"""Clients share a model by tokens, whatever they send."""

from __future__ import annotations

import random

import pytest
from deepseek_engine.generation.shares import INPUT_COST, OUTPUT_COST, TokenShares
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.generation.test_scheduling import Field

LONGEST = 24
ANSWER = 10


def served(field: Field, charged: dict[str, float]) -> None:
    """Add what one step computed, in charged units, to each client's sum."""
    before = {s.id: s.reused is None for s in field.living.values()}
    for work in field.step().work:
        client = work.sequence.request.client
        if before.get(work.sequence.id):
            charged[client] += INPUT_COST * work.sequence.prompt
        charged[client] += OUTPUT_COST * work.samples


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), seats=st.integers(1, 5))
def test_service_of_two_clients_with_work_stays_within_the_bound(seed: int, seats: int) -> None:
    draw = random.Random(seed)
    field = Field(200, max_sequences=seats, token_budget=64)
    usual = {"short": (2, 3), "long": (LONGEST, ANSWER), "mixed": (9, 6)}
    charged = dict.fromkeys(usual, 0.0)
    # One sequence of each seat may be charged to one client while the other one waits.
    at_once = seats * (LONGEST * INPUT_COST + ANSWER * OUTPUT_COST)
    for _ in range(150):
        for client, (prompt, answer) in usual.items():
            # "short" sends ten times as many requests, and every client always has some waiting.
            waiting = sum(
                s.request.client == client and s.reused is None for s in field.living.values()
            )
            for _ in range((20 if client == "short" else 2 * seats) - waiting):
                field.add(draw.randint(1, prompt), draw.randint(1, answer), client=client)
        served(field, charged)
        gap = max(charged.values()) - min(charged.values())
        assert gap <= 2 * at_once


def test_a_client_with_many_requests_does_not_delay_another_one() -> None:
    field = Field(max_sequences=1)
    for _ in range(50):
        field.add(4, answer=4, client="many")
    field.step()
    few = field.add(4, answer=1, client="few")
    steps = 0
    while few.id in field.living:
        field.step()
        steps += 1
    # The one that runs ends first; then it is the turn of whoever had less.
    assert steps <= 4


@pytest.mark.parametrize("alone", [1, 10, 100])
def test_idleness_earns_nothing(alone: int) -> None:
    field = Field(max_sequences=1)
    for _ in range(alone):
        field.add(4, answer=4, client="busy")
    for _ in range(4 * alone - 1):
        field.step()
    charged = {"busy": 0.0, "late": 0.0}
    for _ in range(20):
        for client in charged:
            field.add(4, answer=4, client=client)
    for _ in range(80):
        served(field, charged)
    assert abs(charged["busy"] - charged["late"]) <= 2 * (4 * INPUT_COST + 4 * OUTPUT_COST)


def test_what_is_computed_again_is_not_charged_again() -> None:
    field = Field(blocks=7)
    for client in ("a", "b"):
        field.add(8, answer=12, client=client)
    kept = field.scheduler.shares
    most = {"a": 0.0, "b": 0.0}
    while field.living:
        field.step()
        most = {client: max(most[client], kept.counter(client)) for client in most}
    assert field.scheduler.counts.preemptions > 0
    assert max(most.values()) <= 8 * INPUT_COST + 12 * OUTPUT_COST


def test_names_of_clients_do_not_pile_up() -> None:
    shares = TokenShares()
    shares.arrive("stays")
    for number in range(5000):
        shares.arrive(f"client {number}")
        shares.charge(f"client {number}", inputs=1)
        shares.end(f"client {number}", waiting=True)
        assert len(shares) <= 100
