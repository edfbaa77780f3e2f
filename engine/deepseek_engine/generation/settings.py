"""How much of a machine a model that generates may use, and how its steps are made.

Why it exists: these numbers come from a pipeline's ``models[].generation`` and from SDK calls; they
are checked here once, with the reason, so that nothing behind them has to. It must not import a
runtime: front ends read it too.
"""

from __future__ import annotations

import msgspec
from deepseek_api.errors import ConfigurationError

__all__ = ["AdapterConfig", "GenerationSettings", "Speculation"]


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One LoRA adapter of a model."""

    name: str
    path: str
    """Folder with the adapter's files in peft's format."""


class Speculation(msgspec.Struct, frozen=True, kw_only=True):
    """Guessing tokens from text that occurred before (n-gram lookup).

    Raises:
        ConfigurationError: a number is out of range.
    """

    ngram: int = 3
    """Longest run of tokens that is looked up; shorter ones are tried when it is not found."""
    guesses: int = 4
    """Most tokens to guess for a sequence in a step."""

    def __post_init__(self) -> None:
        _check("speculative.ngram", self.ngram, 1, 16)
        _check("speculative.guesses", self.guesses, 1, 32)


class GenerationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one model that generates.

    Raises:
        ConfigurationError: a number is out of range, or two do not fit together.
    """

    max_sequences: int = 16
    """Most sequences that hold blocks of the cache at once."""
    max_tokens: int = 0
    """Most tokens of an answer; 0: as many as the context leaves."""
    kv_cache_blocks: int = 0
    """Blocks of the cache; 0: what the device's free memory holds."""
    block_size: int = 16
    """Positions of a block."""
    token_budget: int = 512
    """Most tokens of one step. Longer prompts are computed in several steps, so this bounds how
    long a prompt can delay the next token of the others."""
    speculative: Speculation | None = None
    """None: no guessing."""
    prefix_reuse: bool = True
    """Whether blocks of equal beginnings are shared and kept for later requests."""
    max_queue: int = 256
    """Most sequences that wait for their first step; further ones are refused."""

    def __post_init__(self) -> None:
        _check("max_sequences", self.max_sequences, 1, 1024)
        _check("max_tokens", self.max_tokens, 0, 1 << 24)
        _check("kv_cache_blocks", self.kv_cache_blocks, 0, 1 << 24)
        _check("block_size", self.block_size, 1, 256)
        if self.block_size & (self.block_size - 1):
            raise ConfigurationError(
                f"block_size is {self.block_size}.", hint="It must be a power of two, such as 16."
            )
        _check("token_budget", self.token_budget, 1, 1 << 20)
        _check("max_queue", self.max_queue, 1, 1 << 20)
        if self.token_budget < self.max_sequences:
            raise ConfigurationError(
                f"token_budget is {self.token_budget} and max_sequences is {self.max_sequences}.",
                hint="Every sequence needs a token in a step: raise token_budget to at least "
                "max_sequences.",
            )


def _check(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError(
            f"{name} is {value!r}.", hint=f"It must be a whole number from {least} to {most}."
        )
