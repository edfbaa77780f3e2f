"""The two real models of the quickstart, as their packages ship them.

MiniLM is judged by the cosine between its sentence vectors and those of fp32, EfficientNet by the
best class where fp32 is sure of one. Neither is calibrated with what it is judged with.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from deepseek_api.catalog import builtin_catalog
from deepseek_api.processing import ImagePreprocessing
from deepseek_engine.codec import Array
from deepseek_engine.prepare.architectures import LoadedModel, load_model
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.export import PooledEncoder
from deepseek_engine.prepare.measure import cosines
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.samples import Crops, sentences
from deepseek_engine.prepare.sources import open_source
from deepseek_engine.tasks.image import softmax
from tokenizers import Tokenizer
from torch import nn

from benchmarks.accuracy.digits import TRANSFORMER
from benchmarks.accuracy.subject import Effort, Make, Score, Subject, Train, Trained
from benchmarks.machine import ROOT

__all__ = ["SUBJECTS"]

SENTENCES = ROOT / "tests" / "data" / "sentences.txt"
CROPS, CROPS_SEED, CALIBRATION_CROPS, CALIBRATION_SEED = 120, 3, 16, 1
SURE = 0.5


def _load(name: str) -> LoadedModel:
    entry = builtin_catalog().get(name)
    request = PrepareRequest(name=name, uri=entry.source.uri, entry=entry.to_wire())
    return load_model(request, open_source(request, Reporter(io.BytesIO())))


def _minilm(seed: int, effort: Effort, train: Train) -> Trained:
    model = _load("minilm")
    tokenizer = Tokenizer.from_str(model.shared_files["tokenizer.json"].decode())
    lines = [line for line in SENTENCES.read_text("utf-8").splitlines() if line.strip()]
    judged = _ids(tokenizer, lines[: effort.steps(len(lines))])
    exact = _vectors(model.module, judged)

    def score(module: nn.Module) -> Score:
        values = cosines(exact, _vectors(module, judged))
        return Score(float(values.sum()), len(values))

    return Trained(model.module, _ids(tokenizer, sentences()), score, dict(model.torch_config))


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": torch.tensor([e.ids])} for e in tokenizer.encode_batch(texts)]


def _vectors(module: nn.Module, feeds: Sequence[dict[str, torch.Tensor]]) -> Array:
    """One vector a sentence ``[N, 384]``, sentences one by one."""
    found = []
    with torch.inference_mode():
        for feed in feeds:
            hidden = module(**feed).last_hidden_state
            found.append(PooledEncoder.pool(hidden, torch.ones_like(feed["input_ids"]), "mean"))
    vectors: Array = torch.cat(found).numpy()
    return vectors


def _efficientnet(seed: int, effort: Effort, train: Train) -> Trained:
    model = _load("efficientnet-lite0")
    settings = model.preprocessing
    assert isinstance(settings, ImagePreprocessing)  # the catalog's entry says so
    judged = torch.from_numpy(Crops(settings, seed=CROPS_SEED).pixels(effort.steps(CROPS)))
    known = torch.from_numpy(Crops(settings, seed=CALIBRATION_SEED).pixels(CALIBRATION_CROPS))
    chances = softmax(_logits(model.module, judged))
    sure = chances.max(1) >= SURE
    best = chances.argmax(1)

    def score(module: nn.Module) -> Score:
        same = (_logits(module, judged).argmax(1) == best)[sure]
        return Score(float(np.sum(same)), len(same))

    return Trained(model.module, list(torch.split(known, 4)), score, {})


def _logits(module: nn.Module, pixels: torch.Tensor) -> Array:
    with torch.inference_mode():
        scores: Array = torch.cat([module(part) for part in torch.split(pixels, 8)]).numpy()
    return scores


def _real(name: str, metric: str, make: Make, variants: tuple[str, ...]) -> Subject:
    return Subject(name, metric, "higher", make, variants, seeds=(0,))


SUBJECTS = (
    _real(
        "MiniLM",
        "mean cosine with fp32",
        _minilm,
        (*TRANSFORMER, "int4 g32 nearest", "int4 g32 gptq"),
    ),
    _real(
        "EfficientNet-Lite0",
        "top-1 agreement with fp32",
        _efficientnet,
        ("int8", "mixed", "mixed with an int8 head"),
    ),
)
