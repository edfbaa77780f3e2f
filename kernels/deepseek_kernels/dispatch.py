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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from deepseek_kernels.configuration import KernelConfig, Measurement, Table, table_for
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops import fp8_block, fp8_row, w4a16, w8a8, w8a16
from deepseek_kernels.ops.common import reference_linear
from deepseek_kernels.ops.dequantize import dequantize
from deepseek_kernels.weights import QuantizedWeight

__all__ = ["VARIABLE", "Activations", "Choice", "Implementation", "explain", "linear"]

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
_QUANTIZED: dict[tuple[str, str], Implementation] = {
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


def linear(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None = None,
    *,
    activations: Activations = "none",
    epilogue: Literal["gelu"] | None = None,
    implementation: Implementation | None = None,
    dense: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply ``x [..., K]`` by a quantized weight ``[N, K]``: ``[..., N]`` in x's dtype.

    Args:
        x: float16, bfloat16 or float32.
        weight: on the same device.
        bias: ``[N]``, any float.
        activations: what activations may be quantized to; small products may leave them alone.
        epilogue: ``gelu`` (with the error function) or nothing.
        implementation: overrules the choice.
        dense: the weight as ``[N, K]`` in x's dtype, if the caller keeps it; otherwise a dense
            product dequantizes the weight for each call.

    Raises:
        KernelArgumentError: an argument does not fit; the message names it.
        KernelUnavailableError: an overruling implementation that this GPU cannot run.
    """
    if epilogue not in (None, "gelu"):
        raise KernelArgumentError(f"epilogue: {epilogue!r} is unknown; give 'gelu' or None")
    N, K = weight.shape
    if not x.ndim or x.shape[-1] != K:
        raise KernelArgumentError(f"x: is {list(x.shape)}; give [..., {K}]")
    tokens = x.reshape(-1, K)
    choice = explain(
        len(tokens),
        weight,
        activations=activations,
        implementation=implementation,
        device=x.device,
        has_dense=dense is not None,
    )
    gelu = epilogue == "gelu"
    if choice.implementation == "reference":
        y = _reference(tokens, weight, bias, activations, gelu=gelu)
    elif choice.implementation == "dense":
        y = _dense(tokens, weight, bias, dense, gelu=gelu)
    else:
        y = _KERNELS[choice.implementation](tokens, weight, bias, gelu)
    return y.view(*x.shape[:-1], N)


def explain(
    M: int,
    weight: QuantizedWeight,
    *,
    activations: Activations = "none",
    implementation: Implementation | None = None,
    device: torch.device | None = None,
    has_dense: bool = False,
    table: Table | None = None,
    has_fp8: bool | None = None,
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
        has_fp8: whether the GPU multiplies float8; the device is asked by default.

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
    if weight.scheme.startswith("fp8") and not (_has_fp8(device) if has_fp8 is None else has_fp8):
        return Choice("dense", "this GPU has no float8")
    return _by_measurement(_by_rule(M, weight, activations, table), M, weight, table, has_dense)


def _by_rule(M: int, weight: QuantizedWeight, activations: str, table: Table) -> Choice:
    quantized = _QUANTIZED.get((weight.scheme, activations))
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
    if activations != "none" and (weight.scheme, activations) not in _QUANTIZED:
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


def _has_fp8(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 9)


def _reference(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    activations: str,
    *,
    gelu: bool,
) -> torch.Tensor:
    quantized = _QUANTIZED.get((weight.scheme, activations))
    if quantized == "w8a8":
        return w8a8.reference(x, weight, bias, gelu=gelu)
    if quantized == "fp8-row":
        return fp8_row.reference(x, weight, bias, gelu=gelu)
    if quantized == "fp8-block":
        return fp8_block.reference(x, weight, bias, gelu=gelu)
    return reference_linear(x, weight.dequantize(), bias, gelu=gelu)


def _dense(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    dense: torch.Tensor | None,
    *,
    gelu: bool,
) -> torch.Tensor:
    if dense is None:
        dense = _dequantized(weight, x.dtype)
    elif dense.shape != weight.shape or dense.dtype != x.dtype:
        raise KernelArgumentError(
            f"dense: is {dense.dtype} {list(dense.shape)}; give {x.dtype} {list(weight.shape)}"
        )
    y = torch.nn.functional.linear(x, dense, None if bias is None else bias.to(x.dtype))
    return torch.nn.functional.gelu(y) if gelu else y


def _dequantized(weight: QuantizedWeight, dtype: torch.dtype) -> torch.Tensor:
    fp8 = weight.scheme.startswith("fp8")
    if fp8 and weight.device.type == "cuda" and not _has_fp8(weight.device):
        return weight.dequantize(dtype)  # torch converts float8 on any GPU, Triton does not
    tiled = weight.layout == "tiles"
    parts = (weight.data, weight.scale, weight.zero_point, weight.scheme, weight.shape[1])
    made: torch.Tensor = dequantize(*parts, weight.group_size, tiled, dtype)
    return made


_Run = Callable[[torch.Tensor, QuantizedWeight, "torch.Tensor | None", bool], torch.Tensor]

_KERNELS: dict[Implementation, _Run] = {
    "w4a16": lambda x, w, bias, gelu: w4a16.w4a16(
        x, w.data, w.scale, w.zero_point, bias, w.group_size, w.layout == "tiles", gelu
    ),
    "w8a16": lambda x, w, bias, gelu: w8a16.w8a16(x, w.data, w.scale, bias, gelu),
    "w8a8": lambda x, w, bias, gelu: w8a8.w8a8(x, w.data, w.scale, bias, gelu),
    "fp8-row": lambda x, w, bias, gelu: fp8_row.fp8_row(x, w.data, w.scale, bias, gelu),
    "fp8-block": lambda x, w, bias, gelu: fp8_block.fp8_block(x, w.data, w.scale, bias, gelu),
}
