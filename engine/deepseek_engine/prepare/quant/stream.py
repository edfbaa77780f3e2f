"""A safetensors checkpoint of any size into a quantized one, in one pass and little memory.

Why it exists: a checkpoint is often larger than the memory of the machine that quantizes it. The
new files are planned from the headers of the old ones; then every weight is read, rounded and
written some rows at a time. Rounding is to the nearest value: what needs inputs (GPTQ, AWQ,
SmoothQuant) needs the module, see `deepseek_engine.prepare.quant.api`.

Nothing is left behind when it fails: the folder appears under its name when it is complete.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from deepseek_api.errors import ConfigurationError, ErrorCode, SourceError

from deepseek_engine.prepare.quant.kinds import Layer, is_transposed, layer_of_tensor
from deepseek_engine.prepare.quant.policy import KEEP, Choice, Policy, check_overrides
from deepseek_engine.prepare.quant.report import LayerReport, QuantizationReport
from deepseek_engine.prepare.quant.rounding import cast_to, quantize_weight
from deepseek_engine.quant.checkpoint import DTYPES_OF_SCHEMES, SINGLE, Checkpoint
from deepseek_engine.quant.encoding import SCALE, SHAPE, ZERO, encode
from deepseek_engine.quant.saving import (
    PlannedFile,
    PlannedLayer,
    write_config,
    write_index,
)
from deepseek_engine.quant.schemes import SCHEMES, Scheme
from deepseek_engine.quant.tensor_files import TensorSpec, TensorWriter

CHUNK = 1 << 22
"""Numbers that are rounded at a time; about ten times as many bytes of fp32 are in use."""
ROWS = 128
"""Rows are taken in multiples of this: of every block's height and of packed zero points."""
FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
COPIED_BYTES = 64 << 20
"""Largest file (tokenizer, vocabulary) that is copied beside the weights."""
REPORT = "quantization-report.json"
_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"})

OnProgress = Callable[[str, int, int], None]
"""Called with the tensor that is next, the bytes that are done and all bytes."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What becomes of one tensor."""

    name: str
    spec: TensorSpec
    layer: Layer | None
    choice: Choice | None
    transposed: bool

    @property
    def scheme(self) -> Scheme | None:
        """The scheme, if the tensor gets scales."""
        scheme = self.choice.scheme if self.choice else None
        return scheme if self.layer and scheme and scheme.quantized else None

    @property
    def dtype(self) -> torch.dtype:
        """The type of a tensor without scales."""
        scheme = self.choice.scheme if self.choice else None
        return self.spec.dtype if scheme is None else DTYPES_OF_SCHEMES[scheme.name]

    def planned_layer(self) -> PlannedLayer | None:
        """Its place in the new checkpoint, if it gets scales."""
        if self.scheme is None or self.layer is None:
            return None
        return PlannedLayer(self.layer.name, self.scheme, self.layer.shape, self.layer.kind)

    def specs(self) -> dict[str, TensorSpec]:
        """The tensors that are written for it."""
        planned = self.planned_layer()
        return planned.specs() if planned else {self.name: TensorSpec(self.dtype, self.spec.shape)}


