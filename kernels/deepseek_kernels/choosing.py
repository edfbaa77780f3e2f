"""Which implementation multiplies: chosen by device, scheme, tokens and measurements.

Why it exists: a quantized product wins where it is bound by memory or by the speed of tensor
cores, and loses in between; weight-only kernels at 256 tokens and more reach 0.4 to 0.65 of a
dense 16-bit product on published charts. So one place decides, says why (``explain``) and can be
overruled.

The rule on a GPU, for M tokens:

=========== ============== ============================== ==========================================
M           weights        activations                    implementation
=========== ============== ============================== ==========================================
1 to 64     int4           none                           ``w4a16`` (GEMV to 8 tokens, then GEMM)
1 to 64     int8, fp8      any that the scheme allows     ``w8a16`` (the same)
65 to 255   int8           int8                           ``dense``
65 to 255   fp8            fp8                            ``fp8-row``
256 and up  int8, fp8      int8, fp8                      ``w8a8``, ``fp8-row``
65 and up   int4, int8     none                           ``dense``, never weight-only
any         fp8-block      fp8; none                      ``fp8-block``; ``dense``
=========== ============== ============================== ==========================================

``dense`` multiplies with 16-bit weights: those that the caller keeps, or dequantized for this
call. A measurement of the shape (``deepseek_kernels.configuration``) overrules the table: a kernel
that was measured more than 5 % slower than dense gives way to it, and between 65 and 255 tokens
one that was measured faster is used. On a CPU the plain torch ``reference`` runs and quantizes
activations as asked.

Overruling: the argument ``implementation``, or the variable ``DEEPSEEK_KERNELS_LINEAR`` for a
process.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from deepseek_kernels.configuration import KernelConfig, Measurement, Table, table_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import w4a16, w8a16
from deepseek_kernels.weights import QuantizedWeight

__all__ = ["QUANTIZED", "VARIABLE", "Activations", "Choice", "Implementation", "explain", "has_fp8"]

Activations = Literal["none", "int8", "fp8"]
Implementation = Literal["reference", "w4a16", "w8a16", "w8a8", "fp8-row", "fp8-block", "dense"]

VARIABLE = "DEEPSEEK_KERNELS_LINEAR"
SMALL_MAX_M = 64
"""Up to here weight-only kernels are bound by memory (kernels of this kind cross at 70 to 130)."""
LARGE_MIN_M = 256
"""From here 16-bit products are bound by arithmetic on Hopper (they cross at about 265)."""
TOLERATED = 1.05
"""How much slower than dense a quantized product may have been measured."""

_SCHEMES: dict[Implementation, tuple[str, ...]] = {
    "reference": ("int8", "int4", "fp8", "fp8-block"),
    "dense": ("int8", "int4", "fp8", "fp8-block"),
    "w4a16": ("int4",),
    "w8a16": ("int8", "fp8"),
    "w8a8": ("int8",),
    "fp8-row": ("fp8",),
    "fp8-block": ("fp8-block",),
}
QUANTIZED: dict[tuple[str, str], Implementation] = {
    ("int8", "int8"): "w8a8",
    ("fp8", "fp8"): "fp8-row",
    ("fp8-block", "fp8"): "fp8-block",
}
"""Implementation by scheme and kind of quantized activations."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``linear`` runs, and why."""

    implementation: Implementation
    reason: str
    kernel: str = ""
    """Name of the kernel in tables of configurations; empty for torch's own products."""
    config: KernelConfig | None = None
    measurement: Measurement | None = None
    """What was measured for this shape, if anything was."""


