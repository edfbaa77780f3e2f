"""The variants of a model that generates: which there are and how each is streamed.

Why it exists: a processor computes in fp32 and gains from int8 weights; 16 bits are for GPUs, since
without AMX or AVX512-BF16 bf16 arithmetic takes twice the time of fp32. Every variant is a folder
in the hub's form: ``config.json``, ``generation_config.json`` and safetensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepseek_api.errors import PrecisionError
from deepseek_api.manifest import Selection, Variant
from deepseek_api.vocabulary import BackendName, InstructionSet, Precision

from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.quant.kinds import LayerType
from deepseek_engine.prepare.quant.policy import (
    KEEP,
    Policy,
    Rule,
    for_precision,
    uniform,
)
from deepseek_engine.prepare.quant.stream import quantize_checkpoint
from deepseek_engine.prepare.writer import BundleWriter

__all__ = ["Kind", "selection_of", "wanted_kinds", "write_variant"]

RUNTIME_BYTES: Final = 512 << 20
"""What torch takes in a process besides weights: 537 MB were resident after importing 2.15."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A precision on a kind of device."""

    precision: Precision
    instruction_set: InstructionSet
    policy: Policy
    note: str
    by_default: bool
    """Whether ``auto`` makes it."""

    @property
    def id(self) -> str:
        """Name of the variant and of its folder."""
        suffix = "-cuda" if self.instruction_set is InstructionSet.CUDA else ""
        return f"{self.precision.value}{suffix}"


def _cpu(precision: Precision, policy: Policy, note: str, *, by_default: bool = True) -> Kind:
    return Kind(precision, InstructionSet.ANY, _with_positions(policy), note, by_default)


def _cuda(precision: Precision, note: str, *, by_default: bool = False) -> Kind:
    policy = _with_positions(for_precision(precision))
    return Kind(precision, InstructionSet.CUDA, policy, note, by_default)


def _with_positions(policy: Policy) -> Policy:
    """The same, with tables of learned positions as the rest: they are small, and added to all."""
    return _with_first(Rule(policy.default, names=r"re:(^|\.)(wpe|embed_positions)$"), policy)


def _with_first(rule: Rule, policy: Policy) -> Policy:
    """The same with one rule more; unlike a user's it may match nothing."""
    return dataclasses.replace(policy, rules=(rule, *policy.rules))


# All linear layers in int8 raised the perplexity of Gemma 3 270M by 2.7 % over 3,200 tokens of the
# standard library's documentation, and by 1.6 % without those that attention compares and averages.
_ATTENTION_INPUTS = Rule(KEEP, names=r"re:(^|\.)([qkv]_proj|c_attn)$")

# What is not rounded to int8 keeps the type of the source: a processor gains nothing from less.
_CPU = (
    _cpu(Precision.FP32, for_precision(Precision.FP32), "Weights and arithmetic in fp32."),
    _cpu(
        Precision.INT8,
        _with_first(
            _ATTENTION_INPUTS, uniform("int8-dynamic", embeddings="int8", head="int8-dynamic")
        ),
        "Linear weights int8 by row with int8 activations by token, but for queries, keys and "
        "values of attention; embeddings int8 by row.",
    ),
    _cpu(
        Precision.MIXED,
        Policy(
            "mixed",
            (
                Rule("int8-dynamic", types=frozenset({LayerType.FEED_FORWARD})),
                Rule("int8", types=frozenset({LayerType.EMBEDDING})),
            ),
            default=KEEP,
        ),
        "Feed-forward layers and embeddings int8, attention as it is.",
        by_default=False,
    ),
)
_CUDA = (
    _cuda(Precision.BF16, "Weights and arithmetic in bf16.", by_default=True),
    _cuda(Precision.FP16, "Weights and arithmetic in fp16."),
    _cuda(Precision.FP32, "Weights and arithmetic in fp32."),
    _cuda(
        Precision.INT8,
        "Linear weights int8 by row with int8 activations by token, the rest bf16.",
        by_default=True,
    ),
    _cuda(Precision.FP8, "Linear weights fp8 by row with fp8 activations by token, the rest bf16."),
    _cuda(Precision.INT4, "Linear weights int4 in groups of 128, the rest bf16."),
    _cuda(Precision.MIXED, "Feed-forward layers and embeddings int8, the rest 16 bits."),
)


def wanted_kinds(precisions: Sequence[str], device: str) -> Iterator[Kind]:
    """What is made for the precisions of a request, best first while nothing is measured.

    Raises:
        PrecisionError: a precision cannot be made for the device.
    """
    kinds = _CUDA if device == "cuda" else _CPU
    makeable = [Precision.AUTO, *(kind.precision for kind in kinds)]
    for precision in precisions:
        if precision not in makeable:
            raise PrecisionError(
                f"The precision '{precision}' cannot be prepared for models that generate on the "
                f"device '{device}'.",
                hint=f"Precisions that can: {', '.join(makeable)}.",
            )
    for kind in kinds:
        if kind.precision in precisions or (kind.by_default and Precision.AUTO in precisions):
            yield kind


def write_variant(writer: BundleWriter, kind: Kind, checkpoint: Path, report: Reporter) -> Variant:
    """Stream a checkpoint into the folder of a variant.

    Args:
        writer: of the bundle.
        kind: what it becomes.
        checkpoint: a folder with the plain weights and nothing of the tokenizer.
        report: is told how far it is.

    Raises:
        SourceError: the checkpoint is damaged or holds weights that are not finite.
    """
    target = writer.folder / kind.id
    quantize_checkpoint(
        checkpoint,
        target,
        kind.policy,
        on_progress=lambda name, done, total: report.progress(
            f"writing {kind.id}", done, total, "B"
        ),
    )
    files = tuple(writer.describe(f"{kind.id}/{path.name}") for path in sorted(target.iterdir()))
    weights = sum(file.bytes for file in files if file.path.endswith(".safetensors"))
    return Variant(
        id=kind.id,
        backend=BackendName.TORCH,
        precision=kind.precision,
        instruction_set=kind.instruction_set,
        files=files,
        graph=f"{kind.id}/config.json",
        tensor_bytes=weights,
        memory_bytes=weights + RUNTIME_BYTES,
        notes=(kind.note,),
    )


def selection_of(variants: Sequence[Variant]) -> Selection:
    """Which variant serves a precision; ``auto`` is the first one until something is measured."""
    selection: Selection = {}
    for variant in variants:
        for precision in (variant.precision, Precision.AUTO):
            selection.setdefault(precision, {}).setdefault(variant.instruction_set, variant.id)
    return selection
