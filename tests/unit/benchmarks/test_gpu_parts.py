"""The cases of GPU benches, made on the processor with small shapes: they build, run and agree."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from benchmarks.gpu import elementwise, inputs, linear, sparse, step
from benchmarks.gpu.goals import COPY, EAGER, PARTS
from benchmarks.gpu.running import OWN, Case

pytestmark = pytest.mark.timeout(300)

SHAPE = (256, 128)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shape, a cache of nothing, and the processor."""
    monkeypatch.setattr(inputs, "DEVICE", "cpu")
    monkeypatch.setattr(inputs, "cache_bytes", lambda: 1)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    for module in (linear, sparse):
        monkeypatch.setattr(module, "LLAMA", (SHAPE,))
        monkeypatch.setattr(module, "SQUARE", (SHAPE,))
    monkeypatch.setattr(linear, "BERT", ())
    monkeypatch.setattr(linear, "MANY", (32,))
    monkeypatch.setattr(elementwise, "ROWS", (4,))
    monkeypatch.setattr(elementwise, "WIDTHS", (64,))
    monkeypatch.setattr(step, "MANY", ((2, 40),))
    monkeypatch.setattr(step, "FEW", ((1, 20),))
    monkeypatch.setattr(step, "TOKENS", (5,))


def all_of(part: str) -> Iterator[Case]:
    module, _, function = PARTS[part].module.partition(":")
    found: ModuleType = importlib.import_module(f"benchmarks.gpu.{module}")
    yield from getattr(found, function)()


def first_of(part: str) -> Case:
    return next(all_of(part))


@pytest.mark.parametrize("part", ["k7", "k9", "k10", "k8"])
def test_our_own_subject_gives_the_reference_and_can_be_called(part: str) -> None:
    case = first_of(part)
    assert OWN in case.subjects, case.skipped
    for calls in case.subjects.values():
        for call in calls:
            call()
    assert case.work > 0


@pytest.mark.parametrize("part", ["k1", "k2", "k3", "k4", "k5", "k6"])
def test_a_dense_baseline_stands_beside_every_linear_layer(part: str) -> None:
    case = first_of(part)
    dense = "torch fp16" if part in ("k1", "k2") else "torch bf16"
    assert case.subjects[dense][0]().shape[-1] == SHAPE[0]
    # Everything that a goal compares with is there, or is told with its reason.
    for goal in PARTS[part].goals:
        assert goal.peer in case.subjects or case.skipped[goal.peer]


def test_every_case_of_a_step_has_our_subject_and_the_peers_of_its_goals() -> None:
    for part in ("k7", "k8"):
        cases = {case.group: case for case in all_of(part)}
        assert all(OWN in case.subjects for case in cases.values())
        for goal in PARTS[part].goals:
            assert goal.peer in cases[goal.case].subjects
        for case in cases.values():
            for calls in case.subjects.values():
                calls[0]()


def test_the_share_of_a_copy_moves_as_many_bytes() -> None:
    case = first_of("k8")
    copied = case.subjects[COPY][0]()
    assert 2 * copied.nbytes == pytest.approx(case.work, rel=0.01)
    assert EAGER in case.subjects


def test_a_subject_that_gives_other_numbers_is_not_timed() -> None:
    subjects = inputs.Subjects(1, wanted=torch.ones(4))
    subjects.add("right", lambda i: lambda: torch.ones(4), limit=1e-3)
    subjects.add("wrong", lambda i: lambda: torch.full((4,), 1.1), limit=1e-3)
    subjects.add("not a number", lambda i: lambda: torch.full((4,), float("nan")), limit=1e-3)
    assert set(subjects.calls) == {"right"}
    assert set(subjects.skipped.values()) == {"gives other numbers than the reference"}


def test_inputs_are_random_and_the_same_for_the_same_seed() -> None:
    first, again = (inputs.random(64, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, inputs.random(64, seed=4))
    assert 0.5 < float(first.std()) < 1.5
