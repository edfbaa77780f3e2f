"""Settings are refused where they are written, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_api.errors import ConfigurationError, DeviceError
from deepseek_engine.generation.cache_size import cache_blocks
from deepseek_engine.generation.settings import GenerationSettings, Speculation

from tests.support.tiny_decoder import TinyDecoder


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_sequences": 0}, "max_sequences is 0. It must be a whole number from 1 to 1024."),
        ({"max_sequences": True}, "max_sequences is True"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"kv_cache_blocks": -1}, "kv_cache_blocks is -1"),
        ({"block_size": 12}, "block_size is 12. It must be a power of two, such as 16."),
        ({"token_budget": 8}, "token_budget is 8 and max_sequences is 16"),
        ({"token_budget": 0}, "token_budget is 0"),
        ({"max_queue": 0}, "max_queue is 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_number_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        GenerationSettings(**given)
    assert message in str(caught.value)


@pytest.mark.parametrize("given", [{"ngram": 0}, {"guesses": 0}, {"guesses": 33}], ids=str)
def test_wrong_speculation_is_named(given: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=f"speculative.{next(iter(given))} is"):
        Speculation(**given)


@pytest.mark.parametrize(
    ("memory", "settings", "blocks"),
    [
        (1 << 30, {"max_sequences": 2}, 2 * 256 // 16),
        (40_000, {"max_sequences": 2}, 40_000 // (2 * 2 * 16 * 16 * 8)),
        (1 << 30, {"kv_cache_blocks": 99}, 99),
    ],
    ids=["no more than can be used", "no more than fits", "as set"],
)
def test_the_cache_has_as_many_blocks_as_make_sense(
    memory: int, settings: dict[str, Any], blocks: int
) -> None:
    assert cache_blocks(TinyDecoder(), GenerationSettings(**settings), memory=memory) == blocks


@pytest.mark.parametrize("blocks", [0, 9], ids=["not even one block", "those that are set"])
def test_a_cache_that_does_not_fit_is_refused_with_the_sum(blocks: int) -> None:
    with pytest.raises(DeviceError, match=r"x 8192 bytes = .* MiB; 0.0 MiB may be used") as caught:
        cache_blocks(TinyDecoder(), GenerationSettings(kv_cache_blocks=blocks), memory=4096)
    assert caught.value.code == "RESOURCE_EXHAUSTED"
