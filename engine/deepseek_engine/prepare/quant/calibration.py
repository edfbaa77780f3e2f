"""What the layers of a module see while it runs on examples, in bounded memory.

Why it exists: calibrated methods need statistics of a layer's inputs. Rows are added up as they
pass; what must be kept to be sorted or compared is a fixed number of rows, drawn so that every row
has the same chance. Statistics of many layers are collected in several passes if they would not fit
together.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from deepseek_api.errors import ConfigurationError, SourceError
from torch import nn

SAMPLE_ROWS = 256
"""Rows that are kept of each layer's inputs."""
SHRINKS = tuple(1 - 0.02 * step for step in range(36))
"""Parts of the range that `MSEObserver` tries."""


class RowSample:
    """At most a number of rows ``[rows, K]`` of all that passed, each with the same chance."""

    def __init__(self, limit: int = SAMPLE_ROWS, *, seed: int = 0) -> None:
        self._limit = limit
        self._random = torch.Generator().manual_seed(seed)
        self._kept: torch.Tensor | None = None
        self.seen = 0

    def add(self, rows: torch.Tensor) -> None:
        """Let rows ``[M, K]`` pass."""
        if self._kept is None:
            self._kept = rows.new_empty(self._limit, rows.shape[1])
        free = max(0, min(self._limit - self.seen, len(rows)))
        self._kept[self.seen : self.seen + free] = rows[:free]
        later = torch.arange(self.seen + free, self.seen + len(rows))
        if len(later):
            # Row n stays with the chance limit / (n + 1) and takes the place of a random one.
            places = (torch.rand(len(later), generator=self._random) * (later + 1)).long()
            staying = places < self._limit
            self._kept[places[staying]] = rows[free:][staying]
        self.seen += len(rows)

    @property
    def rows(self) -> torch.Tensor:
        """The rows that were kept."""
        assert self._kept is not None  # only asked for after rows have passed
        return self._kept[: min(self.seen, self._limit)]


class Observer(abc.ABC):
    """Finds the range of each of K channels from rows that pass."""

    @abc.abstractmethod
    def observe(self, rows: torch.Tensor) -> None:
        """Look at rows ``[M, K]`` in floating point."""

    @abc.abstractmethod
    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The lowest and the highest value ``[K]`` that shall be representable."""


class MinMaxObserver(Observer):
    """Everything that was seen; exact, and spoiled by a single outlier."""

    def __init__(self) -> None:
        self._low: torch.Tensor | None = None
        self._high: torch.Tensor | None = None

    def observe(self, rows: torch.Tensor) -> None:
        """Look at rows ``[M, K]``."""
        if not len(rows):
            return
        low, high = rows.amin(0), rows.amax(0)
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest of all rows."""
        if self._low is None or self._high is None:
            raise _nothing_seen()
        return self._low, self._high


class _SampledObserver(Observer):
    def __init__(self, *, rows: int = 1024, seed: int = 0) -> None:
        self._sample = RowSample(rows, seed=seed)

    def observe(self, rows: torch.Tensor) -> None:
        """Look at rows ``[M, K]``; a fixed number of them is kept."""
        self._sample.add(rows)

    def _rows(self) -> torch.Tensor:
        if not self._sample.seen:
            raise _nothing_seen()
        return self._sample.rows.float()


class PercentileObserver(_SampledObserver):
    """The middle part of what was seen, by rank; the outliers beyond are cut."""

    def __init__(self, percentile: float = 99.9, *, rows: int = 1024, seed: int = 0) -> None:
        """Keep ``percentile`` percent of the values of a channel, half of the rest on each side."""
        super().__init__(rows=rows, seed=seed)
        if not 50 < percentile <= 100:
            raise ConfigurationError(
                f"A range of {percentile} percent is not possible.",
                hint="Give more than 50 and at most 100.",
            )
        self._outside = (100 - percentile) / 200

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The two quantiles."""
        rows = self._rows()
        ends = torch.tensor([self._outside, 1 - self._outside])
        low, high = torch.quantile(rows, ends, dim=0)
        return low, high


class MSEObserver(_SampledObserver):
    """The range whose rounding to some bits has the least squared error."""

    def __init__(self, bits: int = 8, *, rows: int = 1024, seed: int = 0) -> None:
        super().__init__(rows=rows, seed=seed)
        self._steps = 2**bits - 1

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The part of lowest to highest that is best to keep."""
        rows = self._rows()
        low, high = rows.amin(0), rows.amax(0)
        best, least = torch.ones_like(low), torch.full_like(low, float("inf"))
        for shrink in SHRINKS:
            step = ((high - low) * shrink / self._steps).clamp(min=1e-30)
            first = low * shrink
            rounded = torch.round((rows - first) / step).clamp_(0, self._steps) * step + first
            error = (rounded - rows).square().sum(0)
            best = torch.where(error < least, shrink, best)
            least = torch.minimum(error, least)
        return low * best, high * best


