"""Handwritten digits that scikit-learn ships (1,797 of 8 x 8 pixels): CNN, ViT and MLP.

Seed ``s`` leaves out third ``s`` of the digits for judging, so that three seeds together judge
every digit once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from benchmarks.accuracy.subject import Effort, Make, Score, Subject, Train, Trained
from benchmarks.accuracy.training import batches

__all__ = ["SUBJECTS"]

FOLDS, CLASSES, BATCH = 3, 10, 64
CALIBRATION = 256
"""Training samples that calibrate."""
TRANSFORMER = ("int8", "mixed", "int4 nearest", "int4 gptq", "int4 awq", "fp8")


@dataclass(frozen=True, slots=True)
class Digits:
    """Pixels FP32 ``[N, 1, 8, 8]`` from 0 to 1, and digits ``[N]``."""

    pixels: torch.Tensor
    labels: torch.Tensor


def load_fold(seed: int) -> tuple[Digits, Digits]:
    """What a seed trains with and what it is judged with."""
    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))
    fold = torch.arange(len(labels)) % FOLDS == seed % FOLDS
    left, judged = order[~fold], order[fold]
    return Digits(pixels[left], labels[left]), Digits(pixels[judged], labels[judged])


class Cnn(nn.Module):
    """Three convolutions with norms and two linear layers: 160 k weights."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False)
            for before, after in ((1, 32), (32, 64), (64, 128))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (32, 64, 128))
        self.fc1 = nn.Linear(512, 128)
        self.head = nn.Linear(128, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[N, 1, 8, 8]`` to ``[N, 10]``."""
        x = pixels
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = functional.relu(norm(conv(x)))
            x = functional.max_pool2d(x, 2) if number else x
        scores: torch.Tensor = self.head(functional.relu(self.fc1(x.flatten(1))))
        return scores


class Mlp(nn.Module):
    """Three linear layers on the picture enlarged to 16 x 16: 134 k weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(256, 256)
        self.fc2 = nn.Linear(256, 256)
        self.head = nn.Linear(256, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """``[N, 1, 8, 8]`` to ``[N, 10]``."""
        large = functional.interpolate(pixels, size=16, mode="bilinear", align_corners=False)
        x = functional.relu(self.fc2(functional.relu(self.fc1(large.flatten(1)))))
        scores: torch.Tensor = self.head(x)
        return scores


def _vit() -> nn.Module:
    """Two blocks, 128 wide, patches of 4 x 4: 400 k weights."""
    module = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=CLASSES, embed_dim=128, depth=2,
        num_heads=4, global_pool="avg",
    )  # fmt: skip
    # timm's start (0.02) is meant for wide models and millions of pictures.
    for parameter in module.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
    return module


def _shifted(pixels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Each picture moved by at most a pixel along both axes."""
    padded = functional.pad(pixels, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(pixels), 2), generator=random).tolist()
    return torch.stack(
        [p[:, r : r + 8, c : c + 8] for p, (r, c) in zip(padded, moves, strict=True)]
    )


def _make(build: Callable[[], nn.Module], *, steps: int, rate: float) -> Make:
    def make(seed: int, effort: Effort, train: Train) -> Trained:
        known, judged = load_fold(seed)
        torch.manual_seed(seed)
        module, random = build(), torch.Generator().manual_seed(seed)
        drawn = batches(len(known.labels), BATCH, seed=seed)

        def loss(model: nn.Module, step: int) -> torch.Tensor:
            chosen = next(drawn)
            scores = model(_shifted(known.pixels[chosen], random))
            return functional.cross_entropy(scores, known.labels[chosen], label_smoothing=0.05)

        train(module, loss, steps=effort.steps(steps), rate=rate)
        feeds = list(torch.split(known.pixels[:CALIBRATION], BATCH))
        return Trained(module, feeds, lambda model: score(model, judged), {})

    return make


def score(module: nn.Module, judged: Digits) -> Score:
    """Right answers."""
    with torch.inference_mode():
        best = module(judged.pixels).argmax(1)
    return Score(float((best == judged.labels).sum()), len(best))


SUBJECTS = (
    Subject("CNN", "accuracy", "higher", _make(Cnn, steps=600, rate=3e-3), TRANSFORMER[:5]),
    Subject("MLP", "accuracy", "higher", _make(Mlp, steps=2000, rate=3e-3), TRANSFORMER),
    Subject("ViT", "accuracy", "higher", _make(_vit, steps=1200, rate=2e-3), TRANSFORMER),
)
