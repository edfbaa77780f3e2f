"""Quantizing a torch module in place.

Why it exists: this is the way for models that fit into memory, where inputs can be seen: GPTQ, AWQ
and SmoothQuant need them. Checkpoints that do not fit go through `stream`.

The module is changed: its linear layers, convolutions and embeddings become those of
`deepseek_engine.quant`. 16-bit layers keep their own type; parameters that belong to no layer
(biases, position tables) are rounded to the policy's default and stay in the module's type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from deepseek_api.errors import ConfigurationError
from torch import nn

from deepseek_engine.prepare.quant.awq import round_by_importance, scale_columns
from deepseek_engine.prepare.quant.calibration import Calibration, InputStatistics
from deepseek_engine.prepare.quant.folding import Fold, find_folds
from deepseek_engine.prepare.quant.gptq import gptq
from deepseek_engine.prepare.quant.kinds import (
    Layer,
    LayerType,
    is_norm_class,
    kind_of_class,
    type_of,
)
from deepseek_engine.prepare.quant.policy import KEEP, Choice, Policy, check_overrides
from deepseek_engine.prepare.quant.report import LayerReport, QuantizationReport
from deepseek_engine.prepare.quant.rounding import cast_to, quantize_weight
from deepseek_engine.prepare.quant.smoothquant import STRENGTH, smooth
from deepseek_engine.quant.blocks import LayerWeight
from deepseek_engine.quant.checkpoint import DTYPES_OF_SCHEMES
from deepseek_engine.quant.encoding import encoded_specs
from deepseek_engine.quant.exchange import (
    can_quantize,
    exchange,
    quantized_layer,
    weight_matrix,
    weight_owners,
    weight_shape,
)
from deepseek_engine.quant.layers import CastLinear
from deepseek_engine.quant.schemes import Granularity, Scheme

Method = Literal["nearest", "gptq", "awq"]
"""How values of int4 are chosen; other schemes are always rounded to the nearest."""


@dataclass(slots=True)
class _Found:
    """A layer of the module and what becomes of it."""

    layer: Layer
    module: nn.Module
    sharing: list[nn.Module]
    choice: Choice
    bytes_before: int
    statistics: InputStatistics | None = None
    weight_error: float | None = None
    output_error: float | None = None

    @property
    def quantized(self) -> Scheme | None:
        scheme = self.choice.scheme
        return scheme if scheme is not None and scheme.quantized else None

    @property
    def calibrated(self) -> bool:
        """Whether statistics of its inputs can be used."""
        return self.quantized is not None and self.layer.kind == "linear"


def layers_of(module: nn.Module) -> list[Layer]:
    """The layers of a module that have a weight, with their types; a shared weight once."""
    return [layer for layer, _, _ in _layers(module)]


def quantize_module(
    module: nn.Module,
    policy: Policy,
    *,
    calibration: Calibration | None = None,
    method: Method = "nearest",
    smoothing: float | None = None,
) -> QuantizationReport:
    """Quantize the layers of a module in place.

    Args:
        module: on the CPU, in eval mode; not itself a single layer.
        policy: what each layer becomes.
        calibration: examples; needed for every method but ``nearest`` and for smoothing.
        method: how int4 values are chosen.
        smoothing: strength of SmoothQuant before rounding, 0 to 1 (0.5 is usual); None: without.

    Returns:
        What became of every layer. With a calibration it has the errors of the outputs too.

    Raises:
        ConfigurationError: a calibration is missing, or a rule of the user matches no layer.
        SourceError: a weight or an input holds NaN or infinity.
        PrecisionError: a rule names a layer that cannot have its scheme.
    """
    if calibration is None and (method != "nearest" or smoothing is not None):
        raise ConfigurationError(
            f"The method '{method if method != 'nearest' else 'smoothing'}' needs examples.",
            hint="Give a calibration, or use the method 'nearest' without smoothing.",
        )
    if can_quantize(module):
        raise ConfigurationError(
            "A single layer cannot be exchanged inside itself.",
            hint="Put it into a module, for example torch.nn.Sequential(layer).",
        )
    found = [
        _Found(layer, part, sharing, policy.choose(layer), _weight_bytes(part))
        for layer, part, sharing in _layers(module)
    ]
    check_overrides(policy, [each.layer for each in found])
    others = _other_parameters(module, found)
    other_bytes = sum(parameter.nbytes for parameter in others.values())
    _round_others(others, policy.default)
    if calibration is not None:
        if smoothing is not None or method == "awq":
            _fold(module, found, calibration, method, smoothing)
        _round_calibrated(module, found, calibration, method)
    for each in found:
        if each.quantized and each.weight_error is None:
            _exchange(module, each, _nearest(each))
        elif not each.quantized:
            _cast(module, each)
    return _report(policy, method, smoothing, found, others, other_bytes)


def _layers(root: nn.Module) -> Iterator[tuple[Layer, nn.Module, list[nn.Module]]]:
    for name, module, sharing in weight_owners(root):
        class_name = type(module).__name__
        kind = kind_of_class(class_name) if can_quantize(module) else "other"
        shape = weight_shape(module)
        found = LayerType.NORM if is_norm_class(class_name) else type_of(name, kind)
        yield Layer(name, found, kind, shape), module, sharing


def _weight_bytes(module: nn.Module) -> int:
    return module.get_parameter("weight").nbytes


def _other_parameters(root: nn.Module, found: list[_Found]) -> dict[str, nn.Parameter]:
    """Parameters that are no layer's weight."""
    weights = {id(each.module._parameters["weight"]) for each in found}
    return {name: p for name, p in root.named_parameters() if id(p) not in weights}


