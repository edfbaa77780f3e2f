"""Steps in which everyone decodes go through recorded graphs, and give the same tokens.

CUDA is a stand-in here: a replay makes the recorded calls again on the graph's own tensors. That
graphs work on a GPU is for a machine with one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from deepseek_engine.backends.torch.buckets import Bucket
from deepseek_engine.generation import step_runner
from deepseek_engine.generation.generator import LocalGenerator
from deepseek_engine.generation.settings import Speculation
from deepseek_engine.generation.step_graphs import DecodeShapes, StepGraphs, decode_inputs
from deepseek_engine.generation.steps import StepInputs

from tests.support.fake_cuda import FakeTorch
from tests.support.generating import alone, generate, make, request
from tests.support.tiny_decoder import TinyDecoder


def recorded(
    monkeypatch: pytest.MonkeyPatch, model: TinyDecoder, **settings: Any
) -> tuple[LocalGenerator, StepGraphs]:
    """A generator whose decode steps go through graphs of the stand-in."""
    fake = FakeTorch()
    made: list[StepGraphs] = []

    class Recording(StepGraphs):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named, library=fake, pinned=False)
            runtime: Any = self.runner._runtime
            runtime._graphs._call = fake.cuda.recorded(runtime._graphs._call)
            made.append(self)

    class Runner(step_runner.StepRunner):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, graphs=Recording)

    monkeypatch.setattr("deepseek_engine.generation.generator.StepRunner", Runner)
    generator = make(model, **settings)
    return generator, made[0]


ASKED = {n: (request(max_tokens=6 + 2 * n), list(range(n, n + 3 + 2 * n))) for n in range(5)}


def test_tokens_are_those_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyDecoder()
    generator, graphs = recorded(monkeypatch, model, max_sequences=6, kv_cache_blocks=30)
    answers = generate(generator, ASKED)
    for number, one in ASKED.items():
        assert answers[number].tokens == alone(model, *one).tokens
    assert graphs.runner.replays > 5
    assert not graphs.runner.fallbacks


def test_drawn_tokens_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyDecoder()
    asked = {
        n: (request(max_tokens=9, temperature=1.0, seed=n, repetition_penalty=1.2), [n, 3])
        for n in range(4)
    }
    generator, _ = recorded(monkeypatch, model)
    answers = generate(generator, asked)
    assert {n: answers[n].tokens for n in asked} == {
        n: alone(model, *one).tokens for n, one in asked.items()
    }


def test_prompts_guesses_and_adapters_run_without_a_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = TinyDecoder()
    generator, graphs = recorded(monkeypatch, model, speculative=Speculation(ngram=1, guesses=2))
    answers = generate(generator, {1: (request(max_tokens=1), [1, 2, 3])})
    assert graphs.runner.replays == 0
    repeated = (request(max_tokens=12), [5, 6] * 6)
    answers = generate(generator, {2: repeated})
    assert answers[2].tokens == alone(model, *repeated).tokens
    assert generator.stats().guessed_tokens > 0


def test_a_model_that_cannot_be_recorded_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyDecoder()
    padded = []

    def refuse(inputs: StepInputs, scores: torch.Tensor) -> torch.Tensor:
        if bool((inputs.slots < 0).all()):
            padded.append(len(inputs.tokens))
            raise RuntimeError("operation not permitted when stream is capturing")
        return scores

    model.after = refuse
    generator, graphs = recorded(monkeypatch, model, max_sequences=2, token_budget=8)
    one = (request(max_tokens=4), [1, 2, 3])
    assert generate(generator, {1: one})[1].tokens == alone(TinyDecoder(), *one).tokens
    assert padded
    assert graphs.runner.replays == 0
    assert graphs.runner.fallbacks == {"capture-failed": 3}


def test_padding_belongs_to_no_sequence_and_writes_nothing() -> None:
    shapes = DecodeShapes(sequences=8, longest=300, block_size=16)
    step = {
        "tokens": np.array([7, 8, 9]),
        "positions": np.array([4, 5, 6]),
        "slots": np.array([20, 37, 6]),
        "contexts": np.array([5, 6, 260], np.int32),
        "tables": np.array([[1, 0], [2, 0], [0, 3]], np.int32),
    }
    bucket = shapes.fit(step)
    assert bucket == Bucket(4, 304)
    into = shapes.example(bucket)
    into["slots"][:] = 99  # of an earlier step
    shapes.pad(step, into)
    inputs = decode_inputs({name: torch.from_numpy(a) for name, a in into.items()}, 16)
    assert inputs.slots.tolist() == [20, 37, 6, -1]
    assert inputs.context_lengths.tolist() == [5, 6, 260, 0]
    assert inputs.query_starts.tolist() == [0, 1, 2, 3, 4]
    assert inputs.logits_rows.tolist() == [0, 1, 2, 3]
    assert inputs.block_tables.shape == (4, 19)
    assert inputs.block_tables[:3, :2].tolist() == step["tables"].tolist()
    assert (inputs.max_query, inputs.max_context) == (1, 304)


@pytest.mark.parametrize(
    ("sequences", "longest", "shapes"),
    [(2, 100, ["1x112", "2x112"]), (1, 1024, ["1x256", "1x512", "1x1024"])],
    ids=["short", "long"],
)
def test_there_are_shapes_up_to_the_longest_context(
    sequences: int, longest: int, shapes: list[str]
) -> None:
    made = DecodeShapes(sequences=sequences, longest=longest, block_size=16)
    assert [str(bucket) for bucket in made] == shapes


def test_a_step_that_fits_no_shape_has_none() -> None:
    shapes = DecodeShapes(sequences=2, longest=64, block_size=16)
    large = {"tokens": np.zeros(3), "contexts": np.ones(3)}
    assert shapes.fit(large) is None
