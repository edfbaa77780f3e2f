"""When a model runs at its lower precision, and which variant that is.

Why it exists: a bundle holds the same model at several precisions. Under load the faster copy
answers more requests; when the load is gone the better one should answer again. Two thresholds and
a minimum stay keep the choice from flapping. The way back asks what the load would be at the higher
precision, because a copy that is three times faster makes a full device look two thirds idle.
This module is pure: it opens nothing and knows no clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_api.errors import PrecisionError
from deepseek_api.manifest import Manifest, Variant, choose_variant
from deepseek_api.vocabulary import InstructionSet, Precision

from deepseek_engine.messages import AutoPrecision

__all__ = ["PrecisionSwitch", "choose_twin"]

_RANK = {
    Precision.FP32: 0,
    Precision.BF16: 1,
    Precision.FP16: 1,
    Precision.MIXED: 2,
    Precision.INT8: 3,
    Precision.FP8: 3,
    Precision.INT4: 4,
}
"""A higher number is a lower precision."""
_UNMEASURED = (
    Precision.INT8,
    Precision.FP8,
    Precision.MIXED,
    Precision.BF16,
    Precision.FP16,
    Precision.INT4,
)
"""Which twin is taken where no speed was measured: the best known to be safe comes first."""
_FORGET = 0.9


class _RowCost:
    """Device seconds of a row, as an average that forgets."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._rows = 0.0

    def add(self, rows: int, seconds: float) -> None:
        self._seconds = self._seconds * _FORGET + seconds
        self._rows = self._rows * _FORGET + rows

    @property
    def value(self) -> float | None:
        return self._seconds / self._rows if self._rows else None


class PrecisionSwitch:
    """Decides between two copies of one model."""

    def __init__(self, policy: AutoPrecision, *, now: float) -> None:
        """Begin at the higher precision.

        Args:
            policy: the thresholds.
            now: seconds on the caller's clock.
        """
        self.policy = policy
        self.lowered = False
        """Whether new batches run at the lower precision."""
        self._since = now
        self._costs = (_RowCost(), _RowCost())

    @property
    def ratio(self) -> float:
        """How many times longer a row takes at the higher precision; 1 until both have run."""
        high, low = (cost.value for cost in self._costs)
        return max(1.0, high / low) if high and low else 1.0

    def observe(self, *, lowered: bool, rows: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        self._costs[lowered].add(rows, seconds)

    def update(self, *, load: float, own: float, now: float) -> bool:
        """Decide for the next batch; True when the precision changes with it.

        Args:
            load: busy share of the device, 0 to 1.
            own: the part of it that was spent on this model.
            now: seconds on the caller's clock.
        """
        if now - self._since < self.policy.dwell_s:
            return False
        if self.lowered:
            # What the same rows would have cost at the higher precision.
            expected = load + own * (self.ratio - 1.0)
            change = expected < self.policy.return_below
        else:
            change = load > self.policy.threshold
        if change:
            self.lowered, self._since = not self.lowered, now
        return change


def choose_twin(
    manifest: Manifest,
    primary: Variant,
    instruction_sets: Sequence[InstructionSet],
    *,
    wanted: str = "",
) -> Variant:
    """The lower-precision copy of a variant.

    Args:
        manifest: the bundle's manifest.
        primary: the variant that is served while the load is low.
        instruction_sets: what the device can run, best first.
        wanted: the precision of the copy; empty takes the fastest lower one that was measured here,
            or where none was, the safest.

    Raises:
        PrecisionError: there is none, and what to do.
    """
    if wanted:
        return _named(manifest, primary, instruction_sets, wanted)
    found = {}
    for precision in _UNMEASURED:
        if _RANK[precision] > _RANK[primary.precision]:
            try:
                found[precision] = choose_variant(manifest, precision, instruction_sets)
            except PrecisionError:
                continue
    usable = [v for v in found.values() if v.backend == primary.backend and v.id != primary.id]
    if not usable:
        raise PrecisionError(
            f"The model runs at '{primary.precision}' and its bundle has no lower precision for "
            "this device.",
            hint="Serve it at a higher precision such as fp32, and prepare the bundle with "
            "precision auto, which builds all.",
            reason="NoLowerPrecision",
        )
    measured = [v for v in usable if v.speed is not None]
    if not measured:
        return usable[0]
    best = max(measured, key=_speed)
    if _speed(best) <= _speed(primary):
        raise PrecisionError(
            f"No lower precision was faster than '{primary.precision}' when the bundle was "
            f"prepared: the best, '{best.id}', reached {_speed(best) / _speed(primary):.2f} times "
            "its speed.",
            hint="Name the lower precision to use it all the same.",
            reason="NoFasterPrecision",
        )
    return best


def _named(
    manifest: Manifest, primary: Variant, instruction_sets: Sequence[InstructionSet], wanted: str
) -> Variant:
    try:
        precision = Precision(wanted)
    except ValueError:
        names = ", ".join(p for p in Precision if p is not Precision.AUTO)
        raise PrecisionError(
            f"'{wanted}' is not a precision.", hint=f"Use one of: {names}."
        ) from None
    if _RANK.get(precision, 0) <= _RANK[primary.precision]:
        raise PrecisionError(
            f"'{wanted}' is not a lower precision than '{primary.precision}', at which the model "
            "runs.",
            hint="Serve the model at a higher precision, or name a lower one.",
            reason="NoLowerPrecision",
        )
    return choose_variant(manifest, precision, instruction_sets)


def _speed(variant: Variant) -> float:
    """Times the speed of fp32; 1 where it was not measured."""
    ratio = variant.speed.ratio_to_fp32 if variant.speed is not None else None
    return ratio if ratio is not None else 1.0