def _fold(
    root: nn.Module,
    found: list[_Found],
    calibration: Calibration,
    method: Method,
    smoothing: float | None,
) -> None:
    """Move factors between layers; their inputs are looked at again afterwards."""
    by_module = {id(each.module): each for each in found}
    folds: list[tuple[Fold, _Found]] = []
    for fold in find_folds(root, calibration.feeds[0]):
        first = by_module[id(fold.consumers[0])]
        if all(by_module[id(consumer)].calibrated for consumer in fold.consumers):
            folds.append((fold, first))
    statistics = _collect(root, [first for _, first in folds], calibration, hessian=False)
    known = [(fold, first, statistics[first.layer.name]) for fold, first in folds
             if first.layer.name in statistics]  # fmt: skip
    if smoothing is not None:
        smooth([(fold, seen) for fold, _, seen in known], strength=smoothing)
    elif method == "awq":
        grouped = [
            (fold, seen, scheme)
            for fold, first, seen in known
            if (scheme := first.quantized) and scheme.granularity is Granularity.GROUP
        ]
        scale_columns(grouped)


def _round_calibrated(
    root: nn.Module, found: list[_Found], calibration: Calibration, method: Method
) -> None:
    """Round linear layers in the order of the module, in passes that fit into memory.

    A later pass sees the inputs that the layers rounded before it give.
    """
    by_name = {each.layer.name: each for each in found if each.calibrated}
    layers = {name: each.module for name, each in by_name.items()}
    columns = {name: each.layer.columns for name, each in by_name.items()}
    hessian = method == "gptq"
    for group in calibration.passes(layers, columns, hessian=hessian):
        members = [by_name[name] for name in group]
        statistics = _collect(root, members, calibration, hessian=hessian)
        for each in members:
            each.statistics = statistics.get(each.layer.name)
            _exchange(root, each, _calibrated(each, method))
            each.statistics = None


def _collect(
    root: nn.Module, members: list[_Found], calibration: Calibration, *, hessian: bool
) -> dict[str, InputStatistics]:
    layers = {each.layer.name: each.module for each in members}
    columns = {each.layer.name: each.layer.columns for each in members}
    return calibration.collect(root, layers, columns, hessian=hessian) if members else {}


