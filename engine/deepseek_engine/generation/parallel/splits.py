"""How heads, vocabularies, widths, experts and layers are divided.

Why it exists: loaders and layers must divide alike, and what cannot be divided must be refused
before anything is loaded, with the numbers. Pure arithmetic; no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_api.errors import ConfigurationError

from deepseek_engine.generation.parallel.context import ParallelContext

__all__ = ["HeadSplit", "VocabularySplit", "expert_range", "split_width", "stage_layers"]


def split_width(total: int, what: str, context: ParallelContext) -> tuple[int, int]:
    """A rank's share of a dimension that must divide evenly.

    Args:
        total: size of the whole dimension.
        what: its name in an error, for example ``intermediate_size``.
        context: whose share.

    Returns:
        First index, and the one after the last.

    Raises:
        ConfigurationError: ``InvalidParallelism``; the size is no multiple of the ranks.
    """
    if total % context.tensor_size:
        raise invalid_parallelism(
            f"{what} is {total}, which {context.tensor_size} tensor ranks cannot share evenly.",
            "Choose a tensor parallelism that divides it.",
        )
    share = total // context.tensor_size
    return context.tensor_rank * share, (context.tensor_rank + 1) * share


@dataclass(frozen=True, slots=True)
class HeadSplit:
    """A rank's attention heads.

    With fewer key-value heads than ranks several ranks hold the same one: every query head then has
    its keys and values at hand, and no rank exchanges any.
    """

    first: int
    """First query head of this rank."""
    count: int
    """Query heads of this rank."""
    kv_first: int
    """First key-value head of this rank."""
    kv_count: int
    """Key-value heads of this rank."""

    @classmethod
    def of(cls, heads: int, kv_heads: int, context: ParallelContext) -> HeadSplit:
        """Divide query and key-value heads.

        Raises:
            ConfigurationError: ``InvalidParallelism``; the ranks cannot share them evenly.
        """
        size, rank = context.tensor_size, context.tensor_rank
        if heads % kv_heads:
            raise invalid_parallelism(
                f"{heads} attention heads cannot share {kv_heads} key-value heads evenly.",
                "Correct the numbers of heads in config.json.",
            )
        first, last = split_width(heads, "The number of attention heads", context)
        if kv_heads % size and size % kv_heads:
            raise invalid_parallelism(
                f"{size} tensor ranks can neither share {kv_heads} key-value heads evenly nor hold "
                "copies of them evenly.",
                "Choose a tensor parallelism that divides the key-value heads or is a multiple.",
            )
        kv_count = max(1, kv_heads // size)
        return cls(first, last - first, rank * kv_heads // size, kv_count)


@dataclass(frozen=True, slots=True)
class VocabularySplit:
    """A rank's rows of the embedding and of the output layer.

    A vocabulary that does not divide gets rows of zeros at its end, of which no score is ever told.
    """

    size: int
    """Tokens of the whole vocabulary."""
    first: int
    """First token of this rank; at most ``size``."""
    last: int
    """One after its last token; at most ``size``."""
    rows: int
    """Rows of this rank, padding included; the same on every rank."""

    @classmethod
    def of(cls, size: int, context: ParallelContext) -> VocabularySplit:
        """Divide a vocabulary of ``size`` tokens."""
        rows = -(-size // context.tensor_size)
        first = min(size, context.tensor_rank * rows)
        return cls(size, first, min(size, first + rows), rows)


def expert_range(experts: int, context: ParallelContext) -> range:
    """Experts that a rank holds; counts differ by at most one where they do not divide.

    Raises:
        ConfigurationError: ``InvalidParallelism``; there are fewer experts than ranks.
    """
    return _shares(experts, context.tensor_rank, context.tensor_size, "experts", "tensor ranks")


def stage_layers(layers: int, context: ParallelContext) -> range:
    """Layers that a stage holds; counts differ by at most one where they do not divide.

    Raises:
        ConfigurationError: ``InvalidParallelism``; there are fewer layers than stages.
    """
    return _shares(layers, context.pipeline_rank, context.pipeline_size, "layers", "stages")


def invalid_parallelism(message: str, hint: str) -> ConfigurationError:
    """The error of a division that is not possible."""
    return ConfigurationError(message, hint=hint, reason="InvalidParallelism")


def _shares(total: int, rank: int, size: int, what: str, who: str) -> range:
    if total < size:
        raise invalid_parallelism(
            f"The model has {total} {what}, fewer than {size} {who}.",
            f"Use at most {total} {who}.",
        )
    return range(total * rank // size, total * (rank + 1) // size)
