"""A rank learns its place from the environment, under common names or ours."""

from __future__ import annotations

import subprocess
import sys

import pytest
from deepseek_api.errors import ConfigurationError
from deepseek_engine.generation.parallel.environment import RankEnvironment

COMMON = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
PLACE = RankEnvironment(rank=1, world_size=4, address="10.0.0.7", port=29500)


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        pytest.param({}, None, id="no group"),
        pytest.param({"RANK": ""}, None, id="an empty variable is none"),
        pytest.param(COMMON, PLACE, id="common names"),
        pytest.param({f"DEEPSEEK_{k}": v for k, v in COMMON.items()}, PLACE, id="our names"),
        pytest.param(
            COMMON | {"RANK": "9", "DEEPSEEK_RANK": "1"}, PLACE, id="ours win over common ones"
        ),
    ],
)
def test_the_place_is_read(environ: dict[str, str], place: RankEnvironment | None) -> None:
    assert RankEnvironment.read(environ) == place


def test_what_is_written_is_read_again() -> None:
    assert RankEnvironment.read({"RANK": "3"} | PLACE.variables()) == PLACE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "4"}, "RANK is '4'"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "one"}, "RANK is 'one'"),
        ({"RANK": "²"}, "RANK is '²'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is '0'"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
        ({"MASTER_ADDR": ""}, "not MASTER_ADDR"),
    ],
    ids=lambda value: next(iter(value.items())) and str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_variable_is_named(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        RankEnvironment.read(COMMON | change)
    assert raised.value.reason == "InvalidRankEnvironment"


@pytest.mark.parametrize("arguments", [[], ["x"], ["999"]], ids=["none", "no number", "not open"])
def test_a_rank_started_by_hand_says_who_starts_it(arguments: list[str]) -> None:
    module = "deepseek_engine.generation.parallel.rank"
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "started by the engine" in done.stderr
    assert "Traceback" not in done.stderr
