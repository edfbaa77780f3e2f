"""What is timed: a plain session, our back end, our engine, or torch, on the same inputs.

Why it exists: every subject runs in a process of its own (:mod:`benchmarks.child`), so that no
thread pool of one spins while another one is measured. This module is that process' inside and
must not be imported by the process that drives a bench. Libraries are imported by the subject that
needs them: ours must run without torch.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deepseek_engine.codec import Array

from benchmarks.inputs import BenchInput, read_inputs, tokenize

__all__ = ["KINDS", "make_subject"]

Feed = Mapping[str, Array]
WARM_UPS = 3
MODEL = "model"


class Subject:
    """Something that answers inputs; every input is one call."""

    choice = ""
    """The variant that was chosen, where something chooses."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.inputs = read_inputs(spec)

    def call(self, given: BenchInput) -> Array:
        """One call: the vectors or logits of an input."""
        raise TypeError("a subject must say what a call is")

    def first(self) -> Array:
        """Warm up, then answer the first input."""
        for _ in range(WARM_UPS):
            answer = self.call(self.inputs[0])
        return answer

    def turn(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Milliseconds of every call, all inputs ``passes`` times."""
        self.call(self.inputs[0])  # wakes what slept since the last turn
        return {"ms": [_timed(self.call, x) for _ in range(command["passes"]) for x in self.inputs]}

    def close(self) -> None:
        """Free what is open."""


class PlainSession(Subject):
    """ONNX Runtime with its default options but for the number of threads, as its docs show it."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        import onnxruntime as ort

        super().__init__(spec)
        options = ort.SessionOptions()
        options.intra_op_num_threads = spec["threads"]
        self._session = ort.InferenceSession(
            spec["graph"], options, providers=["CPUExecutionProvider"]
        )
        self._feed = _feeder(spec.get("tokenizer", ""))

    def call(self, given: BenchInput) -> Array:
        """Tokenize texts, run the session."""
        answer: Array = self._session.run(None, dict(self._feed(given)))[0]
        return answer


class OurBackend(Subject):
    """The serving back end on the variant that serves a precision here, without engine or queue."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        from deepseek_api.manifest import choose_variant
        from deepseek_api.vocabulary import Precision
        from deepseek_engine.backends import BackendOptions, open_backend
        from deepseek_engine.bundles import open_bundle
        from deepseek_engine.hardware import detect_cpu

        super().__init__(spec)
        bundle = open_bundle(spec["bundle"])
        variant = choose_variant(
            bundle.manifest, Precision(spec["precision"]), detect_cpu().instruction_sets
        )
        self.choice = variant.id
        self._backend = open_backend(bundle, variant, BackendOptions(threads=spec["threads"]))
        self._output = self._backend.outputs[0].name
        self._feed = _feeder(spec.get("tokenizer", ""))

    def call(self, given: BenchInput) -> Array:
        """Tokenize texts, run the back end."""
        return self._backend.run(self._feed(given))[self._output]

    def close(self) -> None:
        """Close the back end."""
        self._backend.close()


class OurEngine(Subject):
    """The whole engine inside this process: checks, queue, batching, pooling, norm."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        from deepseek_engine.engine import Engine
        from deepseek_engine.messages import EngineConfig, ModelConfig

        super().__init__(spec)
        model = ModelConfig(name=MODEL, bundle=spec["bundle"], precision=spec["precision"])
        self._runner = asyncio.Runner()
        config = EngineConfig(models=(model,), threads=spec["threads"])

        async def start() -> Engine:
            return await Engine(config).__aenter__()

        self._engine = self._runner.run(start())
        info = self._engine.models()[MODEL]
        if info.message:
            raise RuntimeError(info.message)
        self.choice = info.variant
        # What metadata lists last holds everything; logits and vectors are compared, not labels.
        floats = [spec.name for spec in info.outputs if spec.datatype == "FP32"]
        self._output = floats[-1]

    def call(self, given: BenchInput) -> Array:
        """One request."""
        return self._runner.run(self._infer(given))

    def turn(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """All calls inside one run of the event loop, which is how a server calls the engine."""
        return {"ms": self._runner.run(self._turn(command["passes"]))}

    def close(self) -> None:
        """Close engine and loop."""
        self._runner.run(self._engine.close())
        self._runner.close()

    async def _turn(self, passes: int) -> list[float]:
        await self._infer(self.inputs[0])
        taken = []
        for given in self.inputs * passes:
            started = time.perf_counter()
            await self._infer(given)
            taken.append((time.perf_counter() - started) * 1e3)
        return taken

    async def _infer(self, given: BenchInput) -> Array:
        from deepseek_engine.codec import to_array
        from deepseek_engine.messages import InferenceRequest

        request = InferenceRequest(MODEL, given.tensors(), outputs=(self._output,))
        response = await self._engine.infer(request)
        return to_array(response.outputs[0])


class TorchEager(Subject):
    """The class of transformers on its own weights and with its own choice of attention."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        import torch
        import transformers
        from safetensors.torch import load_file

        super().__init__(spec)
        torch.set_num_threads(spec["threads"])
        folder = Path(spec["bundle"])
        fields = json.loads((folder / spec["description"]).read_bytes())
        known = {k: v for k, v in fields["config"].items() if not k.startswith("_")}
        config = transformers.AutoConfig.for_model(**known)
        self._module = getattr(transformers, fields["architecture"])(
            config, add_pooling_layer=False
        )
        self._module.load_state_dict(load_file(folder / fields["weights"]))
        self._module.eval()
        self._torch = torch

    def call(self, given: BenchInput) -> Array:
        """Token vectors, averaged over the mask."""
        torch = self._torch
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array) for name, array in given.arrays.items()}
            hidden = self._module(**tensors).last_hidden_state
            mask = tensors["attention_mask"][:, :, None].float()
            pooled: Array = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
        return pooled


KINDS: dict[str, type[Subject]] = {
    "session": PlainSession,
    "backend": OurBackend,
    "engine": OurEngine,
    "torch": TorchEager,
}
"""Subjects by the name that a specification uses."""


def make_subject(spec: Mapping[str, Any]) -> Any:
    """The subject of a specification."""
    if spec["kind"] == "callers":
        from benchmarks.callers import Callers

        return Callers(spec)
    if spec["kind"].startswith("generation"):
        from benchmarks.generation_subjects import GENERATION_KINDS

        return GENERATION_KINDS[spec["kind"]](spec)
    return KINDS[spec["kind"]](spec)


def _timed(call: Callable[[BenchInput], object], given: BenchInput) -> float:
    started = time.perf_counter()
    call(given)
    return (time.perf_counter() - started) * 1e3


def _feeder(tokenizer: str) -> Callable[[BenchInput], Feed]:
    """From an input to what a graph takes; tokenizing is part of the timed call, as in serving."""
    if not tokenizer:
        return lambda given: given.arrays
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(tokenizer)
    return lambda given: tokenize(loaded, given.texts)
