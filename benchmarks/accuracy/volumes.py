"""Made-up CT volumes with known masks: the 3D-UNet."""

from __future__ import annotations

import torch
from deepseek_engine.models.unet3d import UNet3d, UNet3dConfig
from deepseek_engine.prepare.judges import mean_dice
from deepseek_engine.prepare.phantoms import Phantoms
from torch import nn
from torch.nn import functional

from benchmarks.accuracy.subject import Effort, Score, Subject, Train, Trained
from benchmarks.accuracy.training import batches

__all__ = ["SUBJECTS"]

SHAPE = (16, 24, 24)
TRAINED, JUDGED, BATCH, CALIBRATION = 48, 32, 2, 8
STEPS = 500
HOUNSFIELD = 500.0
"""Values are cut to [-1000, 1000] and divided by this, as the catalog's entry does."""
CONFIG = UNet3dConfig(classes=3)


def _volumes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    voxels, masks = Phantoms(SHAPE, seed=seed).make(count)
    normal = torch.from_numpy(voxels).clamp(-1000, 1000) / HOUNSFIELD
    return normal, torch.from_numpy(masks).long()


def _make(seed: int, effort: Effort, train: Train) -> Trained:
    known, masks = _volumes(effort.steps(TRAINED), 100 + seed)
    judged, wanted = _volumes(effort.steps(JUDGED), 200 + seed)
    torch.manual_seed(seed)
    module = UNet3d(CONFIG)
    drawn = batches(len(known), min(BATCH, len(known)), seed=seed)

    def loss(model: nn.Module, step: int) -> torch.Tensor:
        chosen = next(drawn)
        return _loss(model(known[chosen]), masks[chosen])

    train(module, loss, steps=effort.steps(STEPS), rate=1e-2)
    feeds = list(torch.split(known[:CALIBRATION], BATCH))
    config = {"model_type": "3d-unet", **CONFIG.to_fields()}
    return Trained(module, feeds, lambda model: dice(model, judged, wanted), config)


def _loss(scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross entropy, and one minus a soft Dice of the classes that are no background."""
    chances = scores.softmax(1)[:, 1:]
    truth = functional.one_hot(masks, scores.shape[1]).movedim(-1, 1)[:, 1:].float()
    both = (chances * truth).sum((0, 2, 3, 4))
    overlap = (2 * both + 1) / (chances.sum((0, 2, 3, 4)) + truth.sum((0, 2, 3, 4)) + 1)
    return functional.cross_entropy(scores, masks) + 1 - overlap.mean()


def dice(module: nn.Module, volumes: torch.Tensor, wanted: torch.Tensor) -> Score:
    """Dice of each volume, the mean over the classes that it holds, background included."""
    with torch.inference_mode():
        found = torch.cat([module(part).argmax(1) for part in torch.split(volumes, BATCH)])
    values = [mean_dice(w.numpy(), f.numpy()) for w, f in zip(wanted, found, strict=True)]
    return Score(sum(values), len(values))


SUBJECTS = (Subject("3D-UNet", "Dice", "higher", _make, ("int8", "mixed")),)
