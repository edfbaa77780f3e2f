"""The schemes that are compared, and the bytes of a module as it is written to a file."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepseek_engine.prepare.quant.api import Calibration, Method, layers_of, quantize_module
from deepseek_engine.prepare.quant.kinds import LayerType
from deepseek_engine.prepare.quant.policy import KEEP, Policy, Rule, for_precision, mixed, uniform
from deepseek_engine.prepare.quant.report import QuantizationReport
from deepseek_engine.prepare.quant.writing import save_module
from deepseek_engine.quant.checkpoint import DTYPES_OF_SCHEMES
from safetensors.torch import save_model
from torch import nn

from benchmarks.accuracy.subject import Trained

__all__ = [
    "VARIANTS",
    "Bytes",
    "Quantized",
    "Variant",
    "bytes_of_fp32",
    "expected_bytes",
    "quantize",
]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to quantize a module."""

    policy: Policy
    method: Method = "nearest"


def _small_groups() -> Policy:
    return uniform("int4-g32", embeddings="int8", head="int8", rest="bf16")


def _with_int8_head() -> Policy:
    return mixed().with_rules(Rule("int8", types=frozenset({LayerType.HEAD})))


VARIANTS: Mapping[str, Variant] = {
    "int8": Variant(for_precision("int8")),
    "mixed": Variant(for_precision("mixed")),
    "mixed with an int8 head": Variant(_with_int8_head()),
    "int4 nearest": Variant(for_precision("int4")),
    "int4 gptq": Variant(for_precision("int4"), "gptq"),
    "int4 awq": Variant(for_precision("int4"), "awq"),
    "int4 g32 nearest": Variant(_small_groups()),
    "int4 g32 gptq": Variant(_small_groups(), "gptq"),
    "fp8": Variant(for_precision("fp8")),
}
"""By the name that stands in the results; int4 has groups of 128 unless it says another number."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A file of safetensors."""

    tensors: int
    file: int
    """Tensors and the header that names them."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A module after quantizing."""

    module: nn.Module
    report: QuantizationReport
    bytes: Bytes


def quantize(trained: Trained, variant: Variant) -> Quantized:
    """Quantize a copy of a model and write it to a file, to count its bytes."""
    module = copy.deepcopy(trained.module)
    calibration = Calibration(trained.feeds) if variant.method != "nearest" else None
    report = quantize_module(module, variant.policy, calibration=calibration, method=variant.method)
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        path = save_module(module, report, Path(folder), trained.config)
        return Quantized(module, report, _bytes_of(path))


def bytes_of_fp32(module: nn.Module) -> Bytes:
    """The same for the original; a weight that two layers share counts once."""
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        path = Path(folder) / "model.safetensors"
        save_model(module, str(path))
        return _bytes_of(path)


def _bytes_of(path: Path) -> Bytes:
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
        json.loads(stream.read(header))  # a file that cannot be read has no size to speak of
    return Bytes(tensors=size - 8 - header, file=size)


def expected_bytes(module: nn.Module, policy: Policy) -> int:
    """Bytes of the tensors by the policy's own arithmetic, before anything is rounded."""
    layers = layers_of(module)
    total = 0.0
    for layer in layers:
        scheme = policy.choose(layer).scheme
        rows = layer.shape[0]
        columns = layer.parameters // rows
        total += 4 * layer.parameters if scheme is None else scheme.stored_bits(rows, columns) / 8
    weights = {f"{layer.name}.weight" for layer in layers}
    parameters = dict(module.named_parameters())
    width = 4 if policy.default == KEEP else DTYPES_OF_SCHEMES[policy.default].itemsize
    total += sum(p.numel() * width for name, p in parameters.items() if name not in weights)
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    total += sum(b.nbytes for name, b in module.state_dict().items() if name not in every)
    return int(total + 0.5)
