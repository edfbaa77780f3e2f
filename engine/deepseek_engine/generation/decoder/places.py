"""Where the layers of the hub lie inside the decoder's products.

Why it exists: adapters name layers as the hub does, while several of them may be one product here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from deepseek_engine.generation.parallel.slices import Cut

__all__ = ["Place", "Places"]


@dataclass(frozen=True, slots=True)
class Place:
    """A layer inside a product."""

    module: nn.Module
    """The product, of this rank."""
    first: int
    """Its first row there."""
    rows: int
    """Of the whole product, on this rank."""
    shape: tuple[int, int]
    """``[N, K]`` of the layer in the whole model."""
    cut: Cut
    """This rank's part of the layer's outputs, or of its inputs."""
    along_outputs: bool


@dataclass
class Places:
    """Places by name; prefixes that some checkpoints leave out do not count."""

    prefixes: tuple[str, ...]
    _found: dict[str, Place] = field(default_factory=dict)

    def add(self, name: str, place: Place) -> None:
        """Note a layer."""
        self._found[self._plain(name)] = place

    def copy(self, name: str, other: str) -> None:
        """Note another name of a layer."""
        self.add(other, self._found[self._plain(name)])

    def find(self, name: str) -> Place | None:
        """The place of a layer."""
        return self._found.get(self._plain(name))

    def _plain(self, name: str) -> str:
        for prefix in self.prefixes:
            if prefix and name.startswith(prefix):
                return name.removeprefix(prefix)
        return name
