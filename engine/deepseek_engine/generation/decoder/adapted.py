"""Products that some tokens compute with a low-rank addition.

Why it exists: several LoRA adapters (Hu et al., arXiv:2106.09685) lie beside one model, and tokens
of one step use different ones. Rows are grouped by adapter once a step, and a product adds
``B (A x)`` to the rows of each group. A model without adapters has none of these modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

__all__ = ["Adapted", "Selection"]


@dataclass(slots=True)
class Selection:
    """Which rows of the running step use which adapter."""

    count: int
    """Adapters that are loaded."""
    groups: Sequence[tuple[int, torch.Tensor | None]] = field(default=())
    """Adapter and its rows int64; None: all rows."""

    def choose(self, adapters: torch.Tensor | None) -> None:
        """Group the rows of a step.

        Args:
            adapters: int32 [T], -1 for none; None: no row uses one.

        Raises:
            ValueError: an adapter is chosen that was not loaded.
        """
        if adapters is None:
            self.groups = ()
            return
        used = sorted(set(adapters.tolist()))
        if used and not -1 <= used[0] <= used[-1] < self.count:
            raise ValueError(f"adapters {used} are chosen, and {self.count} are loaded")
        whole = len(used) == 1
        self.groups = [
            (each, None if whole else torch.nonzero(adapters == each).flatten())
            for each in used
            if each >= 0
        ]


class Adapted(nn.Module):
    """A product, with additions for the rows of some adapters."""

    def __init__(self, base: nn.Module, selection: Selection) -> None:
        """Wrap a product; it has no additions yet."""
        super().__init__()
        self.base, self.selection = base, selection
        self.pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """By adapter: A ``[rank, K]`` and B ``[N, rank]`` with its factor."""

    def add(self, adapter: int, down: torch.Tensor, up: torch.Tensor) -> None:
        """Give an adapter an addition, besides those that it has in other rows."""
        if adapter in self.pairs:
            before, after = self.pairs[adapter]
            down, up = torch.cat((before, down)), torch.cat((after, up), 1)
        self.pairs[adapter] = (down, up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[T, K]`` to ``[T, N]``."""
        found: torch.Tensor = self.base(x)
        for adapter, rows in self.selection.groups:
            pair = self.pairs.get(adapter)
            if pair is None:
                continue
            down, up = pair
            if rows is None:
                found = found + nn.functional.linear(nn.functional.linear(x, down), up)
            else:
                added = nn.functional.linear(nn.functional.linear(x[rows], down), up)
                found = found.index_add(0, rows, added.to(found.dtype))
        return found