OBSERVERS: Mapping[str, Callable[[], Observer]] = {
    "minmax": MinMaxObserver,
    "percentile": PercentileObserver,
    "mse": MSEObserver,
}
"""Observers by name."""


@dataclass(slots=True)
class InputStatistics:
    """What a linear layer's inputs ``[..., K]`` were like."""

    columns: int
    observer: Observer
    hessian: torch.Tensor | None
    """Sum of x x^T over all rows, fp32 ``[K, K]``; None if nobody needs it."""
    sample: RowSample = field(default_factory=RowSample)
    absolute: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """Sum of the magnitudes ``[K]``."""
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    """Sum of the squares ``[K]``."""
    count: int = 0

    def add(self, x: torch.Tensor) -> None:
        """Take the inputs of one call."""
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        if not self.count:
            self.absolute, self.squares = torch.zeros(self.columns), torch.zeros(self.columns)
        self.absolute += rows.abs().sum(0)
        self.squares += rows.square().sum(0)
        self.observer.observe(rows)
        self.sample.add(rows)
        if self.hessian is not None:
            self.hessian.addmm_(rows.t(), rows)
        self.count += len(rows)

    def peak(self) -> torch.Tensor:
        """The largest magnitude of each channel ``[K]`` within the observer's range."""
        low, high = self.observer.range()
        return torch.maximum(low.abs(), high.abs())

    @staticmethod
    def nbytes(columns: int, *, hessian: bool) -> int:
        """Bytes that the statistics of a layer take."""
        return 4 * columns * (SAMPLE_ROWS + 4 + (columns if hessian else 0))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Examples that a module is run on."""

    feeds: Sequence[Any]
    """Each is a tensor, a tuple of arguments or a mapping of keyword arguments."""
    observer: str = "minmax"
    """How ranges of inputs are found: a name of `OBSERVERS`."""
    memory_bytes: int = 1 << 30
    """What statistics may take together; more layers mean more passes over the feeds."""

    def __post_init__(self) -> None:
        if not self.feeds:
            raise ConfigurationError(
                "There are no examples to calibrate with.", hint="Give at least one feed."
            )
        if self.observer not in OBSERVERS:
            raise ConfigurationError(
                f"There is no observer '{self.observer}'.",
                hint=f"Observers: {', '.join(OBSERVERS)}.",
            )

    def run(self, module: nn.Module) -> None:
        """Run the module on every example."""
        with torch.inference_mode():
            for feed in self.feeds:
                call(module, feed)

    def passes(
        self, layers: Mapping[str, nn.Module], columns: Mapping[str, int], *, hessian: bool
    ) -> Iterator[list[str]]:
        """Names of layers whose statistics fit into memory together, in order."""
        group: list[str] = []
        used = 0
        for name in layers:
            needed = InputStatistics.nbytes(columns[name], hessian=hessian)
            if group and used + needed > self.memory_bytes:
                yield group
                group, used = [], 0
            group.append(name)
            used += needed
        if group:
            yield group

    def collect(
        self,
        root: nn.Module,
        layers: Mapping[str, nn.Module],
        columns: Mapping[str, int],
        *,
        hessian: bool,
    ) -> dict[str, InputStatistics]:
        """Run the module once over all feeds and return what its layers saw.

        A layer that no feed reaches is left out.

        Raises:
            SourceError: the inputs of a layer hold NaN or infinity.
        """
        found = {
            name: InputStatistics(
                columns=columns[name],
                observer=OBSERVERS[self.observer](),
                hessian=torch.zeros(columns[name], columns[name]) if hessian else None,
            )
            for name in layers
        }
        hooks = [
            layer.register_forward_pre_hook(_adding(found[name])) for name, layer in layers.items()
        ]
        try:
            self.run(root)
        finally:
            for hook in hooks:
                hook.remove()
        for name, statistics in found.items():
            if statistics.count and not bool(torch.isfinite(statistics.squares).all()):
                raise SourceError(
                    f"The inputs of the layer '{name}' hold NaN or infinity while calibrating.",
                    hint="Check the examples, and that the module answers them in fp32.",
                    reason="CalibrationNotFinite",
                )
        return {name: statistics for name, statistics in found.items() if statistics.count}


def call(module: nn.Module, feed: Any) -> Any:
    """Run a module on one feed."""
    if isinstance(feed, Mapping):
        return module(**feed)
    return module(*feed) if isinstance(feed, tuple) else module(feed)


def _adding(statistics: InputStatistics) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        statistics.add(arguments[0])

    return hook


def _nothing_seen() -> ConfigurationError:
    return ConfigurationError(
        "Nothing was observed, so there is no range.", hint="Calibrate with at least one example."
    )
