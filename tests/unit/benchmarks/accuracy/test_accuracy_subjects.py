"""The data and the metrics of the models that the accuracy bench trains."""

from __future__ import annotations

import math
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.accuracy import digits, texts, volumes
from benchmarks.accuracy.runner import SUBJECTS, part_of
from benchmarks.accuracy.training import batches, train

pytestmark = pytest.mark.timeout(120)


class Answers(nn.Module):
    """Gives back answers that were laid down, ``[N, classes]``."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The first answers, as many as there are inputs."""
        return self.scores[: len(inputs)]


def test_every_digit_is_judged_once_over_the_seeds() -> None:
    folds = [digits.load_fold(seed) for seed in range(3)]
    assert [len(known.labels) + len(judged.labels) for known, judged in folds] == [1797] * 3
    assert sum(len(judged.labels) for _, judged in folds) == 1797
    pictures = {tuple(p.flatten().tolist()) for _, judged in folds for p in judged.pixels}
    assert len(pictures) > 1700  # a few digits look the same


def test_digits_that_train_do_not_judge() -> None:
    known, judged = digits.load_fold(0)
    seen = {tuple(p.flatten().tolist()) for p in known.pixels}
    same = sum(tuple(p.flatten().tolist()) in seen for p in judged.pixels)
    assert same <= 5


def test_accuracy_counts_right_answers() -> None:
    judged = digits.Digits(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 1, 0]))
    score = digits.score(Answers(torch.eye(2).repeat(2, 1)), judged)  # answers 0, 1, 0, 1
    assert (score.total, score.samples) == (2, 4)


def test_pieces_of_text_are_dealt_out_and_not_shared() -> None:
    known, judged = texts.corpus().fold(32, 0, most=40)
    assert len(judged.labels) * 3 == len(known.labels)
    assert set(judged.labels.tolist()) == set(range(len(texts.PACKAGES)))
    seen = {tuple(piece) for piece in known.ids.tolist()}
    assert sum(tuple(piece) in seen for piece in judged.ids.tolist()) <= 0.02 * len(judged.ids)


def test_widths_of_tokens_add_up_to_the_bytes_of_the_text() -> None:
    folder = Path(sysconfig.get_path("stdlib")) / "logging"
    text = "\n".join(file.read_text("utf-8") for file in sorted(folder.rglob("*.py")))
    corpus = texts.corpus()
    stream = corpus.streams[texts.PACKAGES.index("logging")]
    assert int(corpus.widths[list(stream)].sum()) == len(text.encode())


def test_bits_of_even_chances_are_the_logarithm_of_the_vocabulary() -> None:
    class Even(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*ids.shape, texts.VOCABULARY)

    ids = torch.arange(12).reshape(2, 6)
    score = texts.bits(Even(), ids)
    assert score.total == pytest.approx(10 * math.log2(texts.VOCABULARY))
    assert score.samples == int(texts.corpus().widths[ids[:, 1:]].sum())


def test_dice_of_the_mask_itself_is_one() -> None:
    found, masks = volumes._volumes(2, 1)
    perfect = nn.functional.one_hot(masks, 3).movedim(-1, 1).float()
    score = volumes.dice(Answers(perfect), found, masks)
    assert score.value == pytest.approx(1.0)


def test_a_batch_has_no_sample_twice_until_all_were_drawn() -> None:
    drawn = batches(10, 5, seed=3)
    first = torch.cat([next(drawn), next(drawn)])
    assert sorted(first.tolist()) == list(range(10))
    again = batches(10, 5, seed=3)
    assert torch.equal(first[:5], next(again))


def test_training_lowers_the_loss_and_ends_in_eval_mode() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 1)

    def loss(model: nn.Module, step: int) -> torch.Tensor:
        result: torch.Tensor = (model(torch.ones(1, 3)) - 2).square().mean()
        return result

    before = loss(module, 0).item()
    train(module, loss, steps=30, rate=0.1)
    assert loss(module, 0).item() < 0.1 * before
    assert not module.training


def test_every_subject_has_a_name_that_a_command_line_takes() -> None:
    names = [part_of(subject) for subject in SUBJECTS]
    assert len(set(names)) == len(names) == 9
    assert all(name == name.lower() and " " not in name for name in names)
