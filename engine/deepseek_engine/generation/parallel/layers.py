"""Layers that hold one rank's part: columns, rows, vocabulary, experts.

Why it exists: a block of a transformer needs two exchanges only when its first product is cut by
columns and its second by rows (Shoeybi et al., Megatron-LM, 2019). What multiplies is given from
outside, so that a quantized product serves as well as `torch.nn.Linear`; these layers know where
the sums and the gathers belong. With one rank they are the plain layers.
"""

from __future__ import annotations

import torch
from torch import nn

from deepseek_engine.generation.parallel.collectives import all_gather, all_reduce
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.splits import VocabularySplit, expert_range

__all__ = ["MixtureOfExperts", "QkvSplit", "RowLinear", "VocabularyEmbedding", "VocabularyLogits"]


class QkvSplit(nn.Module):
    """A fused product of queries, keys and values, cut by columns: no exchange.

    The product's rows are this rank's query heads, then its key heads, then its value heads.
    """

    def __init__(self, product: nn.Module, *, heads: int, kv_heads: int, head_size: int) -> None:
        """Wrap a product.

        Args:
            product: [T, hidden] -> [T, (heads + 2 * kv_heads) * head_size].
            heads: query heads of this rank.
            kv_heads: key-value heads of this rank.
            head_size: numbers in a head.
        """
        super().__init__()
        self.product = product
        self._heads, self._kv_heads, self._head_size = heads, kv_heads, head_size

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [T, heads, head_size], keys and values [T, kv_heads, head_size]."""
        fused = self.product(hidden).unflatten(-1, (-1, self._head_size))
        query, key, value = fused.split((self._heads, self._kv_heads, self._kv_heads), dim=-2)
        return query, key, value


class RowLinear(nn.Module):
    """A product cut by rows: every rank multiplies its columns of the input, one sum follows."""

    def __init__(
        self,
        product: nn.Module,
        context: ParallelContext,
        *,
        bias: torch.Tensor | None = None,
        reduce: bool = True,
    ) -> None:
        """Wrap a product.

        Args:
            product: [..., inputs / tensor_size] -> [..., outputs], without a bias, which would
                otherwise be added once by each rank.
            context: who takes part.
            bias: [outputs], the same on every rank; added after the sum.
            reduce: False leaves the sum to the caller, who adds other parts first.

        Raises:
            ValueError: the product has a bias, or one is given without the sum that it follows.
        """
        super().__init__()
        if getattr(product, "bias", None) is not None or (bias is not None and not reduce):
            raise ValueError("a bias is added once, after the sum over the ranks")
        self.product = product
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._context, self._reduce = context, reduce

    @property
    def weight(self) -> torch.Tensor:
        """This rank's columns of the weight; some libraries ask a layer for its dtype."""
        weight = self.product.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def forward(self, part: torch.Tensor) -> torch.Tensor:
        """The whole product, or this rank's summand of it."""
        summand: torch.Tensor = self.product(part)
        if not self._reduce:
            return summand
        whole = all_reduce(summand, self._context)
        return whole if self.bias is None else whole + self.bias


class VocabularyEmbedding(nn.Module):
    """Vectors of tokens, of which each rank holds a range: one sum of [T, hidden]."""

    def __init__(self, weight: torch.Tensor, vocabulary: int, context: ParallelContext) -> None:
        """Take this rank's rows.

        Args:
            weight: [rows, hidden] with the padding of `VocabularySplit`.
            vocabulary: tokens of all ranks together.
            context: who takes part.
        """
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._split = VocabularySplit.of(vocabulary, context)
        self._context = context

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Vectors [T, hidden] of tokens [T]."""
        if self._context.tensor_size == 1:
            return nn.functional.embedding(tokens, self.weight)
        own = (tokens >= self._split.first) & (tokens < self._split.last)
        rows = torch.where(own, tokens - self._split.first, 0)
        vectors = nn.functional.embedding(rows, self.weight)
        # Not a product with the mask: zero times a weight that is not finite is not zero.
        return all_reduce(torch.where(own[..., None], vectors, 0.0), self._context)


class VocabularyLogits(nn.Module):
    """Scores of tokens, of which each rank computes a range: one gather of [R, rows]."""

    def __init__(self, product: nn.Module, vocabulary: int, context: ParallelContext) -> None:
        """Wrap a product.

        Args:
            product: [R, hidden] -> [R, rows] with the padding of `VocabularySplit`; it may share
                its weight with the embedding.
            vocabulary: tokens of all ranks together.
            context: who takes part.
        """
        super().__init__()
        self.product = product
        self._vocabulary, self._context = vocabulary, context

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [R, vocabulary] in the dtype of the product, the same on every rank."""
        return all_gather(self.product(hidden), self._context)[..., : self._vocabulary]


class MixtureOfExperts(nn.Module):
    """A mixture of experts, of which each rank holds some: one sum of [T, hidden].

    Every rank routes all tokens alike, computes those that chose one of its experts, and the sum
    over the ranks puts the answers together. Experts that every token uses are divided by columns
    and rows like any feed-forward layer and share the same sum.
    """

    def __init__(
        self,
        experts: nn.ModuleList,
        *,
        total: int,
        context: ParallelContext,
        shared: nn.Module | None = None,
    ) -> None:
        """Take this rank's experts.

        Args:
            experts: those of `expert_range`, in order; each [n, hidden] -> [n, hidden].
            total: experts of all ranks together.
            context: who takes part.
            shared: [T, hidden] -> this rank's summand [T, hidden], not summed yet.

        Raises:
            ValueError: there are more or fewer experts than this rank's share.
        """
        super().__init__()
        self._range, self._context = expert_range(total, context), context
        if len(experts) != len(self._range):
            raise ValueError(f"{len(experts)} experts given, {len(self._range)} belong here")
        self.experts = experts
        self.shared = shared

    def forward(
        self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Mix the chosen experts' answers.

        Args:
            hidden: [T, hidden].
            chosen: int64 [T, k], numbers of experts among all.
            weights: [T, k], how much each counts.
        """
        mixed = torch.zeros_like(hidden) if self.shared is None else self.shared(hidden)
        for number, expert in zip(self._range, self.experts, strict=True):
            tokens, place = torch.where(chosen == number)
            if tokens.numel():
                answer = expert(hidden[tokens]) * weights[tokens, place, None]
                mixed.index_add_(0, tokens, answer.to(mixed.dtype))
        return all_reduce(mixed, self._context)
