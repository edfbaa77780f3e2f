"""How variants of each family are judged: inputs of its kind, and what counts as agreement.

The inputs are not those that calibrate a variant. Where fp32 itself is not sure of an answer,
another answer is no fault: such samples are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from deepseek_api.manifest import Agreement
from deepseek_api.processing import ImagePreprocessing, TextPreprocessing, VolumePreprocessing
from tokenizers import Tokenizer

from deepseek_engine.codec import Array
from deepseek_engine.prepare.architectures import LoadedModel
from deepseek_engine.prepare.known import Family
from deepseek_engine.prepare.measure import Feed, cosines
from deepseek_engine.prepare.phantoms import Phantoms
from deepseek_engine.prepare.samples import Crops, sentences, whole_photographs
from deepseek_engine.tasks.image import softmax
from deepseek_engine.tasks.segmentation import normalize_voxels

COSINE_BOUND, TOP1_BOUND, DICE_BOUND = 0.994, 0.99, 0.99
"""What a variant's mean must reach for ``auto`` to choose it."""
WORST_COSINE = 0.985
"""What its worst sentence must reach besides: a good mean hides a few bad answers."""
SURE = 0.5
"""Top-1 agreement counts answers to whose best class fp32 gives at least this probability."""
SPEED_TOKENS = 64
JUDGING_CROPS, JUDGING_SEED = 90, 2
WINDOWS, WINDOW = 16, 32
"""Texts of a decoder: how many, and tokens of each."""
VOLUMES, CALIBRATION_VOLUMES, CALIBRATION_SEED = 6, 6, 1
JUDGED_SHAPE, SPEED_SHAPE = (16, 32, 32), (32, 64, 64)
"""Voxels of a phantom."""


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
    return _JUDGES[model.family](model)


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
        return _same_best(reference, given, "photographs and crops")


class DecoderJudge:
    """Windows of text; the same next token where fp32 is sure of it."""

    def __init__(self, model: LoadedModel) -> None:
        self.vocabulary = model.signature.outputs[0].shape[-1]
        longest = min(WINDOW, int(model.torch_config["n_positions"]))
        stream = self._tokens(model, WINDOWS * longest)
        rows = np.asarray(stream, np.int64).reshape(WINDOWS, 1, longest)
        self.feeds: Sequence[Feed] = [{"input_ids": row} for row in rows]
        self.speed_feed: Feed = self.feeds[0]
        self.speed_shape = f"1x{longest} tokens"

    def _tokens(self, model: LoadedModel, count: int) -> list[int]:
        """Tokens of the judging sentences, or drawn ones for a model without a tokenizer."""
        text = model.shared_files.get("tokenizer.json")
        if text is None:
            drawn = np.random.default_rng(0).integers(0, self.vocabulary, count)
            return [int(token) for token in drawn]
        tokenizer = Tokenizer.from_str(text.decode())
        found = [i for encoding in tokenizer.encode_batch(sentences()) for i in encoding.ids]
        return (found * (1 + count // len(found)))[:count]

    def compare(self, reference: Array, given: Array) -> Agreement:
        """Whether the best next token is the same, for places that fp32 is sure of."""
        first, second = (scores.reshape(-1, self.vocabulary) for scores in (reference, given))
        return _same_best(first, second, "places in texts")


class VolumeJudge:
    """Phantoms one by one; overlap of the voxels of each class."""

    def __init__(self, model: LoadedModel) -> None:
        self.feeds: Sequence[Feed] = [
            {"volume": volume} for volume in phantoms(model, JUDGED_SHAPE, VOLUMES, JUDGING_SEED)
        ]
        speed = next(iter(phantoms(model, SPEED_SHAPE, 1, JUDGING_SEED)))
        self.speed_feed: Feed = {"volume": speed}
        self.speed_shape = "x".join(str(size) for size in speed.shape) + " voxels"

    def compare(self, reference: Array, given: Array) -> Agreement:
        """Dice of each volume, the mean over the classes that fp32 finds in it."""
        pairs = zip(reference.argmax(axis=1), given.argmax(axis=1), strict=True)
        return _agreement(
            "dice",
            np.asarray([mean_dice(wanted, found) for wanted, found in pairs]),
            bound=DICE_BOUND,
            reference="fp32 graph, made-up volumes (phantoms)",
        )


def phantoms(
    model: LoadedModel, least: tuple[int, int, int], count: int, seed: int
) -> Sequence[Array]:
    """Volumes ``[1, C, D, H, W]`` as the graph takes them; sides of at least ``least`` voxels."""
    settings = model.preprocessing
    assert isinstance(settings, VolumePreprocessing)  # volume models have no other
    depth, height, width = (-(-size // settings.multiple) * settings.multiple for size in least)
    volumes, _ = Phantoms((depth, height, width), seed=seed).make(count)
    channels = model.signature.inputs[0].shape[1]
    every = np.repeat(volumes, channels, axis=1)
    return [normalize_voxels(volume[None], settings) for volume in every]


def mean_dice(wanted: Array, found: Array) -> float:
    """Dice between two masks, the mean over the classes that ``wanted`` holds."""
    values = []
    for number in np.unique(wanted):
        first, second = wanted == number, found == number
        values.append(2.0 * (first & second).sum() / (first.sum() + second.sum()))
    return float(np.mean(values))


_JUDGES: dict[Family, Callable[[LoadedModel], Judge]] = {
    "encoder": EncoderJudge,
    "decoder": DecoderJudge,
    "vision": VisionJudge,
    "vision-transformer": VisionJudge,
    "volume": VolumeJudge,
}


def _same_best(reference: Array, given: Array, what: str) -> Agreement:
    """Top-1 agreement of scores ``[N, classes]``."""
    probabilities = softmax(reference)
    same = probabilities.argmax(axis=1) == given.argmax(axis=1)
    sure = probabilities.max(axis=1) >= SURE
    # Random weights are sure of nothing: then every answer counts.
    counted = same[sure] if sure.any() else same
    return _agreement(
        "top1",
        counted.astype(np.float64),
        bound=TOP1_BOUND,
        reference=f"fp32 graph, {what} with fp32 probability >= {SURE}",
    )


def _agreement(
    metric: Literal["cosine", "top1", "dice"],
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
