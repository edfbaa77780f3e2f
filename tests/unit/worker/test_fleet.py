"""What a worker says about its models follows the engine and the probes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from deepseek_api.errors import DeepseekError
from deepseek_engine.client import ModelConfig, ModelInfo, ModelState
from deepseek_worker.fleet import Fleet, Phase

READY = ModelInfo(name="a", state=ModelState.READY)
LOADING = ModelInfo(name="a", state=ModelState.LOADING)
FAILED = ModelInfo(
    name="a", state=ModelState.FAILED, reason="InvalidBundle", message="A file is missing."
)


def fleet() -> Fleet:
    return Fleet([ModelConfig(name="a", bundle="x")])


def code(call: Callable[[], object]) -> str:
    with pytest.raises(DeepseekError) as error:
        call()
    return str(error.value.code)


def test_a_model_goes_from_starting_to_ready() -> None:
    models = fleet()
    phases = [models.status("a").phase]
    models.on_change(lambda: phases.append(models.status("a").phase))
    models.reported({"a": LOADING})
    models.reported({"a": READY})
    models.proven("a", generation=models.generation)
    assert phases == [Phase.STARTING, Phase.LOADING, Phase.PROVING, Phase.READY]
    assert models.ready()
    assert models.settled()


def test_a_lost_engine_takes_readiness_with_it() -> None:
    models = fleet()
    models.reported({"a": READY})
    models.proven("a", generation=models.generation)
    models.engine_lost()
    assert models.status("a").phase is Phase.STARTING
    models.reported({"a": READY})
    assert models.status("a").phase is Phase.PROVING


def test_an_answer_of_an_older_engine_proves_nothing() -> None:
    models = fleet()
    models.reported({"a": READY})
    old = models.generation
    models.engine_lost()
    models.reported({"a": READY})
    models.proven("a", generation=old)
    assert models.status("a").phase is Phase.PROVING


def test_a_failed_model_is_settled_and_keeps_its_reason() -> None:
    models = fleet()
    models.reported({"a": FAILED})
    status = models.status("a")
    assert (status.phase, status.reason, status.message) == (
        Phase.FAILED,
        "InvalidBundle",
        "A file is missing.",
    )
    assert models.settled()
    assert not models.ready()
    assert code(lambda: models.servable("a", "")) == "FAILED_PRECONDITION"
    assert code(lambda: models.known("a", "")) == "FAILED_PRECONDITION"


def test_a_refused_probe_fails_the_model_until_one_succeeds() -> None:
    models = fleet()
    models.reported({"a": READY})
    models.probe_failed("a", reason="ProbeFailed", message="It was refused.")
    assert models.status("a").phase is Phase.FAILED
    assert [info.name for info in models.to_prove()] == ["a"]
    models.proven("a", generation=models.generation)
    assert models.status("a").phase is Phase.READY
    assert not models.to_prove()


def test_metadata_is_known_while_the_engine_restarts() -> None:
    models = fleet()
    models.reported({"a": READY})
    models.engine_lost()
    assert models.known("a", "1") is READY
    assert code(lambda: models.servable("a", "")) == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("b", "", "NOT_FOUND"),
        ("", "", "NOT_FOUND"),
        ("a", "2", "NOT_FOUND"),
        ("a", "x", "INVALID_ARGUMENT"),
        ("a", "²", "INVALID_ARGUMENT"),
        ("a", "", "UNAVAILABLE"),
    ],
)
def test_a_model_that_cannot_serve_is_refused_with_the_cause(
    name: str, version: str, expected: str
) -> None:
    assert code(lambda: fleet().servable(name, version)) == expected


def test_listeners_hear_of_every_change() -> None:
    models = fleet()
    heard: list[Phase] = []
    models.on_change(lambda: heard.append(models.status("a").phase))
    models.reported({"a": READY})
    models.proven("a", generation=0)
    models.engine_lost()
    assert heard == [Phase.PROVING, Phase.READY, Phase.STARTING]
