"""Judging variants: agreement with fp32 and speed, on real inputs, and which one ``auto`` means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import onnxruntime as ort
import torch
from deepseek_api.errors import SourceError
from deepseek_api.manifest import Agreement, Variant
from deepseek_api.processing import ImagePreprocessing, TextPreprocessing
from tokenizers import Tokenizer

from deepseek_engine.codec import Array
from deepseek_engine.prepare.architectures import LoadedModel
from deepseek_engine.prepare.export import PooledEncoder
from deepseek_engine.prepare.measure import Feed, answers, cosines
from deepseek_engine.prepare.quant.policy import measured_best
from deepseek_engine.prepare.samples import Crops, sentences, whole_photographs
from deepseek_engine.tasks.image import softmax

EXPORT_BOUND = 0.9999
"""The least cosine between an exported fp32 graph and the torch module that it came from."""
COSINE_BOUND, TOP1_BOUND = 0.994, 0.99
"""What a variant's mean must reach for ``auto`` to choose it."""
WORST_COSINE = 0.985
"""What its worst sentence must reach besides: a good mean hides a few bad answers."""
SURE = 0.5
"""Top-1 agreement counts pictures to whose best class fp32 gives at least this probability."""
SPEED_TOKENS = 64
JUDGING_CROPS, JUDGING_SEED = 90, 2
CHECKED = 4
"""Samples on which the export is compared with the module."""


class Judge(Protocol):
    """Inputs of one family, and how answers to them are compared."""

    feeds: Sequence[Feed]
    speed_feed: Feed
    speed_shape: str

    def compare(self, reference: Array, given: Array) -> Agreement:
        """Compare answers ``[N, ...]`` to :attr:`feeds` with those of fp32."""
        ...


def make_judge(model: LoadedModel) -> Judge:
    """The judge of a model's family."""
    return EncoderJudge(model) if model.family == "encoder" else VisionJudge(model)


class EncoderJudge:
    """Sentences one by one; cosine between sentence vectors."""

    def __init__(self, model: LoadedModel) -> None:
        assert isinstance(model.preprocessing, TextPreprocessing)  # encoders have no other
        text = model.shared_files[model.preprocessing.tokenizer].decode()
        tokenizer = Tokenizer.from_str(text)
        encoded = [encoding.ids for encoding in tokenizer.encode_batch(sentences())]
        self.feeds: Sequence[Feed] = [_token_feed(ids) for ids in encoded]
        length = min(SPEED_TOKENS, model.preprocessing.max_length)
        stream = [token for ids in encoded for token in ids]
        self.speed_feed: Feed = _token_feed(stream[:length])
        self.speed_shape = f"1x{length} tokens"

    def compare(self, reference: Array, given: Array) -> Agreement:
        """Cosine of each sentence's vector with that of fp32."""
        return _agreement(
            "cosine",
            cosines(reference, given),
            bound=COSINE_BOUND,
            worst_bound=WORST_COSINE,
            reference="fp32 graph, sentences one by one",
        )


class VisionJudge:
    """Photographs and crops one by one; the same best class where fp32 is sure of it."""

    def __init__(self, model: LoadedModel) -> None:
        assert isinstance(model.preprocessing, ImagePreprocessing)  # vision models have no other
        crops = Crops(model.preprocessing, seed=JUDGING_SEED).pixels(JUDGING_CROPS)
        pictures = np.concatenate([whole_photographs(model.preprocessing), crops])
        name = model.signature.inputs[0].name
        self.feeds: Sequence[Feed] = [{name: picture[None]} for picture in pictures]
        self.speed_feed: Feed = self.feeds[0]
        size = model.preprocessing.size
        self.speed_shape = f"1x3x{size}x{size} pixels"

    def compare(self, reference: Array, given: Array) -> Agreement:
        """Whether the best class is the same, for pictures that fp32 is sure of."""
        probabilities = softmax(reference)
        same = probabilities.argmax(axis=1) == given.argmax(axis=1)
        sure = probabilities.max(axis=1) >= SURE
        # Random weights are sure of nothing: then every picture counts.
        counted = same[sure] if sure.any() else same
        return _agreement(
            "top1",
            counted.astype(np.float64),
            bound=TOP1_BOUND,
            reference=f"fp32 graph, photographs and crops with fp32 probability >= {SURE}",
        )


def _agreement(
    metric: Literal["cosine", "top1"],
    values: Array,
    *,
    bound: float,
    reference: str,
    worst_bound: float | None = None,
) -> Agreement:
    return Agreement(
        metric=metric,
        mean=round(float(values.mean()), 6),
        worst=round(float(values.min()), 6),
        samples=len(values),
        bound=bound,
        worst_bound=worst_bound,
        reference=reference,
    )


def _token_feed(ids: Sequence[int]) -> Feed:
    row = np.asarray([ids], dtype=np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def verify_export(model: LoadedModel, session: ort.InferenceSession, judge: Judge) -> None:
    """Compare the exported graph with the torch module on real inputs, one by one and padded.

    Raises:
        SourceError: they do not agree; serving the graph would give wrong answers.
    """
    feeds = list(judge.feeds[:CHECKED])
    if model.family == "encoder":
        feeds.append(_padded_pair(judge.feeds[0], judge.feeds[1]))
    for feed in feeds:
        worst = float(cosines(run_module(model, feed), answers(session, [feed])[0]).min())
        if not worst >= EXPORT_BOUND:
            raise SourceError(
                f"The exported graph of '{model.architecture}' does not agree with the model: "
                f"cosine {worst:.5f}, at least {EXPORT_BOUND} is needed.",
                hint="This architecture cannot be served; nothing was written.",
                reason="ExportDisagrees",
            )


def _padded_pair(first: Feed, second: Feed) -> Feed:
    """Two texts in one batch, the shorter one padded."""
    width = max(first["input_ids"].shape[1], second["input_ids"].shape[1])
    return {
        name: np.concatenate(
            [
                np.pad(feed[name], ((0, 0), (0, width - feed[name].shape[1])))
                for feed in (first, second)
            ]
        )
        for name in ("input_ids", "attention_mask")
    }


def run_module(model: LoadedModel, feed: Feed) -> Array:
    """What the torch module answers in fp32, with its library's own handling of masks."""
    kind = next(model.module.parameters()).dtype
    tensors = {name: torch.from_numpy(value) for name, value in feed.items()}
    tensors = {n: t.to(kind) if t.is_floating_point() else t for n, t in tensors.items()}
    with torch.inference_mode():
        if model.family == "vision":
            logits: Array = model.module(*tensors.values()).float().numpy()
            return logits
        hidden = model.module(**tensors).last_hidden_state.float()
        pooling = getattr(model.postprocessing, "pooling", "mean")
        pooled: Array = PooledEncoder.pool(hidden, tensors["attention_mask"], pooling).numpy()
        return pooled


@dataclass(frozen=True, slots=True)
class Ranking:
    """Variants that a processor can run, as ``auto`` sees them."""

    fp32: Variant
    others: Sequence[Variant]

    def best(self) -> Variant:
        """The fastest measured variant within its agreement bound; fp32 if none is faster."""
        return measured_best(
            self.fp32, self.others, keeps_bound=_within_bound, milliseconds=_median_ms
        )


def _within_bound(variant: Variant) -> bool:
    agreement = variant.agreement
    if agreement is None or agreement.mean < agreement.bound:
        return False
    return agreement.worst_bound is None or agreement.worst >= agreement.worst_bound


def _median_ms(variant: Variant) -> float | None:
    return variant.speed.median_ms if variant.speed else None
