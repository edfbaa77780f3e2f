"""Real inputs for calibrating and measuring: sentences written for it, photographs of scikit-image.

The tests judge bundles by other sentences and other crops, so that nothing here is its own judge.
"""

from __future__ import annotations

import functools
import importlib.resources
from dataclasses import dataclass

import numpy as np
from deepseek_api.processing import ImagePreprocessing, Preprocessing
from PIL import Image, ImageOps

from deepseek_engine.codec import Array
from deepseek_engine.tasks.pictures import fit_picture, normalize

PHOTOGRAPHS = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg",
    "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
"""Photographs among the files that the scikit-image package ships."""


def sentences() -> list[str]:
    """About sixty texts of 1 to 40 words, questions, code and numbers among them."""
    text = importlib.resources.files("deepseek_engine.prepare").joinpath("data/sentences.txt")
    return text.read_text(encoding="utf-8").splitlines()


def photographs() -> list[Image.Image]:
    """The photographs, RGB."""
    folder = importlib.resources.files("skimage.data")
    pictures = []
    for name in PHOTOGRAPHS:
        with folder.joinpath(name).open("rb") as stream:
            pictures.append(Image.open(stream).convert("RGB"))
    return pictures


@dataclass(frozen=True, slots=True)
class Crops:
    """Random resized crops of the photographs, as training augments its pictures."""

    preprocessing: ImagePreprocessing
    seed: int
    smallest: float = 0.25
    """The least part of a picture's area that a crop shows."""

    def pixels(self, count: int) -> Array:
        """FP32 ``[count, 3, size, size]``; the same seed gives the same crops."""
        random = np.random.default_rng(self.seed)
        pictures = photographs()
        chosen = [pictures[number % len(pictures)] for number in range(count)]
        return np.stack([self._crop(picture, random) for picture in chosen])

    def _crop(self, picture: Image.Image, random: np.random.Generator) -> Array:
        side = int(min(picture.size) * random.uniform(self.smallest, 1.0) ** 0.5)
        left = int(random.integers(0, picture.width - side + 1))
        top = int(random.integers(0, picture.height - side + 1))
        crop = picture.crop((left, top, left + side, top + side))
        if random.random() < 0.5:
            crop = ImageOps.mirror(crop)
        return normalize(fit_picture(crop, self.preprocessing), self.preprocessing)


def whole_photographs(preprocessing: ImagePreprocessing) -> Array:
    """Every photograph as the serving path sees it, FP32 ``[N, 3, size, size]``."""
    fitted = [fit_picture(picture, preprocessing) for picture in photographs()]
    return np.stack([normalize(picture, preprocessing) for picture in fitted])


CALIBRATION_CROPS = 90
CALIBRATION_SEED = 1


@functools.cache  # every target of a model is calibrated with the same pictures
def calibration_pictures(preprocessing: Preprocessing) -> Array:
    """Whole photographs and crops of them, FP32 ``[N, 3, size, size]``."""
    assert isinstance(preprocessing, ImagePreprocessing)  # vision models have no other
    crops = Crops(preprocessing, seed=CALIBRATION_SEED).pixels(CALIBRATION_CROPS)
    return np.concatenate([whole_photographs(preprocessing), crops])
