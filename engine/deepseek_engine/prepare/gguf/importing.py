"""A GGUF file into a folder that looks like one of the hub's, in little memory.

Why it exists: see the package. A weight is read, dequantized, brought into the hub's form and
written some rows at a time, so that memory does not grow with the model. What the file stores in
16 or 32 bits keeps its type; quantized numbers become fp32, which holds every one of them exactly,
or bf16 on request.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from deepseek_api.errors import SourceError
from gguf.constants import GGMLQuantizationType

from deepseek_engine.prepare.gguf.configs import generation_config, hub_config
from deepseek_engine.prepare.gguf.names import IGNORED, architecture_of
from deepseek_engine.prepare.gguf.reading import GgufFile, GgufTensor
from deepseek_engine.prepare.gguf.tokenizing import tokenizer_files
from deepseek_engine.quant.tensor_files import TensorSpec, TensorWriter

__all__ = ["IMPORT_VERSION", "import_gguf"]

IMPORT_VERSION: Final = 1
"""Raised whenever the same file would yield another folder."""
CHUNK: Final = 1 << 22
"""Numbers that are dequantized at a time; about ten times as many bytes are in use."""
_PLAIN: Final = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}

OnProgress = Callable[[int, int], None]
"""Called with the bytes that are done and all bytes."""


def import_gguf(
    path: Path,
    folder: Path,
    *,
    dequantized: torch.dtype = torch.float32,
    on_progress: OnProgress = lambda done, total: None,
) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer's files.

    Args:
        path: the file.
        folder: exists and is empty.
        dequantized: what quantized numbers become.
        on_progress: is told how far it is.

    Raises:
        SourceError: the file is damaged, or of an architecture, a tokenizer or a quantization that
            cannot be read; or a tensor is missing.
    """
    with GgufFile(path) as file:
        architecture = architecture_of(file.metadata.get("general.architecture"))
        if "token_embd.weight" not in file.tensors:
            raise _lacking(path.name, ["token_embd.weight"])
        config = hub_config(file)
        names = {name: architecture.hub_name(name) for name in file.tensors if name not in IGNORED}
        _check_layers(file, config["num_hidden_layers"])
        for name, content in tokenizer_files(file.metadata, path.name).items():
            (folder / name).write_text(content, "utf-8", errors="replace")
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", generation_config(file.metadata))
        specs = {
            hub: TensorSpec(_PLAIN.get(file.tensors[name].type, dequantized),
                            file.tensors[name].shape)
            for name, hub in names.items()
        }  # fmt: skip
        total = sum(spec.nbytes for spec in specs.values())
        done = 0
        with TensorWriter(folder / "model.safetensors", specs, {"format": "pt"}) as writer:
            for name, hub in names.items():
                convert = architecture.converter(name, config["head_dim"])
                step = _rows_at_once(file.tensors[name], config["head_dim"])
                for first in range(0, file.tensors[name].rows, step):
                    rows = convert(file.read(name, first, first + step)).to(specs[hub].dtype)
                    _write_rows(writer, hub, specs[hub], rows, first)
                    done += rows.nbytes
                    on_progress(done, total)


def _write_rows(
    writer: TensorWriter, name: str, spec: TensorSpec, rows: torch.Tensor, first: int
) -> None:
    """Write rows of a matrix, or the one row that a vector is."""
    if len(spec.shape) == 1:
        writer.write(name, rows.reshape(spec.shape))
    else:
        writer.write(name, rows.reshape(-1, *spec.shape[1:]), first=first)


def _rows_at_once(tensor: GgufTensor, head_dim: int) -> int:
    """Whole heads, so that rows can be turned inside a piece."""
    return max(1, CHUNK // tensor.shape[-1] // head_dim) * head_dim


def _check_layers(file: GgufFile, layers: int) -> None:
    present = {int(name.split(".")[1]) for name in file.tensors if name.startswith("blk.")}
    wrong = present ^ set(range(layers))
    if wrong:
        raise _lacking(file.path.name, [f"blk.{layer}" for layer in sorted(wrong)])


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _lacking(name: str, what: list[str]) -> SourceError:
    return SourceError(
        f"'{name}' does not hold what its own header says: {', '.join(what[:4])} "
        "is missing or too much.",
        hint="Fetch the file again and compare its size and hash with the publisher's.",
        reason="TensorMissing",
    )
