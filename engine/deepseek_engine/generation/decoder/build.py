"""Makes the modules of a decoder from the tensors of a checkpoint.

Why it exists: a layer says what it is made of (`columns`, `rows`, `embedding`), and here it is
decided how that is held: in floating point or quantized, whole or one rank's part. Nothing is ever
held twice: a tensor is read, cast or rounded, and let go before the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from deepseek_api.errors import SourceError
from deepseek_kernels.quantize import quantize_weight
from deepseek_kernels.weights import QuantizedWeight
from torch import nn

from deepseek_engine.generation.config import DecoderConfig
from deepseek_engine.generation.decoder.names import names_of
from deepseek_engine.generation.decoder.norms import LayerNorm, RmsNorm, make_norm
from deepseek_engine.generation.decoder.places import Place, Places
from deepseek_engine.generation.decoder.products import (
    Embedding,
    Weight,
    dense,
    product,
    rows_of,
)
from deepseek_engine.generation.decoder.reading import Reader
from deepseek_engine.generation.parallel.context import SINGLE, ParallelContext
from deepseek_engine.generation.parallel.layers import (
    RowLinear,
    VocabularyEmbedding,
    VocabularyLogits,
)
from deepseek_engine.generation.parallel.slices import Cut, ModelShape, ShardPlan
from deepseek_engine.quant.checkpoint import Checkpoint
from deepseek_engine.quant.layers import QuantizedEmbedding
from deepseek_engine.quant.schemes import SCHEMES

__all__ = ["Builder", "model_shape"]

_ROWS_AT_ONCE = 8192


def model_shape(config: DecoderConfig) -> ModelShape:
    """What dividing a model must know of it."""
    return ModelShape(
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        vocabulary=config.vocabulary,
        experts=config.experts.count if config.experts else 0,
        tied=config.tied,
    )


@dataclass
class Builder:
    """Reads what layers ask for, and makes modules of it."""

    config: DecoderConfig
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    context: ParallelContext
    int8: bool = False
    """Whether weights of products, the embedding and the head are rounded to int8 by row, where
    the checkpoint holds them in floating point."""

    def __post_init__(self) -> None:
        shape = model_shape(self.config)
        self.plan = ShardPlan(shape, self.context)
        self.reader = Reader(self.checkpoint, self.plan, ShardPlan(shape, SINGLE))
        self.names = names_of(self.config.architecture)
        self.places = Places(self.names.prefixes)
        name = self.names.embedding
        self.prefix = next(
            (each for each in self.names.prefixes if self._has(each + name)),
            self.names.prefixes[0],
        )

    def layer(self, index: int, name: str) -> str:
        """The whole name of a part of a layer."""
        return f"{self.prefix}{self.names.layer.format(index)}{name}"

    def columns(
        self,
        names: Sequence[str],
        sizes: Sequence[int],
        inputs: int,
        *,
        bias: bool = False,
        fused: Sequence[str] = (),
    ) -> nn.Module:
        """One product of several layers that have the same input, their rows one after another.

        Args:
            names: of the layers.
            sizes: output features of each in the whole model.
            inputs: input features.
            bias: whether they have biases.
            fused: what all of them together are called where they are one layer.
        """
        each = list(zip(names, sizes, strict=True))
        weights = [self.matrix(name, (size, inputs)) for name, size in each]
        biases = [self.vector(f"{name}.bias", size) for name, size in each] if bias else []
        made = product(weights, biases, self.dtype)
        heights = [rows_of(weight) for weight in weights]
        for number, (name, size) in enumerate(each):
            self._note(name, made, sum(heights[:number]), sum(heights), (size, inputs))
        if fused:
            # Named by its own name for the rule by which ranks divide it.
            self._note(fused[0], made, 0, sum(heights), (sum(sizes), inputs))
            for other in fused[1:]:
                self.places.copy(fused[0], other)
        return made

    def rows(
        self, name: str, outputs: int, inputs: int, *, bias: bool = False, reduce: bool = True
    ) -> nn.Module:
        """A product whose inputs are divided over ranks, and whose answer is their sum.

        ``reduce=False`` leaves the sum to the caller, who adds other parts first.
        """
        weight = self.matrix(name, (outputs, inputs))
        added = self.vector(f"{name}.bias", outputs) if bias else None
        alone = self.context.tensor_size == 1
        plain = product([weight], [] if added is None or not alone else [added], self.dtype)
        self._note(name, plain, 0, outputs, (outputs, inputs))
        if alone:
            return plain
        return RowLinear(plain, self.context, bias=added, reduce=reduce) if reduce else plain

    def matrix(self, name: str, shape: tuple[int, int], *, table: bool = False) -> Weight:
        """This rank's part of a layer's weight, whose whole shape is ``[N, K]``.

        A ``table`` is an embedding or a head, which no family stores the other way round.
        """
        if name in self.reader.schemes:
            weight, scheme = self.reader.quantized(name, shape)
            return weight.to(self.device), scheme
        turned = self.names.transposed and not table
        stored = self.reader.tensor(f"{name}.weight", shape[::-1] if turned else shape)
        found = stored.to(self.device, self.dtype)
        return self._rounded(found.t() if turned else found, name, table=table)

    def vector(self, name: str, size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A bias or a weight of a norm, ``[size]`` in the whole model."""
        return self.reader.tensor(name, (size,)).to(self.device, dtype or self.dtype)

    def norm(self, name: str) -> RmsNorm | LayerNorm:
        """A norm of tokens."""
        size = self.config.width
        bias = self.vector(f"{name}.bias", size) if self.config.norm == "layer" else None
        weight = self.vector(f"{name}.weight", size)
        return make_norm(self.config.norm, weight, bias, self.config.norm_eps)

    def embedding(self) -> tuple[nn.Module, Weight]:
        """The vectors of tokens, and their weight for a head that shares it."""
        config = self.config
        name = f"{self.prefix}{self.names.embedding}"
        weight = self.matrix(name, (config.vocabulary, config.width), table=True)
        if self.context.tensor_size > 1:
            rows = dense(weight, self.dtype)
            return VocabularyEmbedding(rows, config.vocabulary, self.context), weight
        if isinstance(weight, torch.Tensor):
            return Embedding(weight), weight
        return QuantizedEmbedding(weight[0], weight[1], dtype=self.dtype), weight

    def positions(self) -> Embedding:
        """Learned vectors of positions."""
        config = self.config
        name = f"{self.prefix}{self.names.positions}.weight"
        table = self.reader.tensor(name, (config.context, config.width))
        return Embedding(table.to(self.device, self.dtype))

    def head(self, tied: Weight | None) -> nn.Module:
        """The product that gives scores; ``tied`` is the embedding's weight if they share it."""
        name, config = self.names.head, self.config
        if config.tied:
            self.reader.skip(name)  # some publish the same numbers twice
        shape = (config.vocabulary, config.width)
        weight = self.matrix(name, shape, table=True) if tied is None else tied
        plain = product([weight], [], self.dtype)
        if self.context.tensor_size == 1:
            return plain
        return VocabularyLogits(plain, config.vocabulary, self.context)

    def finish(self) -> None:
        """Refuse tensors that nothing asked for; `Reader.finish` says how."""
        ignored = self.names.ignored
        if self.names.predicts_ahead:
            ignored = (*ignored, self.layer(self.config.layers, "*"))
        self.reader.finish(ignored)

    def _note(
        self, name: str, module: nn.Module, first: int, rows: int, shape: tuple[int, int]
    ) -> None:
        turned = self.names.transposed
        cut = self.plan.cut(f"{name}.weight", shape[::-1] if turned else shape) or Cut()
        along_outputs = (cut.dim == 0) != turned
        self.places.add(name, Place(module, first, rows, shape, cut, along_outputs))

    def _has(self, layer: str) -> bool:
        return f"{layer}.weight" in self.reader or layer in self.reader.schemes

    def _rounded(self, weight: torch.Tensor, layer: str, *, table: bool) -> Weight:
        if not self.int8:
            return weight.contiguous()
        if not bool(torch.isfinite(weight).all()):
            raise SourceError(
                f"The weight of the layer '{layer}' holds NaN or infinity.",
                hint="Fetch the checkpoint again; if its training diverged, use an earlier one.",
                reason="WeightsNotFinite",
            )
        # Some rows at a time: rounding needs several copies of what it rounds.
        parts = [quantize_weight(rows, "int8") for rows in torch.split(weight, _ROWS_AT_ONCE)]
        whole = QuantizedWeight(
            scheme="int8",
            data=torch.cat([part.data for part in parts]),
            scale=torch.cat([part.scale for part in parts]),
            shape=(weight.shape[0], weight.shape[1]),
        )
        return whole, SCHEMES["int8" if table else "int8-dynamic"]
