"""What a decoder computes, read from a hub's ``config.json``.

Why it exists: one definition of a decoder serves all variants, and this frozen object is what makes
the difference between them. It is complete: a field that would change the result in a way that is
not computed here is refused by name, never ignored. Imports no runtime, so that whoever plans
memory or shards may read it without one. Reading is in `deepseek_engine.generation.families`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from deepseek_api.errors import BundleError

__all__ = ["DecoderConfig", "Experts", "Latent", "Rope"]

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
Norm = Literal["rms", "rms_unit_offset", "layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary positions: how frequencies follow from a base and a scaling.

    The rules are those of the papers: linear (Chen et al., arXiv:2306.15595), llama3 (Llama Team,
    arXiv:2407.21783), yarn (Peng et al., arXiv:2309.00071).
    """

    kind: Literal["default", "linear", "llama3", "yarn"] = "default"
    base: float = 10_000.0
    factor: float = 1.0
    original_context: int = 0
    """Positions of the training before scaling (llama3, yarn)."""
    low_frequency: float = 1.0
    """llama3: wavelengths above original_context / low_frequency are divided by ``factor``."""
    high_frequency: float = 4.0
    """llama3: wavelengths below original_context / high_frequency stay."""
    beta_fast: float = 32.0
    """yarn: dimensions that turn more often in the original context stay."""
    beta_slow: float = 1.0
    """yarn: dimensions that turn less often are divided by ``factor``."""
    truncate: bool = True
    """yarn: whether the borders between them are whole dimensions."""
    amplitude: float = 1.0
    """What sines and cosines are multiplied with (yarn)."""
    interleaved: bool = False
    """Whether a pair is two neighbours instead of a number of each half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Latent attention (DeepSeek-AI, arXiv:2405.04434): one small vector a token is cached."""

    query_rank: int
    """Width of the compressed queries; 0: queries are projected directly."""
    rank: int
    """Width of the compressed keys and values."""
    rope_dim: int
    """Numbers of a head that carry the position; the cached key part is shared by all heads."""
    plain_dim: int
    """Numbers of a query's or key's head without position."""
    value_dim: int
    """Numbers of a value's head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Mixture of experts with a sigmoid router and groups (DeepSeek-AI, arXiv:2412.19437)."""

    count: int
    chosen: int
    """Experts that a token uses."""
    groups: int
    chosen_groups: int
    shared: int
    """Experts that every token uses, as one of so many times the width; 0: none."""
    ffn: int
    """Inner width of one expert."""
    scale: float
    """Factor of the routed experts' sum."""
    normalized: bool
    """Whether the weights of the chosen experts add up to 1 before that factor."""
    first: int
    """Layers before this one are dense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Everything that a decoder's numbers and shapes depend on."""

    architecture: str
    """The hub's ``model_type``."""
    vocabulary: int
    width: int
    """Numbers of a token's vector."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    """Inner width of the feed-forward part."""
    context: int
    """Most positions of a sequence."""
    activation: Activation
    gated: bool = True
    """Whether the feed-forward part has a gate beside its way up."""
    norm: Norm = "rms"
    norm_eps: float = 1e-6
    tied: bool = False
    """Whether the head is the embedding."""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False
    """Whether queries and keys are normalized by head, before the rotation."""
    sandwich: bool = False
    """Whether what attention and feed-forward add is normalized too."""
    learned_positions: bool = False
    embedding_scale: float = 1.0
    attention_scale: float
    """Factor of the scores before the softmax."""
    windows: tuple[int, ...]
    """Positions that a token of each layer sees, its own included; 0: all."""
    rope: Rope | None
    """Of layers that see everything; None: no rotation."""
    local_rope: Rope | None
    """Of layers with a window."""
    score_cap: float = 0.0
    """Scores s of tokens become cap * tanh(s / cap); 0: they stay."""
    latent: Latent | None = None
    experts: Experts | None = None
    end_tokens: frozenset[int] = frozenset()
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the weights as they were published."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read ``config.json``, and the end tokens of ``generation_config.json`` if it is there.

        Raises:
            BundleError: a file is missing or damaged, the architecture is unknown, or a field has a
                value that this release does not compute; the message names it.
        """
        # Here, because the families make objects of this class.
        from deepseek_engine.generation.families import read_fields

        return cls(**read_fields(folder))

    def __post_init__(self) -> None:
        def refuse(field: str, what: str) -> BundleError:
            return BundleError(
                f"The model's field '{field}' does not fit: {what}.",
                hint="Use a model of an architecture and setting that this release computes.",
                reason="UnsupportedModel",
            )

        if self.heads % self.kv_heads:
            raise refuse(
                "num_key_value_heads", f"{self.heads} heads are no multiple of {self.kv_heads}"
            )
        rotated = self.latent.rope_dim if self.latent else self.head_dim
        if self.rope is not None and rotated % 2:
            raise refuse("head_dim", f"{rotated} numbers cannot be rotated in pairs")
        if len(self.windows) != self.layers:
            raise refuse("layer_types", f"{len(self.windows)} entries for {self.layers} layers")
        if self.experts is not None:
            each = self.experts
            if each.count % each.groups or each.chosen_groups > each.groups:
                raise refuse("n_group", f"{each.count} experts in {each.groups} groups")
            if each.chosen > each.count // each.groups * each.chosen_groups:
                raise refuse("num_experts_per_tok", f"{each.chosen} of {each.count} experts")

    def rope_of(self, layer: int) -> Rope | None:
        """The rotation of a layer."""
        return self.local_rope if self.windows[layer] else self.rope

    @property
    def cached_heads(self) -> int:
        """Heads of keys and values in the cache."""
        return 1 if self.latent else self.kv_heads

    @property
    def cached_dims(self) -> tuple[int, int]:
        """Numbers of a cached key's and value's head; of latent attention, position and latent."""
        if self.latent:
            return self.latent.rope_dim, self.latent.rank
        return self.head_dim, self.head_dim