def explain(
    M: int,
    weight: QuantizedWeight,
    *,
    activations: Activations = "none",
    implementation: Implementation | None = None,
    device: torch.device | None = None,
    has_dense: bool = False,
    table: Table | None = None,
    float8: bool | None = None,
) -> Choice:
    """Say what ``linear`` would run for ``M`` tokens, and why.

    Args:
        M: number of tokens.
        weight: only its description is read.
        activations: as for ``linear``.
        implementation: as for ``linear``.
        device: where it would run; the weight's by default.
        has_dense: whether the caller keeps the dense weight.
        table: configurations and measurements; those of the device by default.
        float8: whether the GPU multiplies float8; the device is asked by default.

    Raises:
        KernelArgumentError: activations or an implementation that the scheme does not allow.
    """
    _require_combination(weight, activations)
    device = weight.device if device is None else device
    asked, source = implementation, "the argument implementation"
    if asked is None and os.environ.get(VARIABLE, "auto") != "auto":
        asked, source = _named(os.environ[VARIABLE]), VARIABLE
    if asked is None and device.type == "cpu":
        return Choice("reference", "on a CPU the plain torch reference runs")
    table = table or table_for(device)
    if asked is not None:
        if weight.scheme not in _SCHEMES.get(asked, ()):
            raise KernelArgumentError(
                f"implementation: {source} asks for {asked}, which does not take {weight.scheme}; "
                f"give one of {', '.join(i for i, s in _SCHEMES.items() if weight.scheme in s)}"
            )
        return _with_config(asked, f"{source} asks for it", M, weight, table)
    if weight.scheme.startswith("fp8") and not (has_fp8(device) if float8 is None else float8):
        return Choice("dense", "this GPU has no float8")
    return _by_measurement(_by_rule(M, weight, activations, table), M, weight, table, has_dense)


def _by_rule(M: int, weight: QuantizedWeight, activations: str, table: Table) -> Choice:
    quantized = QUANTIZED.get((weight.scheme, activations))
    if quantized == "fp8-block":
        return _with_config("fp8-block", "block scales have one kernel", M, weight, table)
    if M <= SMALL_MAX_M and weight.scheme != "fp8-block":
        if weight.scheme == "int4" and not w4a16.supports(weight):
            return Choice("dense", f"no kernel takes groups of {weight.group_size}")
        small: Implementation = "w4a16" if weight.scheme == "int4" else "w8a16"
        return _with_config(small, f"M <= {SMALL_MAX_M} is bound by memory", M, weight, table)
    if quantized is None:
        return Choice("dense", "weight-only kernels are slower than dense for this many tokens")
    chosen = _with_config(quantized, "activations are quantized", M, weight, table)
    if M >= LARGE_MIN_M or quantized == "fp8-row" or chosen.measurement is not None:
        return chosen
    return Choice("dense", f"{SMALL_MAX_M} < M < {LARGE_MIN_M}, and no measurement favours int8")


def _by_measurement(
    choice: Choice, M: int, weight: QuantizedWeight, table: Table, has_dense: bool
) -> Choice:
    found = choice.measurement
    if found is None:
        return choice
    dense = found.dense_microseconds + (0.0 if has_dense else found.dequantize_microseconds)
    compared = f"{found.microseconds:.1f} us against {dense:.1f} us for dense"
    if found.microseconds > TOLERATED * dense:
        return Choice("dense", f"measured {compared}", measurement=found)
    return Choice(
        choice.implementation, f"measured {compared}", choice.kernel, choice.config, found
    )


def _with_config(
    implementation: Implementation, reason: str, M: int, weight: QuantizedWeight, table: Table
) -> Choice:
    kernel = implementation.replace("-", "_")
    if implementation in ("reference", "dense"):
        return Choice(implementation, reason)
    if implementation in ("w4a16", "w8a16"):
        limit = w4a16.gemv_max_m(weight) if implementation == "w4a16" else w8a16.GEMV_MAX_M
        kernel += "_gemv" if limit >= M else "_gemm"
    shape = (kernel, M, *weight.shape)
    return Choice(implementation, reason, kernel, table.config(*shape), table.measurement(*shape))


def _require_combination(weight: QuantizedWeight, activations: str) -> None:
    known = get_args(Activations)
    if activations not in known:
        raise KernelArgumentError(
            f"activations: {activations!r} is unknown; give one of {', '.join(known)}"
        )
    if activations != "none" and (weight.scheme, activations) not in QUANTIZED:
        raise KernelArgumentError(
            f"activations: {activations} and {weight.scheme} weights have no kernel; give 'none'"
        )


def _named(text: str) -> Implementation:
    for known in get_args(Implementation):
        if text == known:
            found: Implementation = known
            return found
    raise KernelArgumentError(
        f"{VARIABLE}: {text!r} is unknown; set one of auto, {', '.join(get_args(Implementation))}"
    )


def has_fp8(device: torch.device) -> bool:
    """Whether a GPU multiplies float8."""
    return torch.cuda.get_device_capability(device) >= (8, 9)
