"""Which hardware suits which load: the rows that ``deepseek doctor`` prints.

Why it exists: the question comes before every installation, and the answer depends on memory and
instruction sets, not on taste. Memory is weights times bytes per weight plus a working part; the
first three loads are what this release serves. These are rules of thumb, not measurements;
measured figures are in docs/performance.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepseek_api.vocabulary import InstructionSet

INT8_DOT = frozenset(
    {
        InstructionSet.AVX_VNNI,
        InstructionSet.AVX512_VNNI,
        InstructionSet.AMX_INT8,
        InstructionSet.NEON_DOTPROD,
        InstructionSet.NEON_I8MM,
    }
)
"""Instruction sets that multiply 8-bit integers directly, where int8 pays most."""


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of work and the hardware for it."""

    name: str
    hardware: str
    why: str
    minimum_bytes: int
    """Memory below which this machine cannot hold the smallest sensible model of the kind."""
    needs_gpu: bool = False


_GIB = 1 << 30

LOADS = (
    Load(
        "sentence vectors, text classes",
        "processor with 8-bit dot products (VNNI, AMX, ARM i8mm)",
        "int8 gains most there; with AVX2 alone it gains less",
        _GIB,
    ),
    Load(
        "image classes",
        "processor with AVX2 or NEON and up",
        "small convolutions use caches and wide vectors well",
        _GIB,
    ),
    Load(
        "several small models, weighted",
        "processor, 2 or more cores, 4 GiB",
        "models take turns on the cores, by weight",
        4 * _GIB,
    ),
    Load(
        "large encoders, many requests",
        "GPU with 16 GiB and tensor cores",
        "batches fill a GPU; a processor is bound by its few cores",
        8 * _GIB,
        needs_gpu=True,
    ),
    Load(
        "text generation, 7 to 8 billion weights",
        "GPU with 24 GiB; 12 GiB with int4",
        "2 bytes a weight in fp16, and every token reads all of them",
        12 * _GIB,
        needs_gpu=True,
    ),
    Load(
        "3D segmentation",
        "GPU with 16 GiB",
        "activations of volumes are far larger than the weights",
        16 * _GIB,
        needs_gpu=True,
    ),
)


def here(load: Load, *, sets: tuple[InstructionSet, ...], memory: int, gpus: int) -> str:
    """What this machine is for a load: ``well``, ``yes``, ``no memory`` or ``no GPU``."""
    if load.needs_gpu and not gpus:
        return "no GPU"
    if memory < load.minimum_bytes:
        return "no memory"
    if load is LOADS[0]:
        return "well" if INT8_DOT & set(sets) else "yes"
    return "not yet" if load.needs_gpu else "well"
