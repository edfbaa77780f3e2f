"""Writing a bundle: files first, the manifest that hashes them last.

All graphs lie in one folder, each with a file of tensors beside it. A tensor that several graphs
have (the fp32 embedding table of ``fp32`` and of ``mixed``, say) is written once, and the later
graphs refer to it where it is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import mmap
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnx
import torch
from deepseek_api.manifest import BundleFile, Manifest, bundle_digest, canonical_bytes
from onnx import TensorProto, numpy_helper
from safetensors.torch import save_file

from deepseek_engine.prepare.architectures import LoadedModel

EXTERNAL_THRESHOLD = 1024
"""Bytes from which a tensor of a graph moves into the file beside it."""
RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "timm",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "gguf",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes lie."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class WrittenGraph:
    """A graph on disk."""

    path: str
    files: tuple[str, ...]
    """The graph and every file that its tensors lie in."""
    tensor_bytes: int
    """Bytes of its constants: weights, scales, zero points, biases."""


@dataclass(slots=True)
class BundleWriter:
    """Writes the files of one bundle into a folder."""

    folder: Path
    _places: dict[str, Place] = field(default_factory=dict)
    _described: dict[str, BundleFile] = field(default_factory=dict)

    def describe(self, path: str) -> BundleFile:
        """Size and hash of a file of the bundle, which must not change afterwards."""
        if path not in self._described:
            with (self.folder / path).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = (self.folder / path).stat().st_size
            self._described[path] = BundleFile(path=path, sha256=digest, bytes=size)
        return self._described[path]

    def write_shared(self, files: Mapping[str, bytes]) -> tuple[BundleFile, ...]:
        """Write what all variants share: tokenizer, labels, the notice of a license."""
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        return tuple(self.describe(name) for name in files)

    def write_graph(self, name: str, graph: onnx.ModelProto) -> WrittenGraph:
        """Write ``NAME.onnx`` and, for tensors not written before, ``NAME.data``.

        The runtime maps the data into memory, and no file meets protobuf's limit of 2 GiB.
        """
        stored = onnx.ModelProto()
        stored.CopyFrom(graph)
        used: dict[str, None] = {}
        total = sum(len(numpy_helper.to_array(t).tobytes()) for t in _inline_constants(stored))
        with (self.folder / f"{name}.data").open("wb") as data:
            for tensor in stored.graph.initializer:
                content = numpy_helper.to_array(tensor).tobytes()
                total += len(content)
                if len(content) >= EXTERNAL_THRESHOLD:
                    place = self._place(content, data_name=f"{name}.data", data=data)
                    _refer(tensor, place)
                    used[place.file] = None
        if f"{name}.data" not in used:
            (self.folder / f"{name}.data").unlink()
        (self.folder / f"{name}.onnx").write_bytes(stored.SerializeToString())
        return WrittenGraph(f"{name}.onnx", (f"{name}.onnx", *used), total)

    def _place(self, content: bytes, *, data_name: str, data: BinaryIO) -> Place:
        key = hashlib.sha256(content).hexdigest()
        if key not in self._places:
            # On page borders, so that the runtime can map single tensors.
            padding = -data.tell() % mmap.ALLOCATIONGRANULARITY
            data.write(b"\0" * padding)
            self._places[key] = Place(data_name, data.tell(), len(content))
            data.write(content)
        return self._places[key]

    def write_torch(
        self, name: str, model: LoadedModel, *, dtype: torch.dtype = torch.float32
    ) -> WrittenGraph:
        """Write weights as safetensors and the description that the torch back end builds from.

        Args:
            name: of the files.
            model: in fp32.
            dtype: of the weights and of the arithmetic; whole numbers keep their type.
        """
        weights = {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
            for key, value in _untied(model.module.state_dict()).items()
        }
        stored, described = self.folder / f"{name}.safetensors", self.folder / f"{name}.json"
        save_file(weights, stored)
        fields = model.torch_description() | {"weights": stored.name}
        if dtype is not torch.float32:
            fields["dtype"] = str(dtype).removeprefix("torch.")
        text = json.dumps(fields, indent=1, sort_keys=True)
        described.write_text(text + "\n")
        # That library lets nobody but the owner read, whatever the umask; a worker is another user.
        stored.chmod(described.stat().st_mode)
        total = sum(value.numel() * value.element_size() for value in weights.values())
        return WrittenGraph(f"{name}.json", (f"{name}.json", f"{name}.safetensors"), total)

    def write_quantized(
        self,
        name: str,
        model: LoadedModel,
        *,
        dtype: torch.dtype,
        quantize: Callable[[Path, Path], object],
    ) -> WrittenGraph:
        """Write a quantized checkpoint ``NAME/`` and the description beside it.

        Args:
            name: of the folder and of the description.
            model: in fp32.
            dtype: of the arithmetic, and of weights that are not quantized.
            quantize: makes a checkpoint (second folder) of a plain one (first folder).
        """
        target = self.folder / name
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as plain:
            save_file(_contiguous(model.module.state_dict()), Path(plain) / "model.safetensors")
            config = dict(model.torch_config)
            (Path(plain) / "config.json").write_text(json.dumps(config))
            quantize(Path(plain), target)
        fields = model.torch_description() | {
            "weights": f"{name}/model.safetensors",
            "format": "compressed-tensors",
            "dtype": str(dtype).removeprefix("torch."),
        }
        described = self.folder / f"{name}.json"
        described.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
        for path in target.iterdir():
            path.chmod(described.stat().st_mode)
        files = sorted(f"{name}/{path.name}" for path in target.iterdir())
        total = sum(path.stat().st_size for path in target.glob("*.safetensors"))
        return WrittenGraph(described.name, (described.name, *files), total)

    def write_manifest(self, manifest: Manifest) -> str:
        """Write ``manifest.json`` in its canonical form; return the bundle's digest."""
        (self.folder / "manifest.json").write_bytes(canonical_bytes(manifest))
        return bundle_digest(manifest)


def _contiguous(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.contiguous() for key, value in state.items()}


def _untied(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor once: of several names for one (a table that is also the head) the first."""
    seen: dict[tuple[int, torch.Size], str] = {}
    for name, value in state.items():
        seen.setdefault((value.data_ptr() or id(value), value.shape), name)
    return {name: state[name] for name in seen.values()}


def _inline_constants(graph: onnx.ModelProto) -> list[TensorProto]:
    constants = (node for node in graph.graph.node if node.op_type == "Constant")
    return [a.t for node in constants for a in node.attribute if a.name == "value"]


def _refer(tensor: TensorProto, place: Place) -> None:
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
        tensor.ClearField(name)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", place.file),
        ("offset", place.offset),
        ("length", place.length),
    ):
        tensor.external_data.add(key=key, value=str(value))


def tool_versions() -> dict[str, str]:
    """Versions of everything that decides about a bundle's content."""
    return {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
