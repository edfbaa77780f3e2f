"""Refuse a model that does not fit, before it is loaded.

Why it exists: a process that runs out of memory is killed without a word and takes every other
model with it. An estimate beforehand costs nothing and can be explained. It must not load or
measure anything itself.
"""

from __future__ import annotations

from deepseek_api.errors import DeviceError, ErrorCode
from deepseek_api.manifest import Variant

from deepseek_engine.hardware import Memory

__all__ = ["check_memory", "estimate_memory"]

_MIB = 1024 * 1024
_RESERVE_BYTES = 64 * _MIB


def estimate_memory(variant: Variant) -> int:
    """Bytes that a loaded variant takes: what prepare measured, at least its files."""
    return max(variant.memory_bytes, sum(file.bytes for file in variant.files))


def check_memory(
    *, name: str, need: int, taken: int, memory: Memory, limit_bytes: int, copy: str = ""
) -> None:
    """Raise unless a model, or a further copy of one, fits.

    Args:
        name: the model.
        need: bytes that it takes.
        taken: estimated bytes of the models that this process holds already.
        memory: the machine's state now.
        limit_bytes: the configured limit for all models of this process; 0: none.
        copy: id of the variant, when it is a second copy of a model that is loaded already.

    Raises:
        DeviceError: RESOURCE_EXHAUSTED, with the sum that shows it.
    """
    what = f"The copy '{copy}' of the model '{name}'" if copy else f"The model '{name}'"
    if limit_bytes and taken + need > limit_bytes:
        raise _too_large(
            f"{what} needs {_mib(need)} and the models loaded before it take "
            f"{_mib(taken)}: together {_mib(taken + need)}, which is more than the configured "
            f"limit of {_mib(limit_bytes)}."
        )
    if need + _RESERVE_BYTES > memory.usable:
        limited = memory.limit_available is not None and memory.usable == memory.limit_available
        where = "its memory limit leaves" if limited else "the machine has"
        raise _too_large(
            f"{what} needs {_mib(need)} and a reserve of {_mib(_RESERVE_BYTES)}: "
            f"together {_mib(need + _RESERVE_BYTES)}; {where} {_mib(memory.usable)}."
        )


def _too_large(message: str) -> DeviceError:
    return DeviceError(
        message,
        hint="Give it more memory, serve fewer models here, or choose a smaller precision.",
        code=ErrorCode.RESOURCE_EXHAUSTED,
        reason="InsufficientMemory",
    )


def _mib(count: int) -> str:
    return f"{count / _MIB:.0f} MiB" if count >= 10 * _MIB else f"{count / _MIB:.1f} MiB"
