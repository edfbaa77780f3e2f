"""Variants for the torch back end on a GPU: which there are, how close they are to fp32.

Why it exists: a GPU runs torch modules, so that its variants are weights of another type, or
quantized ones in the format of compressed-tensors, and not graphs. How close their answers are is
measured here on the processor, which computes the same numbers slowly; how fast they are on a GPU
is not known where none is, and nothing is claimed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from deepseek_api.errors import PrecisionError
from deepseek_api.manifest import Selection, Variant
from deepseek_api.vocabulary import BackendName, InstructionSet, Precision

from deepseek_engine.prepare.architectures import LoadedModel
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.judge import Judge, run_module
from deepseek_engine.prepare.quant.policy import for_precision
from deepseek_engine.prepare.quant.stream import quantize_checkpoint
from deepseek_engine.prepare.writer import BundleWriter, WrittenGraph
from deepseek_engine.quant.checkpoint import Checkpoint, load_into

__all__ = ["TorchType", "add_gpu", "memory_of", "wanted_types", "write_types"]

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class TorchType:
    """What a whole model is converted to."""

    precision: Precision
    dtype: torch.dtype
    """Of the arithmetic, and of weights that are not quantized."""
    note: str
    quantized: bool = False
    """Whether the policy of the precision quantizes its layers."""


TYPES = (
    TorchType(Precision.BF16, torch.bfloat16, "Weights and arithmetic in bf16."),
    TorchType(Precision.FP16, torch.float16, "Weights and arithmetic in fp16."),
    TorchType(
        Precision.INT8,
        torch.bfloat16,
        "Linear weights int8 by row with int8 activations by token, the rest bf16.",
        quantized=True,
    ),
    TorchType(
        Precision.FP8,
        torch.bfloat16,
        "Linear weights fp8 by row with fp8 activations by token, the rest bf16.",
        quantized=True,
    ),
    TorchType(
        Precision.MIXED,
        torch.bfloat16,
        "Feed-forward layers, convolutions and embeddings int8, the rest bf16.",
        quantized=True,
    ),
    TorchType(
        Precision.INT4,
        torch.bfloat16,
        "Linear weights int4 in groups of 128, rounded to nearest, the rest bf16.",
        quantized=True,
    ),
)
"""In the order in which ``auto`` prefers them while no speed is known."""


def memory_of(tensor_bytes: int) -> int:
    """Estimate of a loaded variant: its tensors, the runtime's packed copy of them, activations."""
    return 2 * tensor_bytes + 48 * MIB


def wanted_types(precisions: Sequence[str]) -> Iterator[TorchType]:
    """Types for the precisions of a request; ``auto`` wants all, ``fp32`` none.

    Raises:
        PrecisionError: a precision cannot be made for a GPU.
    """
    makeable = {Precision.AUTO, Precision.FP32, *(kind.precision for kind in TYPES)}
    for precision in precisions:
        if precision not in makeable:
            raise PrecisionError(
                f"The precision '{precision}' cannot be prepared for the device 'cuda'.",
                hint=f"Precisions that can: {', '.join(sorted(makeable))}.",
            )
    for kind in TYPES:
        if Precision.AUTO in precisions or kind.precision in precisions:
            yield kind


def write_types(
    writer: BundleWriter,
    model: LoadedModel,
    judge: Judge,
    types: Sequence[TorchType],
    report: Reporter,
) -> list[Variant]:
    """Write the model in each type and compare its answers with those of fp32."""
    if not types:
        return []
    reference = np.concatenate([run_module(model, feed) for feed in judge.feeds])
    variants = []
    for kind in report.track("converting for the GPU", types, len(types), "variants"):
        written = _write(writer, model, kind)
        other = dataclasses.replace(model, module=_opened(writer, model, kind, written))
        given = np.concatenate([run_module(other, feed) for feed in judge.feeds])
        variants.append(
            Variant(
                id=_name(kind),
                backend=BackendName.TORCH,
                precision=kind.precision,
                instruction_set=InstructionSet.CUDA,
                files=tuple(writer.describe(path) for path in written.files),
                graph=written.path,
                tensor_bytes=written.tensor_bytes,
                memory_bytes=memory_of(written.tensor_bytes),
                agreement=judge.compare(reference, given),
                notes=(kind.note, "Agreement was measured on a processor; speed was not."),
            )
        )
    return variants


def _name(kind: TorchType) -> str:
    return f"{kind.precision}-torch"


def _write(writer: BundleWriter, model: LoadedModel, kind: TorchType) -> WrittenGraph:
    if not kind.quantized:
        return writer.write_torch(_name(kind), model, dtype=kind.dtype)
    return writer.write_quantized(
        _name(kind),
        model,
        dtype=kind.dtype,
        quantize=lambda plain, folder: quantize_checkpoint(
            plain, folder, for_precision(kind.precision)
        ),
    )


def _opened(
    writer: BundleWriter, model: LoadedModel, kind: TorchType, written: WrittenGraph
) -> torch.nn.Module:
    """The module as it will be served: what was written is what is judged."""
    module = copy.deepcopy(model.module).to(kind.dtype)
    if kind.quantized:
        weights = next(name for name in written.files if name.endswith(".safetensors"))
        with Checkpoint((writer.folder / weights).parent) as checkpoint:
            load_into(module, checkpoint)
    return module.eval()


def add_gpu(selection: Selection, *, fp32: str, others: Sequence[Variant]) -> None:
    """Let a GPU find its variants.

    ``auto`` is the first type whose answers are within their bound, fp32 if none is.

    Args:
        selection: of the processor's variants; changed in place.
        fp32: id of the torch variant in fp32.
        others: made by `write_types`.
    """
    cuda = InstructionSet.CUDA
    selection.setdefault(Precision.FP32, {})[cuda] = fp32
    for variant in others:
        selection.setdefault(variant.precision, {})[cuda] = variant.id
    good = [v.id for v in others if v.agreement and v.agreement.mean >= v.agreement.bound]
    selection.setdefault(Precision.AUTO, {})[cuda] = good[0] if good else fp32