def _calibrated(each: _Found, method: Method) -> LayerWeight:
    scheme, seen = each.quantized, each.statistics
    assert scheme is not None  # only layers with a scheme come here
    if seen is None or scheme.granularity is not Granularity.GROUP:
        return _nearest(each)
    weight, name = weight_matrix(each.module), each.layer.name
    if method == "gptq" and seen.hessian is not None:
        return gptq(weight, seen.hessian / seen.count, scheme, layer=name)
    if method == "awq":
        return round_by_importance(weight, seen.squares / seen.count, scheme, layer=name)
    return _nearest(each)


def _nearest(each: _Found) -> LayerWeight:
    assert each.quantized is not None  # only layers with a scheme come here
    return quantize_weight(weight_matrix(each.module), each.quantized, layer=each.layer.name)


def _exchange(root: nn.Module, each: _Found, weight: LayerWeight) -> None:
    """Put the quantized layer in its place and note how far off it is."""
    scheme = each.quantized
    assert scheme is not None  # only layers with a scheme come here
    exact = weight_matrix(each.module).float()
    difference = weight.dequantize(torch.float32) - exact
    each.weight_error = _ratio(difference, exact)
    if each.statistics is not None:
        rows = each.statistics.sample.rows.float()
        each.output_error = _ratio(rows @ difference.t(), rows @ exact.t())
    for module in (each.module, *each.sharing):
        if can_quantize(module):
            exchange(root, module, quantized_layer(module, weight, scheme))


def _ratio(difference: torch.Tensor, exact: torch.Tensor) -> float:
    norm = float(exact.double().norm())
    return float(difference.double().norm()) / norm if norm else 0.0


@torch.no_grad()
def _cast(root: nn.Module, each: _Found) -> None:
    """Give a layer that is not quantized its floating point type."""
    if each.choice.scheme is None:
        return
    dtype, name = DTYPES_OF_SCHEMES[each.choice.scheme.name], each.layer.name
    weight = each.module.get_parameter("weight")
    rounded = cast_to(weight, dtype, name)
    if each.layer.kind == "linear" and dtype != weight.dtype and not each.sharing:
        bias = each.module._parameters.get("bias")
        matrix = weight_matrix(each.module)
        exchange(root, each.module, CastLinear(matrix, bias, dtype))
    else:
        weight.copy_(rounded)


@torch.no_grad()
def _round_others(others: dict[str, nn.Parameter], scheme: str) -> None:
    for name, parameter in others.items():
        if scheme != KEEP and parameter.is_floating_point():
            parameter.copy_(cast_to(parameter, DTYPES_OF_SCHEMES[scheme], name))


def _report(
    policy: Policy,
    method: Method,
    smoothing: float | None,
    found: list[_Found],
    others: dict[str, nn.Parameter],
    other_bytes: int,
) -> QuantizationReport:
    dtype = None if policy.default == KEEP else DTYPES_OF_SCHEMES[policy.default]
    width = [p.element_size() if dtype is None else dtype.itemsize for p in others.values()]
    steps = ["smoothquant"] if smoothing is not None else []
    return QuantizationReport(
        policy=policy.name,
        method="+".join([*steps, method]),
        layers=tuple(_layer_report(each) for each in found),
        other_bytes_before=other_bytes,
        other_bytes_after=sum(
            p.numel() * size for p, size in zip(others.values(), width, strict=True)
        ),
        other_parameters=sum(p.numel() for p in others.values()),
        rest=policy.default,
    )


def _layer_report(each: _Found) -> LayerReport:
    layer, choice = each.layer, each.choice
    if each.quantized:
        specs = encoded_specs(each.quantized, layer.shape)
        after = sum(spec.nbytes for spec in specs.values())
    elif choice.scheme is not None:
        after = layer.parameters * DTYPES_OF_SCHEMES[choice.scheme.name].itemsize
    else:
        after = each.bytes_before
    return LayerReport(
        name=layer.name,
        type=layer.type.value,
        kind=layer.kind,
        wanted=choice.wanted,
        scheme=choice.scheme.name if choice.scheme else KEEP,
        reason=choice.reason,
        parameters=layer.parameters,
        bytes_before=each.bytes_before,
        bytes_after=after,
        weight_error=each.weight_error,
        output_error=each.output_error,
    )


__all__ = ["STRENGTH", "Calibration", "Method", "layers_of", "quantize_module"]
