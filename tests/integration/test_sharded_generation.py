"""A model that generates over two processes, as the engine serves it, and the loss of one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from deepseek_api.errors import EngineUnavailableError
from deepseek_engine.engine import Engine
from deepseek_engine.generation.requests import GenerationRequest, SamplingParameters
from deepseek_engine.generation.settings import GenerationSettings
from deepseek_engine.messages import EngineConfig, ModelConfig, ModelState
from deepseek_engine.parallelism import ParallelismConfig

from tests.support.rank_groups import HANG_S, descendants, gone
from tests.support.real_generator import write_llama

# Every rank imports torch, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)

PROMPT = tuple(range(3, 43))
"""More than two blocks, so that its beginning is kept and used again."""


def engine_of(folder: Path, parallelism: ParallelismConfig) -> Engine:
    model = ModelConfig(
        name="m",
        bundle=str(folder),
        parallelism=parallelism,
        generation=GenerationSettings(kv_cache_blocks=64),
    )
    return Engine(EngineConfig(models=(model,), threads=1))


async def answer(engine: Engine) -> list[int]:
    sampling = SamplingParameters(max_tokens=8, temperature=0.0, ignore_eos=True)
    request = GenerationRequest(model="m", prompt=PROMPT, sampling=sampling, text=False)
    return [token async for chunk in engine.generate(request) for token in chunk.token_ids]


async def test_two_processes_answer_like_one_and_again_after_a_loss(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    async with engine_of(folder, ParallelismConfig()) as engine:
        wanted = await answer(engine)
    before = set(descendants(os.getpid()))
    async with engine_of(folder, ParallelismConfig(tensor=2)) as engine:
        assert engine.models()["m"].state is ModelState.READY, engine.models()["m"].message
        (rank,) = set(descendants(os.getpid())) - before
        assert await answer(engine) == wanted

        os.kill(rank, signal.SIGKILL)
        async with asyncio.timeout(HANG_S):
            while True:
                # Until the ranks are there again answers are UNAVAILABLE, and never wrong.
                try:
                    assert await answer(engine) == wanted
                    break
                except EngineUnavailableError:
                    await asyncio.sleep(0.05)
        assert gone(rank)
        ranks = set(descendants(os.getpid())) - before
    assert all(map(gone, ranks))
