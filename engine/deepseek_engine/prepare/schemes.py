"""Which variants are made of a model, and how each is made from the fp32 graph.

A scheme is a way to quantize; a variant is a scheme for one group of instruction sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from deepseek_api.errors import PrecisionError
from deepseek_api.vocabulary import InstructionSet, Precision

from deepseek_engine.codec import Array
from deepseek_engine.prepare.architectures import LoadedModel
from deepseek_engine.prepare.judges import (
    CALIBRATION_SEED,
    CALIBRATION_VOLUMES,
    JUDGED_SHAPE,
    phantoms,
)
from deepseek_engine.prepare.known import Family
from deepseek_engine.prepare.quant.policy import QuantizationMode, adaptive_quantization
from deepseek_engine.prepare.quantize.convolution import quantize_convolutions
from deepseek_engine.prepare.quantize.encoder import ALL_PARTS, Part, quantize_encoder
from deepseek_engine.prepare.quantize.ranges import WeightRange
from deepseek_engine.prepare.samples import calibration_pictures


@dataclass(frozen=True, slots=True)
class Target:
    """Instruction sets that multiply int8 in the same way."""

    suffix: str
    made_for: InstructionSet
    """The instruction set that names the group in a variant."""
    members: tuple[InstructionSet, ...]
    weight_range: WeightRange


# Without VNNI 16-bit sums saturate; ARM's and VNNI's kernels add in 32 bits.
TARGETS = (
    Target(
        "avx2",
        InstructionSet.AVX2,
        (InstructionSet.AVX2, InstructionSet.AVX512, InstructionSet.ANY),
        WeightRange.PAIRED,
    ),
    Target(
        "vnni",
        InstructionSet.AVX512_VNNI,
        (
            InstructionSet.AVX_VNNI,
            InstructionSet.AVX512_VNNI,
            InstructionSet.AMX_INT8,
            InstructionSet.NEON,
            InstructionSet.NEON_DOTPROD,
            InstructionSet.NEON_I8MM,
        ),
        WeightRange.FULL,
    ),
)


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to quantize a family of models."""

    name: str
    precision: Precision
    note: str
    """What a person should know of it."""
    quantize: Callable[[onnx.ModelProto, LoadedModel, Target, int], onnx.ModelProto]
    """From fp32 graph, model, target and threads to the quantized graph."""


def _encoder_scheme(
    name: str,
    precision: Precision,
    parts: frozenset[Part],
    note: str,
    *,
    stored: frozenset[Part] = frozenset(),
) -> Scheme:
    return Scheme(
        name,
        precision,
        note,
        lambda graph, model, target, threads: quantize_encoder(
            graph, parts, weight_range=target.weight_range, stored=stored
        ),
    )


def _convolution_scheme(
    precision: Precision,
    note: str,
    pictures: Callable[[LoadedModel], Array],
    *,
    kinds: Sequence[str] | None = None,
    keep_ends: bool = False,
) -> Scheme:
    return Scheme(
        precision.value,
        precision,
        note,
        lambda graph, model, target, threads: quantize_convolutions(
            graph,
            pictures(model),
            weight_range=target.weight_range,
            threads=threads,
            kinds=kinds,
            keep_ends=keep_ends,
        ),
    )


def _photographs(model: LoadedModel) -> Array:
    return calibration_pictures(model.preprocessing)


def _volumes(model: LoadedModel) -> Array:
    made = phantoms(model, JUDGED_SHAPE, CALIBRATION_VOLUMES, CALIBRATION_SEED)
    return np.concatenate(made)


# What the rule wants in 16 bits stays fp32: a CPU gains nothing from 16-bit floating point.
MIXED_PARTS = frozenset(
    part for part in Part if adaptive_quantization(part) is QuantizationMode.INT8
)
_TRANSFORMER_INT8 = _encoder_scheme(
    "int8",
    Precision.INT8,
    ALL_PARTS,
    "Weights int8 per channel, activations int8 per token, embeddings int8 per row.",
)
# The values are what attention averages: their rounding errors go straight into the answer, and
# texts of two or three tokens have nothing to average them out with. It is the rounding of the
# inputs that costs; the weights alone lose next to nothing, and take a quarter of the bytes.
_TRANSFORMER_GUARDED = _encoder_scheme(
    "int8-guarded",
    Precision.INT8,
    ALL_PARTS - {Part.VALUE},
    "Like int8, but the value projections of attention compute in fp32, with int8 weights.",
    stored=frozenset({Part.VALUE}),
)
_TRANSFORMER_MIXED = _encoder_scheme(
    "mixed",
    Precision.MIXED,
    MIXED_PARTS,
    "Feed-forward layers int8, attention and embeddings fp32.",
)
SCHEMES: dict[Family, tuple[Scheme, ...]] = {
    "encoder": (_TRANSFORMER_INT8, _TRANSFORMER_GUARDED, _TRANSFORMER_MIXED),
    "decoder": (_TRANSFORMER_INT8, _TRANSFORMER_MIXED),
    "vision": (
        _convolution_scheme(
            Precision.INT8,
            "Weights int8 per channel, activations int8 with ranges calibrated on photographs.",
            _photographs,
        ),
    ),
    "vision-transformer": (_TRANSFORMER_INT8, _TRANSFORMER_GUARDED, _TRANSFORMER_MIXED),
    "volume": (
        _convolution_scheme(
            Precision.INT8,
            "Weights int8 per channel, activations int8 with ranges calibrated on phantoms.",
            _volumes,
            kinds=("Conv", "ConvTranspose"),  # norms keep statistics that 8 bits would spoil
        ),
        _convolution_scheme(
            Precision.MIXED,
            "Convolutions int8, but the first and the last one, and the steps up, stay fp32.",
            _volumes,
            kinds=("Conv",),
            keep_ends=True,
        ),
    ),
}
"""Ways to quantize each family; a precision's own scheme has its name."""


def wanted_schemes(family: Family, precisions: Sequence[str]) -> Iterator[Scheme]:
    """Schemes for the precisions of a request; ``auto`` wants all, ``fp32`` none.

    Raises:
        PrecisionError: a precision cannot be made for this family on a CPU.
    """
    available = SCHEMES[family]
    makeable = {Precision.AUTO, Precision.FP32, *(scheme.precision for scheme in available)}
    for precision in precisions:
        if precision not in makeable:
            names = ", ".join(sorted(makeable))
            raise PrecisionError(
                f"The precision '{precision}' cannot be prepared for {_PLURALS[family]} on a CPU.",
                hint=f"Precisions that can: {names}.",
            )
    for scheme in available:
        if Precision.AUTO in precisions or scheme.name in precisions:
            yield scheme


_PLURALS: dict[Family, str] = {
    "encoder": "encoders",
    "decoder": "decoders",
    "vision": "convolutional networks",
    "vision-transformer": "vision transformers",
    "volume": "networks of volumes",
}
