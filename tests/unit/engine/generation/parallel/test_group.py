"""A model over real processes: the same tokens, and what happens when a process is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from deepseek_api.errors import ConfigurationError, DeepseekError, EngineUnavailableError
from deepseek_engine.generation.parallel.context import SINGLE
from deepseek_engine.generation.parallel.group import GroupState
from deepseek_engine.generation.parallel.incarnation import TICK_S, Timeouts
from deepseek_engine.generation.parallel.rank import HEARTBEAT_S
from deepseek_engine.generation.parallel.sharded_model import ShardedCache, ShardedModel
from deepseek_engine.generation.steps import StepInputs

from tests.support.rank_groups import (
    HANG_S,
    LOADER,
    descendants,
    environment,
    gone,
    sharded,
    until,
)
from tests.support.sharded_decoder import Sequences, TinyShape, open_model, write

# Every rank imports torch, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)

PROMPTS = [[3, 9, 14, 2, 30], [7], [21, 22, 23, 24, 25]]
COUNT = 4
DETECTED_S = 5.0
"""What is promised of a rank that was killed or stopped."""


@pytest.fixture(autouse=True, scope="module")
def _loader_is_found() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment())
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def model(folder: Path, _loader_is_found: None) -> Iterator[ShardedModel]:
    """Two tensor ranks; a test that loses one leaves them running again."""
    with sharded(folder, tensor=2) as model:
        yield model


def unsharded(folder: Path) -> list[list[int]]:
    model = open_model(folder, SINGLE)
    cache = model.make_cache(64, 4)

    def forward(inputs: StepInputs) -> torch.Tensor:
        return model.score(model.run(model.embed(inputs), inputs, cache), inputs)

    return Sequences(PROMPTS).generate(forward, COUNT)


def generate(model: ShardedModel, cache: ShardedCache) -> list[list[int]]:
    return Sequences(PROMPTS).generate(lambda inputs: model.forward(inputs, cache), COUNT)


def test_two_processes_generate_the_same_tokens(model: ShardedModel, folder: Path) -> None:
    assert model.limits.vocabulary == 37
    assert len(model.group.processes) == 1
    assert generate(model, model.make_cache(64, 4)) == unsharded(folder)
    whole = open_model(folder, SINGLE).bytes_per_block(4)
    assert model.bytes_per_block(4) == whole / 2


def test_two_stages_generate_the_same_tokens(tmp_path: Path) -> None:
    with sharded(tmp_path, pipeline=2, shape=TinyShape(layers=3)) as model:
        assert generate(model, model.make_cache(64, 4)) == unsharded(tmp_path)
        # Of three layers the last stage has two, and its cache counts.
        whole = open_model(tmp_path, SINGLE).bytes_per_block(4)
        assert model.bytes_per_block(4) == whole * 2 / 3


def test_another_cache_than_the_last_is_refused_and_harms_nobody(
    model: ShardedModel, folder: Path
) -> None:
    before = model.group.restarts
    old = model.make_cache(8, 4)
    cache = model.make_cache(64, 4)
    inputs, _ = Sequences(PROMPTS).step(chunk=2)
    with pytest.raises(ValueError, match="another cache"):
        model.forward(inputs, old)
    assert generate(model, cache) == unsharded(folder)
    assert model.group.restarts == before


def test_a_stopped_rank_fails_the_step_in_time_and_the_group_serves_again(
    model: ShardedModel, folder: Path
) -> None:
    before = model.group.restarts
    cache = model.make_cache(64, 4)
    begun = Sequences(PROMPTS)
    inputs, _ = begun.step(chunk=5)
    model.forward(inputs, cache)
    (rank,) = model.group.processes
    inputs, _ = begun.step(chunk=5)

    os.kill(rank, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as device_thread:
        step = device_thread.submit(model.forward, inputs, cache)
        with pytest.raises(EngineUnavailableError, match="rank 1 has not answered") as raised:
            step.result(timeout=HANG_S)
    assert raised.value.reason == "RankLost"

    until(lambda: model.group.restarts == before + 1, "the group runs again")
    assert gone(rank)
    # What was begun before cannot go on: its keys and values are gone.
    with pytest.raises(EngineUnavailableError) as raised:
        model.forward(inputs, cache)
    assert raised.value.reason == "CacheLost"
    assert generate(model, cache) == unsharded(folder)
    assert model.group.state is GroupState.RUNNING


def test_a_silent_rank_is_given_up_within_the_promised_time() -> None:
    # What the watch itself takes; how late a busy machine lets it look is no matter of a test.
    assert Timeouts().silence_s + TICK_S + HEARTBEAT_S <= DETECTED_S


def test_a_rank_killed_while_nothing_runs_is_noticed_and_replaced(
    model: ShardedModel, folder: Path
) -> None:
    before = model.group.restarts
    (rank,) = model.group.processes
    os.kill(rank, signal.SIGKILL)
    until(lambda: model.group.restarts == before + 1, "the group runs again")
    assert model.group.cause == "rank 1 ended by signal 9"
    assert gone(rank)
    assert generate(model, model.make_cache(64, 4)) == unsharded(folder)


def test_a_model_that_the_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    arguments = write(tmp_path, TinyShape(heads=3, kv_heads=3))
    before = set(descendants(os.getpid()))
    with pytest.raises(ConfigurationError, match="number of attention heads is 3"):
        ShardedModel(loader=LOADER, arguments=arguments, tensor_size=2)
    assert all(map(gone, set(descendants(os.getpid())) - before))


def test_a_rank_that_alone_cannot_load_says_why(tmp_path: Path) -> None:
    arguments = write(tmp_path, TinyShape()) | {"fail_on": 1}
    with pytest.raises(DeepseekError, match="out of luck"):
        ShardedModel(loader=LOADER, arguments=arguments, tensor_size=2)


def test_a_closed_model_refuses(tmp_path: Path) -> None:
    # One rank: no other process takes part in closing.
    with sharded(tmp_path) as model:
        cache = model.make_cache(64, 4)
        inputs, _ = Sequences(PROMPTS).step(chunk=2)
        model.forward(inputs, cache)
        model.close()
        with pytest.raises(EngineUnavailableError, match="closed"):
            model.forward(inputs, cache)


LEADER = """
import sys
from tests.support.rank_groups import LOADER
from deepseek_engine.generation.parallel.sharded_model import ShardedModel
model = ShardedModel(loader=LOADER, arguments={"folder": sys.argv[1], "micro_batches": 1},
                     tensor_size=2)
print(*model.group.processes, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    write(tmp_path, TinyShape())
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_ranks_end_when_their_leader_is_killed(leader: subprocess.Popen[str]) -> None:
    assert leader.stdout is not None
    ranks = [int(number) for number in leader.stdout.readline().split()]
    assert len(ranks) == 1
    assert not any(map(gone, ranks))
    leader.kill()
    until(lambda: all(map(gone, ranks)), "ranks end when their leader is gone")
