"""Tensors of a checkpoint, whole or a rank's part, checked against what the model expects.

Why it exists: every tensor is asked for once, with its shape, so that one that is missing, of
another shape or never asked for is an error that names it. What a rank does not need is not read.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch
from deepseek_api.errors import SourceError

from deepseek_engine.generation.parallel.slices import ShardPlan
from deepseek_engine.quant.blocks import LayerWeight
from deepseek_engine.quant.checkpoint import Checkpoint
from deepseek_engine.quant.encoding import DATA, PACKED, SCALE, SHAPE, ZERO, decode
from deepseek_engine.quant.schemes import Scheme

__all__ = ["Reader"]

_HINT = "Check that the checkpoint belongs to this architecture and configuration."
_PARTS = (DATA, PACKED, SCALE, ZERO, SHAPE)
_AT_ONCE = 64 << 20
"""Bytes of rows that are read at once where only some columns are kept."""


class Reader:
    """One rank's view of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, plan: ShardPlan, whole: ShardPlan) -> None:
        """Look at an open checkpoint through a plan; ``whole`` is that of an undivided model."""
        self._checkpoint, self._plan, self._whole = checkpoint, plan, whole
        self._used: set[str] = set()
        self.schemes = checkpoint.quantized_layers()
        """The scheme of every quantized layer."""

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def tensor(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """This rank's part of a tensor whose whole shape is ``shape``, in its own type.

        Raises:
            SourceError: it is missing or of another shape.
        """
        if name not in self._checkpoint:
            raise SourceError(
                f"The checkpoint lacks the tensor '{name}'.", hint=_HINT, reason="TensorMissing"
            )
        given = self._checkpoint.spec(name).shape
        if given != tuple(shape):
            raise _wrong_shape(name, given, shape)
        return self._read(name)

    def quantized(self, layer: str, shape: tuple[int, int]) -> tuple[LayerWeight, Scheme]:
        """This rank's part of a quantized weight whose whole shape is ``shape``.

        Raises:
            SourceError: its tensors do not fit their scheme, or the shape is another one.
        """
        scheme = self.schemes[layer]
        names = {part: f"{layer}.{part}" for part in _PARTS}
        parts = {part: self._read(name) for part, name in names.items() if name in self}
        if SHAPE in parts:
            given = tuple(parts[SHAPE].tolist())
        else:
            given = self._checkpoint.spec(names[DATA]).shape if DATA in parts else shape
        if given != shape:
            raise _wrong_shape(layer, given, shape)
        if PACKED in parts and SHAPE in parts:
            # The shape is that of the whole; what was read may be a part of its rows or columns.
            kept, whole = parts[PACKED].shape, self._checkpoint.spec(names[PACKED]).shape
            columns = shape[1] * kept[1] // whole[1]
            parts[SHAPE] = torch.tensor([kept[0], columns], dtype=torch.int64)
        return decode(parts, scheme, layer), scheme

    def skip(self, layer: str) -> None:
        """Let a layer's weight be there without being used, whichever way it is held."""
        self._used |= {f"{layer}.{part}" for part in _PARTS}

    def finish(self, ignored: Sequence[str]) -> None:
        """Refuse tensors of this rank that nothing asked for, but those of some patterns.

        Raises:
            SourceError: there are some; it names the first.
        """
        extra = [
            name
            for name in self._checkpoint.names
            if name not in self._used
            # What only another rank needs is no business of this one; what none needs is.
            and (self._plan.holds(name) or not self._whole.holds(name))
            and not any(fnmatch.fnmatch(name, each) for each in ignored)
        ]
        if extra:
            shown = ", ".join(extra[:4]) + (" ..." if len(extra) > 4 else "")
            raise SourceError(
                f"The checkpoint has {len(extra)} tensors that the model does not know: {shown}.",
                hint=_HINT,
                reason="TensorUnknown",
            )

    def _read(self, name: str) -> torch.Tensor:
        self._used.add(name)
        cut = self._plan.cut(name, self._checkpoint.spec(name).shape)
        if cut is None or not cut.ranges:
            return self._checkpoint.read(name)
        parts = [piece for span in cut.ranges for piece in self._pieces(name, cut.dim, *span)]
        found = parts[0] if len(parts) == 1 else torch.cat(parts, cut.dim)
        if cut.padding:
            found = torch.cat((found, found.new_zeros(cut.padding, *found.shape[1:])))
        return found

    def _pieces(self, name: str, dim: int, first: int, last: int) -> list[torch.Tensor]:
        """Parts of a range, to be put together along ``dim``."""
        if dim == 0:
            return [self._checkpoint.read(name, first, last)]
        spec = self._checkpoint.spec(name)
        rows = max(1, _AT_ONCE // max(1, spec.row_bytes))
        kept = [
            self._checkpoint.read(name, start, start + rows).narrow(dim, first, last - first)
            for start in range(0, spec.shape[0], rows)
        ]
        return [torch.cat(kept)]


def _wrong_shape(name: str, given: Sequence[int], wanted: Sequence[int]) -> SourceError:
    return SourceError(
        f"'{name}' has the shape {list(given)} in the checkpoint and {list(wanted)} in the model.",
        hint=_HINT,
        reason="TensorShapeWrong",
    )
