"""How a model that generates text uses its replica.

Why it exists: such a model holds a cache for every text that it is at work on, so that its limits
are others than those of batching. Defaults are the engine's: an absent field stays absent.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from deepseek_api.base import Int, WireModel
from deepseek_api.v1alpha1.fields import DnsLabel

__all__ = ["Adapter", "AdapterSource", "Generation", "Speculative"]

TOKEN_BUDGET: Final = 512
"""Tokens of one step that the engine plans for unless it is told otherwise."""


class Speculative(WireModel):
    """Guessing the next tokens from text that occurred before; answers stay the same."""

    ngram: Int = Field(default=3, ge=1, le=16)
    """Longest run of tokens that is looked for in the text before."""
    guesses: Int = Field(default=4, ge=1, le=32)
    """The most tokens that are guessed for a text in one step."""


class Generation(WireModel):
    """Limits of a model whose task is ``generate``."""

    max_sequences: Int | None = Field(default=None, ge=1, le=1024)
    """The most texts that a replica works on at once; others wait. Default: 16."""
    max_tokens: Int | None = Field(default=None, ge=1, le=16_777_216)
    """The most tokens of an answer. Default: as many as the model's context leaves."""
    kv_cache_blocks: Int | None = Field(default=None, ge=2, le=16_777_216)
    """Size of the attention cache in blocks of 16 tokens, all texts together. Default: what the
    device's free memory holds."""
    speculative: Speculative | None = None
    """Guess tokens and check several in one step; ``{}`` takes the defaults. Pays where answers
    repeat their prompts, such as code and summaries. Default: nothing is guessed."""

    def settings(self) -> dict[str, Any]:
        """The engine's settings by their own names; what is absent is left to its defaults."""
        given = self.model_dump(mode="json", exclude_none=True)
        if (self.max_sequences or 0) > TOKEN_BUDGET:
            # Every text needs a token in a step.
            given["token_budget"] = self.max_sequences
        return given


class AdapterSource(WireModel):
    """Where an adapter comes from."""

    uri: Annotated[str, Field(pattern=r"^(oci|pvc|file)://[^\s]+$", max_length=2048)]
    """A folder with ``adapter_config.json`` and ``adapter_model.safetensors``: ``pvc://CLAIM/PATH``
    or ``oci://REF`` (an image that holds nothing else) in a cluster, ``file://PATH`` on one
    machine."""


class Adapter(WireModel):
    """A LoRA adapter in the format of peft, loaded beside a model that generates."""

    name: DnsLabel
    """Name by which a request chooses it, unique in the model."""
    source: AdapterSource
    """Where it comes from."""
