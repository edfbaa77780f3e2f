"""Makes the modules of a decoder from the tensors of a checkpoint.

Why it exists: a layer says what it is made of (`columns`, `rows`, `embedding`), and here it is
decided how that is held: in floating point or quantized, whole or one rank's part. Nothing is ever
held twice: a tensor is read, cast or rounded, and let go before the next one. What the model does
not ask for is found at the end by `finish`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from deepseek_api.errors import SourceError
from torch import nn

from deepseek_engine.generation.config import DecoderConfig
from deepseek_engine.generation.decoder.names import names_of
from deepseek_engine.generation.decoder.norms import LayerNorm, RmsNorm, make_norm
from deepseek_engine.quant.checkpoint import Checkpoint

__all__ = ["Builder", "Linear"]

_HINT = "Check that the checkpoint belongs to this architecture and configuration."


class Linear(nn.Module):
    """``y = x W^T + b`` in floating point."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take ``weight [N, K]`` and ``bias [N]``."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[..., K]`` to ``[..., N]``."""
        return nn.functional.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """Rows of a table."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        """Take ``[rows, K]``."""
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """From numbers ``[T]`` to rows ``[T, K]``."""
        return nn.functional.embedding(ids, self.weight)


@dataclass
class Builder:
    """Reads what layers ask for."""

    config: DecoderConfig
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.names = names_of(self.config.architecture)
        self._used: set[str] = set()
        embedding = f"{self.names.embedding}.weight"
        self.prefix = next(
            (each for each in self.names.prefixes if each + embedding in self.checkpoint),
            self.names.prefixes[0],
        )

    @property
    def heads(self) -> tuple[int, int]:
        """Heads of queries, and of keys and values, that are held here."""
        return self.config.heads, self.config.kv_heads

    def layer(self, index: int, name: str) -> str:
        """The whole name of a part of a layer."""
        return f"{self.prefix}{self.names.layer.format(index)}{name}"

    def columns(
        self, names: Sequence[str], sizes: Sequence[int], inputs: int, *, bias: bool = False
    ) -> nn.Module:
        """One product of several layers that have the same input, their rows one after another.

        Args:
            names: of the layers.
            sizes: output features of each in the whole model.
            inputs: input features.
            bias: whether they have biases.
        """
        parts = [
            self._matrix(name, (size, inputs)) for name, size in zip(names, sizes, strict=True)
        ]
        biases = [
            self.vector(f"{name}.bias", size)
            for name, size in zip(names, sizes, strict=True)
            if bias
        ]
        return Linear(_joined(parts), _joined(biases) if biases else None)

    def rows(
        self, name: str, outputs: int, inputs: int, *, bias: bool = False, reduce: bool = True
    ) -> nn.Module:
        """A product whose inputs are divided over ranks, and whose answer is their sum.

        ``reduce=False`` leaves the sum to the caller, who adds other parts first.
        """
        del reduce  # one rank has the whole sum
        weight = self._matrix(name, (outputs, inputs))
        return Linear(weight, self.vector(f"{name}.bias", outputs) if bias else None)

    def vector(self, name: str, size: int) -> torch.Tensor:
        """A bias or a weight of a norm, ``[size]``."""
        return self._read(name, (size,))

    def norm(self, name: str, size: int | None = None) -> RmsNorm | LayerNorm:
        """A norm over ``size`` numbers; by default a token's."""
        size = size or self.config.width
        bias = self.vector(f"{name}.bias", size) if self.config.norm == "layer" else None
        weight = self.vector(f"{name}.weight", size)
        return make_norm(self.config.norm, weight, bias, self.config.norm_eps)

    def embedding(self) -> Embedding:
        """The vectors of tokens."""
        config = self.config
        name = f"{self.prefix}{self.names.embedding}"
        return Embedding(self._read(f"{name}.weight", (config.vocabulary, config.width)))

    def positions(self) -> Embedding:
        """Learned vectors of positions."""
        config = self.config
        name = f"{self.prefix}{self.names.positions}"
        return Embedding(self._read(f"{name}.weight", (config.context, config.width)))

    def head(self, embedding: nn.Module) -> nn.Module:
        """The product that gives scores; it shares the embedding's weight if they are tied."""
        name = self.names.head
        if self.config.tied:
            self._used.add(f"{name}.weight")  # some publish the same numbers twice
            assert isinstance(embedding, Embedding)
            return Linear(embedding.weight, None)
        return Linear(self._matrix(name, (self.config.vocabulary, self.config.width)), None)

    def finish(self) -> None:
        """Refuse tensors that nothing asked for.

        Raises:
            SourceError: there are some; it names the first.
        """
        extra = [
            name
            for name in self.checkpoint.names
            if name not in self._used
            and not any(fnmatch.fnmatch(name, each) for each in self.names.ignored)
        ]
        if extra:
            shown = ", ".join(extra[:4]) + (" ..." if len(extra) > 4 else "")
            raise SourceError(
                f"The checkpoint has {len(extra)} tensors that the model does not know: {shown}.",
                hint=_HINT,
                reason="TensorUnknown",
            )

    def _matrix(self, name: str, shape: tuple[int, int]) -> torch.Tensor:
        name = f"{name}.weight"
        if self.names.transposed and name != f"{self.names.head}.weight":
            return self._read(name, shape[::-1]).t().contiguous()
        return self._read(name, shape)

    def _read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor in the model's type on its device."""
        if name not in self.checkpoint:
            raise SourceError(
                f"The checkpoint lacks the tensor '{name}'.", hint=_HINT, reason="TensorMissing"
            )
        given = self.checkpoint.spec(name).shape
        if given != shape:
            raise SourceError(
                f"'{name}' has the shape {list(given)} in the checkpoint and {list(shape)} in the "
                "model.",
                hint=_HINT,
                reason="TensorShapeWrong",
            )
        self._used.add(name)
        return self.checkpoint.read(name).to(self.device, self.dtype)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
