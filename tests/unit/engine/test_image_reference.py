"""Preprocessing of pictures equals the reference's, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from deepseek_api.processing import ImagePreprocessing
from deepseek_engine.tasks.pictures import fit_picture
from PIL import Image

# Importing torch takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)

SETTINGS = ImagePreprocessing(size=224, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize(
    "size", [(224, 224), (640, 480), (333, 501), (257, 256), (100, 700), (31, 29)]
)
@pytest.mark.parametrize("crop", [0.875, 1.0, 0.95])
def test_preprocessing_equals_torchvision_exactly(size: tuple[int, int], crop: float) -> None:
    transforms = pytest.importorskip("torchvision.transforms", reason="needs the extra prepare")
    reference = transforms.Compose(
        [
            transforms.Resize(
                math.floor(224 / crop), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.CenterCrop(224),
        ]
    )
    source = noise(*size)
    settings = SETTINGS.model_copy(update={"crop_fraction": crop})
    ours = np.asarray(fit_picture(source, settings))
    assert np.array_equal(ours, np.asarray(reference(source)))
