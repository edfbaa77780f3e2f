"""When the precision changes, and to which copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepseek_api.errors import ConfigurationError, PrecisionError
from deepseek_api.manifest import Manifest
from deepseek_api.vocabulary import InstructionSet
from deepseek_engine.load import LoadMeter
from deepseek_engine.messages import AutoPrecision
from deepseek_engine.precision import PrecisionSwitch, choose_twin

from tests.support import bundles
from tests.support.twins import write_twins

SETS = (InstructionSet.AVX2, InstructionSet.ANY)


def manifest_of(folder: Path) -> Manifest:
    return bundles.read_manifest(folder)


def test_the_precision_is_lowered_above_the_threshold_and_raised_below_the_other() -> None:
    switch = PrecisionSwitch(AutoPrecision(threshold=0.8, resume=0.5, dwell_s=0), now=0.0)
    seen = []
    for load in (0.7, 0.8, 0.81, 0.7, 0.5, 0.49, 0.6, 0.9):
        switch.update(load=load, own=0.0, now=1.0)
        seen.append(switch.lowered)
    assert seen == [False, False, True, True, True, False, False, True]


def test_the_precision_stays_for_the_shortest_time() -> None:
    switch = PrecisionSwitch(AutoPrecision(threshold=0.8, dwell_s=5), now=0.0)
    assert not switch.update(load=1.0, own=1.0, now=4.9)
    assert switch.update(load=1.0, own=1.0, now=5.0)
    assert not switch.update(load=0.0, own=0.0, now=9.9)
    assert switch.update(load=0.0, own=0.0, now=10.0)


def test_without_a_second_threshold_it_is_three_quarters_of_the_first() -> None:
    assert AutoPrecision(threshold=0.8).return_below == pytest.approx(0.6)


def simulate(offered: list[tuple[float, float]], *, speedup: float) -> list[tuple[float, bool]]:
    """Times at which the precision changed, for offered loads (at the high precision) over time."""
    policy = AutoPrecision(threshold=0.8, dwell_s=5)
    switch, meter, now, changes = PrecisionSwitch(policy, now=0.0), LoadMeter(5.0), 0.0, []
    for load, seconds in offered:
        end = now + seconds
        while now < end:
            # One batch starts every 100 ms and takes its part of it.
            taken = 0.1 * load / (speedup if switch.lowered else 1.0)
            meter.busy("m", now, now + min(taken, 0.1))
            switch.observe(lowered=switch.lowered, rows=round(100 * load), seconds=taken)
            now += 0.1
            share = meter.load(now, flow="m")
            if switch.update(load=share, own=share, now=now):
                changes.append((now, switch.lowered))
    return changes


def test_a_faster_copy_does_not_make_the_precision_flap() -> None:
    # At 90 % the copy brings the device to 30 %, far below the second threshold of 60 %.
    assert [lowered for _, lowered in simulate([(0.9, 120.0)], speedup=3.0)] == [True]


def test_the_precision_returns_when_the_load_would_fit_again() -> None:
    changes = simulate([(0.9, 30.0), (0.3, 30.0)], speedup=3.0)
    assert [lowered for _, lowered in changes] == [True, False]
    assert 30.0 < changes[1][0] < 40.0


def test_a_copy_that_is_no_faster_counts_as_equal() -> None:
    switch = PrecisionSwitch(AutoPrecision(dwell_s=0), now=0.0)
    assert switch.ratio == 1.0
    switch.observe(lowered=False, rows=1, seconds=1.0)
    assert switch.ratio == 1.0
    switch.observe(lowered=True, rows=1, seconds=2.0)
    assert switch.ratio == 1.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": 80.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": 0.8, "resume": 0.8}, "between 0 and the threshold"),
        ({"threshold": 0.8, "resume": 0.0}, "between 0 and the threshold"),
        ({"dwell_s": -1.0}, "shortest stay"),
        ({"dwell_s": float("inf")}, "shortest stay"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(fields: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        AutoPrecision(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratios", [None, (1.0, 1.8)], ids=["not measured", "measured faster"])
def test_the_copy_is_the_lower_precision_of_the_bundle(
    tmp_path: Path, ratios: tuple[float, float] | None
) -> None:
    manifest = manifest_of(write_twins(tmp_path / "m", layers=1, ratios=ratios))
    assert choose_twin(manifest, manifest.variant("fp32"), SETS).id == "int8"
    assert choose_twin(manifest, manifest.variant("fp32"), SETS, wanted="int8").id == "int8"


@pytest.mark.parametrize(
    ("primary", "wanted", "reason"),
    [
        ("int8", "", "NoLowerPrecision"),
        ("int8", "fp32", "NoLowerPrecision"),
        ("fp32", "auto", "NoLowerPrecision"),
        ("fp32", "fp32", "NoLowerPrecision"),
        ("fp32", "int9", "PrecisionUnavailable"),
        ("fp32", "fp8", "PrecisionUnavailable"),
        ("fp32", "", "NoFasterPrecision"),
    ],
    ids=lambda value: value or "any",
)
def test_a_copy_that_cannot_be_had_is_refused_with_the_way_out(
    tmp_path: Path, primary: str, wanted: str, reason: str
) -> None:
    manifest = manifest_of(write_twins(tmp_path / "m", layers=1, ratios=(1.0, 0.9)))
    with pytest.raises(PrecisionError) as caught:
        choose_twin(manifest, manifest.variant(primary), SETS, wanted=wanted)
    assert caught.value.reason == reason
    assert caught.value.hint


def test_a_slower_copy_is_taken_when_it_is_named(tmp_path: Path) -> None:
    manifest = manifest_of(write_twins(tmp_path / "m", layers=1, ratios=(1.0, 0.9)))
    assert choose_twin(manifest, manifest.variant("fp32"), SETS, wanted="int8").id == "int8"