def quantize_checkpoint(
    source: Path, target: Path, policy: Policy, *, on_progress: OnProgress | None = None
) -> QuantizationReport:
    """Quantize a checkpoint into a new folder, in the format of compressed-tensors.

    Args:
        source: a ``.safetensors`` file, or a folder with one or with an index of several.
        target: a folder that does not exist or is empty; tokenizer and configuration are copied.
        policy: what each layer becomes.
        on_progress: is told how far it is.

    Raises:
        SourceError: the checkpoint is damaged, quantized already, or a weight is not finite.
        PrecisionError: a rule names a layer that cannot have its scheme.
        ConfigurationError: the target is not empty, the disk is too small, or a rule of the user
            matches no layer.
    """
    _check_target(target)
    with Checkpoint(source) as checkpoint:
        if "quantization_config" in checkpoint.config:
            raise SourceError(
                "The checkpoint is quantized already.",
                hint="Quantize the original weights; rounding twice adds the errors of both.",
                reason="AlreadyQuantized",
            )
        plan = _plan(checkpoint, policy)
        _check_space(target, plan)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            report = _write(checkpoint, folder, plan, policy, on_progress)
            if source.is_dir():
                _copy_others(source, folder)
            (folder / REPORT).write_text(report.to_json() + "\n")
            folder.chmod(0o755)
            folder.replace(target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return report


def _plan(checkpoint: Checkpoint, policy: Policy) -> dict[str, list[_Tensor]]:
    """What becomes of every tensor, by the name of the new file."""
    model_type = str(checkpoint.config.get("model_type", ""))
    plan: dict[str, list[_Tensor]] = {}
    for name, file in checkpoint.files.items():
        target = SINGLE if len(checkpoint.files) == 1 else name
        tensors = [_plan_tensor(key, spec, policy, model_type) for key, spec in file.specs.items()]
        plan[target] = tensors
    check_overrides(policy, [t.layer for each in plan.values() for t in each if t.layer])
    return plan


def _plan_tensor(name: str, spec: TensorSpec, policy: Policy, model_type: str) -> _Tensor:
    if spec.dtype not in FLOATS:
        return _Tensor(name, spec, None, None, transposed=False)
    layer = layer_of_tensor(name, spec.shape, model_type)
    if layer is None:
        scheme = None if policy.default == KEEP else SCHEMES[policy.default]
        return _Tensor(name, spec, None, Choice(scheme, policy.default), transposed=False)
    transposed = layer.kind == "linear" and is_transposed(layer.name, model_type)
    return _Tensor(name, spec, layer, policy.choose(layer), transposed)


def _write(
    checkpoint: Checkpoint,
    folder: Path,
    plan: dict[str, list[_Tensor]],
    policy: Policy,
    on_progress: OnProgress | None,
) -> QuantizationReport:
    total, done = checkpoint.nbytes, 0
    files, reports = [], []
    for file_name, tensors in plan.items():
        file = PlannedFile(file_name)
        for tensor in tensors:
            file.specs |= tensor.specs()
        files.append(file)
        with TensorWriter(folder / file_name, file.specs, {"format": "pt"}) as writer:
            for tensor in tensors:
                if on_progress:
                    on_progress(tensor.name, done, total)
                error = _write_tensor(checkpoint, writer, tensor)
                done += tensor.spec.nbytes
                if tensor.layer:
                    reports.append(_report(tensor, error))
    if on_progress:
        on_progress("", total, total)
    tensors = [tensor for each in plan.values() for tensor in each]
    _describe(folder, checkpoint, tensors, policy, files)
    others = [tensor for tensor in tensors if tensor.layer is None]
    return QuantizationReport(
        policy=policy.name,
        method="nearest",
        layers=tuple(reports),
        other_bytes_before=sum(tensor.spec.nbytes for tensor in others),
        other_bytes_after=sum(s.nbytes for tensor in others for s in tensor.specs().values()),
        other_parameters=sum(math.prod(tensor.spec.shape) for tensor in others),
        rest=policy.default,
    )


def _describe(
    folder: Path,
    checkpoint: Checkpoint,
    tensors: list[_Tensor],
    policy: Policy,
    files: list[PlannedFile],
) -> None:
    layers = [planned for tensor in tensors if (planned := tensor.planned_layer())]
    kept = [t.layer.name for t in tensors if t.layer and not t.scheme and t.layer.kind == "linear"]
    own = {"policy": policy.name, "cast": _cast(tensors) if layers else {}}
    write_config(folder, checkpoint.config, layers, kept, own)
    write_index(folder, files)


def _cast(tensors: list[_Tensor]) -> dict[str, str]:
    """Linear layers for which the policy chose a floating point type, by name."""
    return {
        tensor.layer.name: tensor.choice.scheme.name
        for tensor in tensors
        if tensor.layer and tensor.layer.kind == "linear" and not tensor.scheme
        and tensor.choice and tensor.choice.scheme
    }  # fmt: skip


def _write_tensor(checkpoint: Checkpoint, writer: TensorWriter, tensor: _Tensor) -> float | None:
    """Write one tensor; return the relative error of a weight that was rounded."""
    if tensor.scheme is not None and tensor.layer is not None:
        return _write_quantized(checkpoint, writer, tensor, tensor.layer, tensor.scheme)
    rows = tensor.spec.shape[0] if tensor.spec.shape else 0
    step = max(1, CHUNK * tensor.spec.dtype.itemsize // max(tensor.spec.row_bytes, 1))
    if rows <= step:
        writer.write(tensor.name, cast_to(checkpoint.read(tensor.name), tensor.dtype, tensor.name))
        return None
    for first in range(0, rows, step):
        values = checkpoint.read(tensor.name, first, first + step)
        writer.write(tensor.name, cast_to(values, tensor.dtype, tensor.name), first=first)
    return None


def _write_quantized(
    checkpoint: Checkpoint, writer: TensorWriter, tensor: _Tensor, layer: Layer, scheme: Scheme
) -> float:
    squares = norm = 0.0
    for first, values in _row_chunks(checkpoint, tensor, layer):
        matrix = values.flatten(1).float()
        weight = quantize_weight(matrix, scheme, layer=layer.name)
        shape = (len(matrix), *layer.shape[1:])
        for part, piece in encode(weight, scheme, shape).items():
            if part != SHAPE:
                place = _row_of(part, first, scheme)
                writer.write(f"{layer.name}.{part}", piece, first=place)
            elif first == 0:
                writer.write(f"{layer.name}.{part}", torch.tensor(layer.shape))
        squares += float((weight.dequantize(torch.float32) - matrix).square().sum())
        norm += float(matrix.square().sum())
    return math.sqrt(squares / norm) if norm else 0.0


def _row_chunks(
    checkpoint: Checkpoint, tensor: _Tensor, layer: Layer
) -> Iterator[tuple[int, torch.Tensor]]:
    """Rows of a weight with output features first, and the number of the first."""
    step = max(ROWS, CHUNK // layer.columns // ROWS * ROWS)
    # Columns of the file become rows; the models that need it have small layers.
    whole = checkpoint.read(tensor.name).t() if tensor.transposed else None
    for first in range(0, layer.shape[0], step):
        if whole is not None:
            yield first, whole[first : first + step].contiguous()
        else:
            yield first, checkpoint.read(tensor.name, first, first + step)


def _row_of(part: str, first: int, scheme: Scheme) -> int:
    """The row of a stored tensor that belongs to a row of the weight."""
    if part == ZERO:
        return first // 8
    return first // scheme.block[0] if part == SCALE and scheme.block else first


def _report(tensor: _Tensor, error: float | None) -> LayerReport:
    layer, choice = tensor.layer, tensor.choice
    assert layer is not None  # only layers are reported
    assert choice is not None  # every layer has been chosen for
    return LayerReport(
        name=layer.name,
        type=layer.type.value,
        kind=layer.kind,
        wanted=choice.wanted,
        scheme=choice.scheme.name if choice.scheme else KEEP,
        reason=choice.reason,
        parameters=layer.parameters,
        bytes_before=tensor.spec.nbytes,
        bytes_after=sum(spec.nbytes for spec in tensor.specs().values()),
        weight_error=error,
    )


def _copy_others(source: Path, folder: Path) -> None:
    """Copy what belongs to the model beside its weights: tokenizer, vocabulary, settings."""
    for path in sorted(source.iterdir()):
        weights = _WEIGHTS & set(path.suffixes)  # an index too: model.safetensors.index.json
        if weights or path.name.startswith(".") or (folder / path.name).exists():
            continue
        if path.is_file() and path.stat().st_size <= COPIED_BYTES:
            shutil.copyfile(path, folder / path.name)


def _check_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(
            f"'{target}' exists and is not an empty folder.",
            hint="Name a new folder; nothing is ever overwritten.",
        )


def _check_space(target: Path, plan: dict[str, list[_Tensor]]) -> None:
    needed = sum(s.nbytes for each in plan.values() for t in each for s in t.specs().values())
    parent = next(path for path in target.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise ConfigurationError(
            f"The quantized checkpoint takes {needed >> 20} MiB, and {free >> 20} MiB are free in "
            f"'{os.fspath(parent)}'.",
            hint="Choose another folder, or free some space.",
            code=ErrorCode.RESOURCE_EXHAUSTED,
            reason="DiskFull",
        )
