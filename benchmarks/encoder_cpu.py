"""BERT-base on the processor, batch 1, 128 tokens: ours beside ONNX Runtime and torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from deepseek_api.vocabulary import Precision
from deepseek_engine.codec import Array

from benchmarks.driver import BenchError, Child, children, interleave
from benchmarks.inputs import write_arrays
from benchmarks.machine import Stamp
from benchmarks.models import BenchModel, bert, plain_int8
from benchmarks.peers import ORT_FP32, ORT_INT8, SPINNING, TORCH_FP32
from benchmarks.record import Record
from benchmarks.settings import Run
from benchmarks.stats import Rounds

__all__ = ["TOKENS", "run", "token_input"]

TOKENS = 128
CALLS = 10
PEERS = (ORT_FP32, ORT_INT8, TORCH_FP32)
PACKAGES = ("onnxruntime", "torch", "transformers", "numpy")
SAME_FP32, SAME_INT8 = 0.9999, 0.9
"""Least cosine with the fp32 graph; less means that a peer computes something else."""
WAYS = {"engine": "as served", "backend": "back end alone"}


def token_input(*, tokens: int = TOKENS, seed: int = 0) -> dict[str, Array]:
    """One row of random token ids without padding."""
    ids = np.random.default_rng(seed).integers(1000, 30000, (1, tokens), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def run(given: Run) -> list[Record]:
    """Measure latency of one call, interleaved."""
    model = bert(given.say)
    int8 = plain_int8(model, given.say)
    specs = _specs(model, int8, given)
    calls = given.effort.calls(CALLS)
    given.say(f"starting {len(specs)} subjects")
    with children(specs) as subjects:
        _check(subjects)
        given.say(f"{given.effort.rounds} rounds of {calls} calls each")
        taken = interleave(subjects, rounds=given.effort.rounds, passes=calls)
        chosen = {name: child.choice for name, child in subjects.items()}
    rounds = {
        name: Rounds(tuple(map(statistics.median, turns)), n=sum(map(len, turns)))
        for name, turns in taken.items()
    }
    if not any(name.startswith("auto") for name in rounds):
        for way in WAYS.values():  # the same variant: one measurement has both names
            rounds[f"auto {way}"] = rounds[f"int8 {way}"]
            chosen[f"auto {way}"] = chosen[f"int8 {way}"]
    return _records(Stamp.take("encoder_cpu", PACKAGES, settings=SPINNING), rounds, chosen)


def _specs(model: BenchModel, int8: str, given: Run) -> dict[str, dict[str, Any]]:
    arrays = write_arrays(given.folder / "tokens.npz", [token_input()])
    common: dict[str, Any] = {"arrays": arrays, "threads": given.threads}
    bundle = {**common, "bundle": str(model.folder)}
    specs: dict[str, dict[str, Any]] = {
        ORT_FP32: {**common, "kind": "session", "graph": model.fp32},
        ORT_INT8: {**common, "kind": "session", "graph": int8},
        TORCH_FP32: {**bundle, "kind": "torch", "description": model.torch_description},
    }
    for precision in _distinct(model):
        for kind, way in WAYS.items():
            specs[f"{precision} {way}"] = {**bundle, "kind": kind, "precision": precision}
    return specs


def _distinct(model: BenchModel) -> list[Precision]:
    """``auto`` is measured apart only where it is another variant than ``int8``."""
    int8, auto = model.chosen(Precision.INT8), model.chosen(Precision.AUTO)
    return [Precision.INT8] if int8.id == auto.id else [Precision.INT8, Precision.AUTO]


def _check(subjects: Mapping[str, Child]) -> None:
    """Refuse to compare subjects that do not compute the same.

    Raises:
        BenchError: an answer is far from that of the fp32 graph.
    """
    reference = np.asarray(subjects[ORT_FP32].first)
    for name, child in subjects.items():
        answer = np.asarray(child.first)
        cosine = float(answer @ reference / (np.linalg.norm(answer) * np.linalg.norm(reference)))
        least = SAME_FP32 if name == TORCH_FP32 else SAME_INT8
        if not cosine >= least:
            raise BenchError(f"'{name}' computes something else than fp32: cosine {cosine:.4f}.")


def _records(stamp: Stamp, rounds: Mapping[str, Rounds], chosen: Mapping[str, str]) -> list[Record]:
    records = []
    for name in (name for name in rounds if name not in PEERS):
        for peer in PEERS:
            records.append(
                stamp.versus(
                    f"{name} ({chosen[name]})",
                    "latency",
                    "ms",
                    subject=rounds[name],
                    peer=peer,
                    peer_rounds=rounds[peer],
                    better="lower",
                )
            )
    return records
