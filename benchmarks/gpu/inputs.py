"""Inputs of GPU benches: random numbers, as many copies as the cache cannot hold, and checks.

Why it exists: all subjects of a case compute with the same numbers, and one that gives other
numbers is not timed. Zeros or constants would be faster than anything real. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.gpu.peers import Peer
from benchmarks.gpu.timing import Call, copies_for

__all__ = ["Subjects", "cache_bytes", "random", "same"]

DEVICE = "cuda"


def cache_bytes() -> int:
    """Size of the GPU's L2 cache."""
    return int(torch.cuda.get_device_properties(0).L2_cache_size)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal numbers on the GPU, the same for the same seed."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=DEVICE).to(dtype)


def same(given: torch.Tensor, wanted: torch.Tensor, limit: float) -> bool:
    """Whether the relative error (in the Frobenius norm) is below a limit."""
    wide = wanted.double()
    error = (given.double() - wide).norm() / wide.norm().clamp_min(1e-30)
    return bool(error < limit)


@dataclass(slots=True)
class Subjects:
    """Collects the calls of a case: subjects that fail to be made, or give other numbers, are out.

    ``make(i)`` of a subject gives its call with the i-th copy of the inputs.
    """

    nbytes: int
    """Bytes that one call touches; decides how many copies there are."""
    wanted: torch.Tensor | None = None
    """What calls with the first copy must give; None checks nothing."""
    calls: dict[str, Sequence[Call]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def copies(self) -> int:
        """Copies of the inputs."""
        return copies_for(self.nbytes, cache_bytes())

    def add(self, name: str, make: Callable[[int], Call], *, limit: float = 0.0) -> None:
        """Make a subject's calls; with a limit, check the first one's result."""
        try:
            calls = [make(index) for index in range(self.copies)]
            if limit and self.wanted is not None:
                given = calls[0]()
                if not same(_tensor(given).reshape(self.wanted.shape), self.wanted, limit):
                    self.skipped[name] = "gives other numbers than the reference"
                    return
        # Anything may be wrong with a peer on a machine that it was not tried on.
        except Exception as error:
            self.skipped[name] = f"{type(error).__name__}: {error}"[:300]
            return
        self.calls[name] = calls

    def add_peer(
        self, name: str, peer: Peer, make: Callable[[int], Call], *, limit: float = 0.0
    ) -> None:
        """The same for a library that may be absent."""
        if peer.there:
            self.add(name, make, limit=limit)
        else:
            self.skipped[name] = peer.reason


def _tensor(result: Any) -> torch.Tensor:
    found: torch.Tensor = result[0] if isinstance(result, Mapping | tuple | list) else result
    return found
