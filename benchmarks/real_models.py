"""The two real models of the quickstart: speed beside ONNX Runtime fp32, and agreement with it."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from deepseek_api.manifest import Variant
from deepseek_api.processing import ImagePreprocessing
from deepseek_api.vocabulary import Precision
from deepseek_engine.backends import BackendOptions, open_backend
from deepseek_engine.bundles import open_bundle
from deepseek_engine.codec import Array
from deepseek_engine.prepare.measure import cosines
from deepseek_engine.prepare.samples import Crops
from deepseek_engine.tasks.image import softmax
from tokenizers import Tokenizer

from benchmarks.driver import BenchError, children, interleave
from benchmarks.inputs import tokenize, write_arrays
from benchmarks.machine import ROOT, Stamp
from benchmarks.models import BenchModel, efficientnet, minilm
from benchmarks.peers import ORT_FP32, SPINNING
from benchmarks.record import Record
from benchmarks.settings import Run
from benchmarks.stats import Rounds

__all__ = ["run"]

SENTENCES = ROOT / "tests" / "data" / "sentences.txt"
BATCH = 8
TIMED_SENTENCES = 96
TIMED_PICTURES = 16
WAYS = {"engine": "as served", "backend": "back end alone"}
JUDGED_CROPS, JUDGED_SEED = 180, 3
"""Other crops than those that calibrate (seed 1) and judge (seed 2) a bundle."""
SURE = 0.5
PACKAGES = ("onnxruntime", "numpy", "tokenizers", "pillow", "scikit-image")


def run(given: Run) -> list[Record]:
    """Measure speed interleaved, then agreement on texts and crops that prepare never saw."""
    stamp = Stamp.take("real_models", PACKAGES, settings=SPINNING)
    return [*_texts(stamp, given), *_pictures(stamp, given)]


def _sentences() -> list[str]:
    if not SENTENCES.is_file():
        raise BenchError(f"{SENTENCES.relative_to(ROOT)} is missing; it has the sentences.")
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _texts(stamp: Stamp, given: Run) -> list[Record]:
    model, sentences = minilm(given.say), _sentences()
    count = max(BATCH, given.effort.calls(TIMED_SENTENCES))
    # Every k-th sentence: the lengths of the file as a whole.
    timed = sentences[:: max(1, len(sentences) // count)][:count]
    ways = {
        "one by one": [[text] for text in timed],
        f"batches of {BATCH}": [timed[i : i + BATCH] for i in range(0, len(timed), BATCH)],
    }
    records = []
    for way, texts in ways.items():
        given.say(f"MiniLM, {way}")
        common = {"texts": texts, "threads": given.threads, "tokenizer": model.tokenizer}
        taken = _time(model, common, given, rows=sum(map(len, texts)))
        records += _speeds(stamp, model, "MiniLM", way, taken, unit="ms/sentence")
    given.say("MiniLM: agreement")
    tokenizer = Tokenizer.from_file(model.tokenizer)
    feeds = [tokenize(tokenizer, [text]) for text in sentences]
    reference = _answers(model, model.chosen(Precision.FP32), feeds, given)
    for precision in (Precision.INT8, Precision.AUTO):
        variant = model.chosen(precision)
        values = cosines(reference, _answers(model, variant, feeds, given))
        facts = {"mean cosine with fp32": values.mean(), "worst cosine with fp32": values.min()}
        records += _agreements(stamp, model, variant, f"MiniLM {precision}", facts, len(values))
    return records


def _pictures(stamp: Stamp, given: Run) -> list[Record]:
    model = efficientnet(given.say)
    settings = model.manifest.preprocessing
    assert isinstance(settings, ImagePreprocessing)  # classifiers of images have no other
    name = model.manifest.signature.inputs[0].name
    crops = Crops(settings, seed=JUDGED_SEED).pixels(given.effort.calls(JUDGED_CROPS))
    feeds = [{name: crop[None]} for crop in crops]
    timed = feeds[: max(2, given.effort.calls(TIMED_PICTURES))]
    given.say("EfficientNet, one by one")
    arrays = write_arrays(given.folder / "pictures.npz", timed)
    taken = _time(model, {"arrays": arrays, "threads": given.threads}, given, rows=len(timed))
    way = "one by one"
    records = _speeds(stamp, model, "EfficientNet", way, taken, unit="ms/picture")
    given.say("EfficientNet: agreement")
    reference = softmax(_answers(model, model.chosen(Precision.FP32), feeds, given))
    sure = reference.max(axis=1) >= SURE
    variant = model.chosen(Precision.INT8)
    best = _answers(model, variant, feeds, given).argmax(axis=1)
    same = (best == reference.argmax(axis=1))[sure]
    facts = {"top-1 agreement with fp32": same.mean()} if same.size else {}
    case = f"EfficientNet {Precision.INT8}"
    return records + _agreements(stamp, model, variant, case, facts, same.size)


def _time(
    model: BenchModel, common: Mapping[str, Any], given: Run, *, rows: int
) -> dict[str, Rounds]:
    """Milliseconds a row, by subject; every round counts the whole pass over all inputs."""
    bundle = {**common, "bundle": str(model.folder)}
    specs: dict[str, dict[str, Any]] = {ORT_FP32: {**common, "kind": "session"}}
    specs[ORT_FP32]["graph"] = model.fp32
    for precision in _distinct(model):
        for kind, way in WAYS.items():
            specs[f"{precision} {way}"] = {**bundle, "kind": kind, "precision": precision}
    with children(specs) as subjects:
        taken = interleave(subjects, rounds=given.effort.rounds, passes=1)
    return {
        name: Rounds(tuple(sum(turn) / rows for turn in turns), n=sum(map(len, turns)))
        for name, turns in taken.items()
    }


def _distinct(model: BenchModel) -> list[Precision]:
    """``auto``, and ``int8`` where it is another variant."""
    same = model.chosen(Precision.INT8).id == model.chosen(Precision.AUTO).id
    return [Precision.AUTO] if same else [Precision.AUTO, Precision.INT8]


def _speeds(
    stamp: Stamp,
    model: BenchModel,
    title: str,
    way: str,
    taken: Mapping[str, Rounds],
    *,
    unit: str,
) -> list[Record]:
    return [
        stamp.versus(
            f"{title} {precision} {kind}, {way} ({model.chosen(precision).id})",
            "latency",
            unit,
            subject=taken[f"{precision} {kind}"],
            peer=ORT_FP32,
            peer_rounds=taken[ORT_FP32],
            better="lower",
        )
        for precision in _distinct(model)
        for kind in WAYS.values()
    ]


def _answers(
    model: BenchModel, variant: Variant, feeds: Sequence[Mapping[str, Array]], given: Run
) -> Array:
    """Answers of a variant to all feeds, one by one ``[N, ...]``."""
    bundle = open_bundle(model.folder, model.digest)
    backend = open_backend(bundle, variant, BackendOptions(threads=given.threads))
    name = backend.outputs[0].name
    answers = np.concatenate([backend.run(feed)[name] for feed in feeds])
    backend.close()
    gc.collect()  # one session at a time
    return answers


def _agreements(
    stamp: Stamp,
    model: BenchModel,
    variant: Variant,
    case: str,
    facts: Mapping[str, float],
    samples: int,
) -> list[Record]:
    """What was found here, what the manifest says, and the size beside fp32."""
    case = f"{case} ({variant.id})"
    records = [
        stamp.fact(case, metric, "", value=float(value), n=samples)
        for metric, value in facts.items()
    ]
    if variant.agreement is not None:
        stated = variant.agreement
        metric = f"{stated.metric} of the manifest, mean"
        records.append(stamp.fact(case, metric, "", value=stated.mean, n=stated.samples))
    part = variant.tensor_bytes / model.chosen(Precision.FP32).tensor_bytes * 100
    return [*records, stamp.fact(case, "tensor bytes of fp32", "%", value=part)]
