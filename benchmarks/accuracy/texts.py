"""Text that every Python ships, its own sources: BERT, T5's encoder and a small GPT-2.

BERT and T5's encoder say which package of the standard library a piece comes from; GPT-2 predicts
the next token. Pieces are cut from files and dealt out in turn, so that seed ``s`` is judged on
pieces that it has not seen.
"""

from __future__ import annotations

import functools
import math
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5EncoderModel,
)

from benchmarks.accuracy.digits import TRANSFORMER
from benchmarks.accuracy.subject import Effort, Make, Score, Subject, Train, Trained
from benchmarks.accuracy.training import batches

__all__ = ["SUBJECTS"]

PACKAGES = (
    "asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml",
)  # fmt: skip
VOCABULARY = 1024
PIECE, WINDOW = 32, 64
"""Tokens of a piece that is classified, and of one whose tokens are predicted."""
FOLDS = 4
"""Every fourth piece judges, another one for each seed."""
MOST_PIECES = 480
"""Of a package: all have as many."""
BATCH, GPT_BATCH = 32, 16
CALIBRATION = 128


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens ``[N, S]`` and the package of each ``[N]``."""

    ids: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True)
class Corpus:
    """The sources as token numbers."""

    streams: tuple[tuple[int, ...], ...]
    """One for each package."""
    widths: torch.Tensor
    """Bytes of each token of the vocabulary."""

    def fold(self, length: int, seed: int, *, most: int) -> tuple[Pieces, Pieces]:
        """Pieces to train with and pieces to be judged with."""
        ids, labels, judged = [], [], []
        for label, stream in enumerate(self.streams):
            count = min(len(stream) // length, most)
            pieces = torch.tensor(stream[: count * length]).reshape(count, length)
            ids.append(pieces)
            labels.append(torch.full((count,), label))
            judged.append(torch.arange(count) % FOLDS == seed % FOLDS)
        tokens, names, held = torch.cat(ids), torch.cat(labels), torch.cat(judged)
        return Pieces(tokens[~held], names[~held]), Pieces(tokens[held], names[held])


@functools.cache
def corpus() -> Corpus:
    """Read the sources and learn their tokens (byte pairs)."""
    root = Path(sysconfig.get_path("stdlib"))
    texts = [
        "\n".join(file.read_text("utf-8") for file in sorted((root / name).rglob("*.py")))
        for name in PACKAGES
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # A byte is one character of this alphabet.
    widths = [len(tokenizer.id_to_token(i) or "") for i in range(VOCABULARY)]
    streams = tuple(tuple(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    return Corpus(streams, torch.tensor(widths, dtype=torch.float64))


class T5Classifier(nn.Module):
    """T5's encoder, the mean over tokens, a linear layer."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.t5 = encoder
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """``[N, S]`` to ``[N, classes]``."""
        hidden = self.t5(input_ids=input_ids).last_hidden_state
        scores: torch.Tensor = self.classifier(hidden.mean(1))
        return scores


class Logits(nn.Module):
    """A model of transformers that answers with its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """``[N, S]`` to the logits of the model."""
        scores: torch.Tensor = self.model(input_ids=input_ids).logits
        return scores


def _bert() -> nn.Module:
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=512, max_position_embeddings=WINDOW,
    )  # fmt: skip
    config.num_labels = len(PACKAGES)
    return Logits(BertForSequenceClassification(config))


def _t5() -> nn.Module:
    config = T5Config(
        vocab_size=VOCABULARY, d_model=128, d_kv=32, d_ff=512, num_layers=2, num_heads=4
    )
    return T5Classifier(T5EncoderModel(config), 128, len(PACKAGES))


def _gpt2() -> nn.Module:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=128, n_layer=2, n_head=4, n_positions=WINDOW,
        bos_token_id=0, eos_token_id=0, use_cache=False,
    )  # fmt: skip
    return Logits(GPT2LMHeadModel(config))


def _classifier(build: Callable[[], nn.Module], *, steps: int, rate: float) -> Make:
    def make(seed: int, effort: Effort, train: Train) -> Trained:
        known, judged = corpus().fold(PIECE, seed, most=MOST_PIECES)
        torch.manual_seed(seed)
        module = build()
        drawn = batches(len(known.labels), BATCH, seed=seed)

        def loss(model: nn.Module, step: int) -> torch.Tensor:
            chosen = next(drawn)
            return functional.cross_entropy(model(known.ids[chosen]), known.labels[chosen])

        train(module, loss, steps=effort.steps(steps), rate=rate)
        few = next(batches(len(known.labels), CALIBRATION, seed=seed))
        feeds = list(torch.split(known.ids[few], BATCH))
        return Trained(module, feeds, lambda model: accuracy(model, judged), {})

    return make


def accuracy(module: nn.Module, judged: Pieces) -> Score:
    """Pieces whose package was found."""
    with torch.inference_mode():
        best = torch.cat([module(part).argmax(1) for part in torch.split(judged.ids, 256)])
    return Score(float((best == judged.labels).sum()), len(best))


def _language_model(seed: int, effort: Effort, train: Train) -> Trained:
    known, judged = corpus().fold(WINDOW, seed, most=MOST_PIECES)
    torch.manual_seed(seed)
    module = _gpt2()
    drawn = batches(len(known.labels), GPT_BATCH, seed=seed)

    def loss(model: nn.Module, step: int) -> torch.Tensor:
        ids = known.ids[next(drawn)]
        scores = model(ids)[:, :-1].flatten(0, 1)
        return functional.cross_entropy(scores, ids[:, 1:].flatten())

    train(module, loss, steps=effort.steps(900), rate=3e-3)
    few = next(batches(len(known.labels), CALIBRATION // 2, seed=seed))
    feeds = list(torch.split(known.ids[few], GPT_BATCH))
    return Trained(module, feeds, lambda model: bits(model, judged.ids), {"model_type": "gpt2"})


def bits(module: nn.Module, ids: torch.Tensor) -> Score:
    """Bits that the text takes after its first token, over its bytes."""
    total = 0.0
    with torch.inference_mode():
        for part in torch.split(ids, 64):
            scores = module(part)[:, :-1].flatten(0, 1)
            found = functional.cross_entropy(scores, part[:, 1:].flatten(), reduction="none")
            total += float(found.double().sum()) / math.log(2)
    return Score(total, int(corpus().widths[ids[:, 1:]].sum()))


SUBJECTS = (
    Subject("BERT", "accuracy", "higher", _classifier(_bert, steps=800, rate=1e-3), TRANSFORMER),
    Subject(
        "T5 encoder", "accuracy", "higher", _classifier(_t5, steps=800, rate=2e-3), TRANSFORMER
    ),
    Subject("GPT-2", "bits per byte", "lower", _language_model, TRANSFORMER),
)
