"""From measured variants to a selection; all of it with figures made up here."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deepseek_api.errors import PrecisionError
from deepseek_api.manifest import Agreement, BundleFile, Speed, Variant
from deepseek_api.vocabulary import BackendName, InstructionSet, Precision
from deepseek_engine.hardware import Cpu

if TYPE_CHECKING:
    from deepseek_engine.prepare.recipe import Draft

pytestmark = [pytest.mark.timeout(180)]

AVX2 = (InstructionSet.AVX2, InstructionSet.ANY)
VNNI = (InstructionSet.AVX512_VNNI, InstructionSet.AVX512, InstructionSet.AVX2, InstructionSet.ANY)
NEON = (InstructionSet.NEON, InstructionSet.ANY)
OLD = (InstructionSet.ANY,)


def cpu(sets: tuple[InstructionSet, ...]) -> Cpu:
    return Cpu(name="c", architecture="x", features=(), instruction_sets=sets, threads=1)


def variant(
    name: str,
    ms: float | None,
    mean: float | None = None,
    worst: float = 0.99,
    worst_bound: float | None = 0.985,
) -> Variant:
    agreement = None
    if mean is not None:
        agreement = Agreement(
            metric="cosine", mean=mean, worst=worst, samples=9, bound=0.994,
            worst_bound=worst_bound, reference="fp32",
        )  # fmt: skip
    speed = None
    if ms is not None:
        speed = Speed(
            median_ms=ms, shape="1", device="c", threads=1, runtime="r",
            instruction_set=InstructionSet.AVX2,
        )  # fmt: skip
    return Variant(
        id=name, backend=BackendName.ONNXRUNTIME, precision=Precision.FP32,
        files=(BundleFile(path="g", sha256="0" * 64, bytes=1),), graph="g", tensor_bytes=1,
        memory_bytes=1, agreement=agreement, speed=speed,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("others", "best"),
    [
        pytest.param([variant("a", 5, 0.995)], "a", id="faster and close enough"),
        pytest.param([variant("a", 5, 0.9939)], "fp32", id="mean too low"),
        pytest.param([variant("a", 5, 0.999, worst=0.984)], "fp32", id="worst too low"),
        pytest.param(
            [variant("a", 5, 0.999, 0.0, worst_bound=None)], "a", id="worst does not count"
        ),
        pytest.param([variant("a", 11, 0.999)], "fp32", id="slower than fp32"),
        pytest.param([variant("a", 5)], "fp32", id="agreement not measured"),
        pytest.param([variant("a", None, 0.999)], "fp32", id="speed not measured"),
        pytest.param([variant("a", 5, 0.995), variant("b", 4, 0.995)], "b", id="fastest of two"),
        pytest.param([variant("a", 5, 0.995), variant("b", 4, 0.9)], "a", id="fastest that is fit"),
        pytest.param([], "fp32", id="nothing else"),
    ],
)
def test_auto_is_the_fastest_variant_within_its_bounds(others: list[Variant], best: str) -> None:
    from deepseek_engine.prepare.judge import Ranking

    assert Ranking(variant("fp32", 10), others).best().id == best


def drafts(*names: str) -> list[Draft]:
    """fp32, and each scheme for both targets."""
    from deepseek_engine.prepare.recipe import FP32, Draft
    from deepseek_engine.prepare.schemes import SCHEMES, TARGETS
    from deepseek_engine.prepare.writer import WrittenGraph

    written = WrittenGraph("g", ("g",), 1)
    result = [Draft(FP32, Precision.FP32, None, None, written)]
    for scheme in SCHEMES["encoder"]:
        if scheme.name in names:
            result += [
                Draft(f"{scheme.name}-{target.suffix}", scheme.precision, target, scheme, written)
                for target in TARGETS
            ]
    return result


def selection(
    sets: tuple[InstructionSet, ...], figures: dict[str, tuple[float, float]]
) -> dict[str, dict[str, str]]:
    """Selection on a processor of ``{scheme: (ms, mean)}``."""
    from deepseek_engine.prepare.recipe import select

    made = drafts(*figures)
    variants = {"fp32": variant("fp32", 10)}
    for draft in made[1:]:
        assert draft.scheme is not None
        variants[draft.id] = variant(draft.id, *figures[draft.scheme.name])
    chosen = select(made, variants, cpu(sets))
    return {p.value: {s.value: v for s, v in by_set.items()} for p, by_set in chosen.items()}


GUARDED_WINS = {"int8": (4.0, 0.99), "int8-guarded": (5.0, 0.996), "mixed": (7.0, 0.999)}


@pytest.mark.parametrize("sets", [AVX2, VNNI, NEON], ids=["avx2", "vnni", "neon"])
def test_both_targets_get_the_scheme_that_won_here(sets: tuple[InstructionSet, ...]) -> None:
    auto = selection(sets, GUARDED_WINS)["auto"]
    assert auto["avx2"] == auto["avx512"] == auto["any"] == "int8-guarded-avx2"
    assert auto["avx512-vnni"] == auto["amx-int8"] == auto["neon"] == "int8-guarded-vnni"


def test_a_named_precision_is_never_the_guarded_twin() -> None:
    chosen = selection(AVX2, GUARDED_WINS)
    assert chosen["int8"]["avx2"] == "int8-avx2"
    assert chosen["int8"]["avx512-vnni"] == "int8-vnni"
    assert chosen["mixed"]["any"] == "mixed-avx2"
    assert chosen["fp32"] == {"any": "fp32"}


def test_auto_is_fp32_everywhere_when_nothing_is_faster() -> None:
    assert selection(AVX2, {"int8": (12.0, 0.999)})["auto"] == {"any": "fp32"}


def test_a_processor_that_can_judge_nothing_serves_fp32() -> None:
    assert selection(OLD, {"int8": (1.0, 1.0)})["auto"] == {"any": "fp32"}


@pytest.mark.parametrize(
    ("precisions", "names"),
    [
        (("auto",), ["int8", "int8-guarded", "mixed"]),
        (("fp32",), []),
        (("int8",), ["int8"]),
        (("int8", "mixed"), ["int8", "mixed"]),
    ],
)
def test_schemes_follow_the_precisions(precisions: tuple[str, ...], names: list[str]) -> None:
    from deepseek_engine.prepare.schemes import wanted_schemes

    assert [scheme.name for scheme in wanted_schemes("encoder", precisions)] == names


@pytest.mark.parametrize(
    ("family", "precision", "sentence"),
    [
        (
            "encoder",
            "int4",
            "The precision 'int4' cannot be prepared for encoders on a CPU. "
            "Precisions that can: auto, fp32, int8, mixed.",
        ),
        (
            "vision",
            "mixed",
            "The precision 'mixed' cannot be prepared for convolutional networks on a CPU. "
            "Precisions that can: auto, fp32, int8.",
        ),
    ],
)
def test_a_precision_that_cannot_be_made_is_answered_with_those_that_can(
    family: Any, precision: str, sentence: str
) -> None:
    from deepseek_engine.prepare.schemes import wanted_schemes

    with pytest.raises(PrecisionError) as caught:
        list(wanted_schemes(family, (precision,)))
    assert str(caught.value) == sentence


def vision_agreement(
    reference: Sequence[Sequence[float]], given: Sequence[Sequence[float]]
) -> Agreement:
    from deepseek_engine.prepare.judges import VisionJudge

    return VisionJudge.compare(SimpleNamespace(), np.array(reference), np.array(given))  # type: ignore[arg-type]


def test_pictures_count_where_fp32_is_sure() -> None:
    sure, unsure = [9.0, 0.0, 0.0], [0.2, 0.1, 0.0]
    agreement = vision_agreement([sure, sure, unsure], [[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    assert (agreement.samples, agreement.mean, agreement.worst) == (2, 0.5, 0.0)


def test_every_picture_counts_when_fp32_is_sure_of_none() -> None:
    agreement = vision_agreement([[0.1, 0.0, 0.0]] * 4, [[1, 0, 0]] * 3 + [[0, 1, 0]])
    assert (agreement.samples, agreement.mean) == (4, 0.75)
