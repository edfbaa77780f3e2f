"""A module that was quantized in memory as a checkpoint, like one that was streamed.

The reader is `deepseek_engine.quant.checkpoint.load_into`; others read the format too, see
`deepseek_engine.quant.encoding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepseek_engine.prepare.quant.policy import KEEP
from deepseek_engine.prepare.quant.report import QuantizationReport
from deepseek_engine.prepare.quant.rounding import cast_to
from deepseek_engine.quant.checkpoint import DTYPES_OF_SCHEMES, SINGLE
from deepseek_engine.quant.encoding import encode
from deepseek_engine.quant.layers import CastLinear, QuantizedLayer
from deepseek_engine.quant.saving import PlannedLayer, write_config
from deepseek_engine.quant.schemes import scheme_named
from deepseek_engine.quant.tensor_files import TensorSpec, TensorWriter


def save_module(
    module: nn.Module, report: QuantizationReport, folder: Path, config: Mapping[str, Any]
) -> Path:
    """Write a quantized module and its ``config.json`` into a folder.

    Args:
        module: what `quantize_module` changed, on the CPU.
        report: what that returned; it says in which type the other tensors are stored.
        folder: must exist.
        config: the content of the original ``config.json``.

    Returns:
        The file of the weights.
    """
    kinds = {layer.name: layer.kind for layer in report.layers}
    planned: list[PlannedLayer] = []
    cast: dict[str, str] = {}
    names = {dtype: scheme for scheme, dtype in DTYPES_OF_SCHEMES.items()}
    tensors: dict[str, torch.Tensor] = {}
    for name, part in _unique(module):
        if isinstance(part, QuantizedLayer):
            scheme, shape = scheme_named(part.scheme), part.weight_shape
            planned.append(PlannedLayer(name, scheme, shape, kinds[name]))
            encoded = encode(part.quantized, scheme, shape)
            tensors |= {f"{name}.{key}": tensor for key, tensor in encoded.items()}
        elif isinstance(part, CastLinear):
            cast[name] = names[part.weight.dtype]
    tensors |= dict(_plain(module, report))
    specs = {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    path = folder / SINGLE
    with TensorWriter(path, specs, {"format": "pt"}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    done = {layer.name for layer in planned}
    kept = [name for name, kind in kinds.items() if kind == "linear" and name not in done]
    own = {"policy": report.policy, "method": report.method, "cast": cast}
    write_config(folder, config, planned, kept, own)
    return path


def _unique(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by their first name; of quantized layers that share a weight only the first."""
    seen: set[int] = set()
    for name, part in root.named_modules():
        if isinstance(part, QuantizedLayer):
            if part.data.data_ptr() in seen:
                continue
            seen.add(part.data.data_ptr())
        yield name, part


def _plain(root: nn.Module, report: QuantizationReport) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors without scales, in the types in which the policy stores them."""
    schemes = {f"{layer.name}.weight": layer.scheme for layer in report.layers}
    for name, parameter in root.named_parameters():
        scheme = schemes.get(name, report.rest)
        kept = scheme == KEEP or not parameter.is_floating_point()
        dtype = parameter.dtype if kept else DTYPES_OF_SCHEMES[scheme]
        yield name, cast_to(parameter.detach(), dtype, name)
    for prefix, part in root.named_modules():
        stored = QuantizedLayer.STORED if isinstance(part, QuantizedLayer) else frozenset()
        for name, buffer in part._buffers.items():
            if buffer is None or name in stored or name in part._non_persistent_buffers_set:
                continue
            full = f"{prefix}.{name}" if prefix else name
            is_bias = isinstance(part, QuantizedLayer) and report.rest != KEEP
            dtype = DTYPES_OF_SCHEMES[report.rest] if is_bias else buffer.dtype
            yield full, cast_to(buffer, dtype, full)
