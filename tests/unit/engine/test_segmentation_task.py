"""Volumes in, masks out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_api.processing import VolumePreprocessing
from deepseek_engine.codec import to_tensor
from deepseek_engine.engine import Engine
from deepseek_engine.messages import InferenceRequest, InferenceResponse, ModelState
from deepseek_engine.tasks.segmentation import normalize_voxels

from tests.support.engine import arrays, config
from tests.support.volumes import write_segmentation

Array = Any


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_segmentation(tmp_path / "lungs")


async def ask(folder: Path, volume: Array, **fields: Any) -> InferenceResponse:
    engine = Engine(config(folder))
    engine.start()
    try:
        await engine.load()
        return await engine.infer(
            InferenceRequest("lungs", (to_tensor("volume", "FP32", volume),), **fields)
        )
    finally:
        await engine.close()


def some_volume(*shape: int) -> Array:
    return np.random.default_rng(0).normal(0, 900, shape).astype(np.float32)


async def test_a_mask_has_the_best_class_of_each_voxel(folder: Path) -> None:
    volume = some_volume(2, 1, 4, 6, 8)
    given = arrays(await ask(folder, volume))
    assert list(given) == ["mask"]
    assert given["mask"].dtype == np.uint8
    np.testing.assert_array_equal(given["mask"], volume[:, 0] > 0)


async def test_scores_are_given_to_those_who_ask(folder: Path) -> None:
    volume = some_volume(1, 1, 2, 2, 2)
    given = arrays(await ask(folder, volume, outputs=("logits", "mask")))
    assert list(given) == ["logits", "mask"]
    # The bundle cuts to [-1000, 500] and halves.
    np.testing.assert_allclose(given["logits"][:, 1:], np.clip(volume, -1000, 500) / 2)


async def test_equal_scores_are_background(folder: Path) -> None:
    given = arrays(await ask(folder, np.zeros((1, 1, 2, 2, 2), np.float32)))
    assert not given["mask"].any()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 1, 3, 2, 2), "a depth of 3 voxels; every side must be a multiple of 2"),
        ((1, 1, 2, 5, 2), "a height of 5 voxels"),
        ((1, 1, 2, 2, 1), "a width of 1 voxels"),
        ((1, 2, 2, 2, 2), r"has shape \[1, 2, 2, 2, 2\]; the model takes \[-1, 1, -1, -1, -1\]"),
        ((1, 2, 2, 2), "has shape"),
    ],
)
async def test_a_shape_that_cannot_be_is_refused(
    folder: Path, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(InferenceError, match=words) as caught:
        await ask(folder, np.zeros(shape, np.float32))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
async def test_voxels_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    volume = np.zeros((1, 1, 2, 2, 2), np.float32)
    volume[0, 0, 1, 1, 1] = value
    with pytest.raises(InferenceError, match="not finite") as caught:
        await ask(folder, volume)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [-2000.0, 10.0, 2000.0]),
        ({"low": -1000}, [-1000.0, 10.0, 2000.0]),
        ({"high": 1000}, [-2000.0, 10.0, 1000.0]),
        ({"low": 0, "high": 100, "mean": 50, "std": 25}, [-2.0, -1.6, 2.0]),
    ],
    ids=["as it is", "low", "high", "normalized"],
)
def test_values_are_cut_and_normalized(settings: dict[str, Any], expected: list[float]) -> None:
    values = np.array([-2000, 10, 2000], np.float32).reshape(1, 1, 1, 1, 3)
    given = normalize_voxels(values, VolumePreprocessing(**settings))
    assert given.dtype == np.float32
    np.testing.assert_allclose(given.ravel(), expected, rtol=1e-6)


async def test_a_bundle_of_another_kind_says_why(tmp_path: Path) -> None:
    folder = write_segmentation(tmp_path / "lungs", preprocessing={"kind": "none"})
    engine = Engine(config(folder))
    engine.start()
    await engine.load()
    info = engine.models()["lungs"]
    await engine.close()
    assert info.state is ModelState.FAILED
    assert "does not fit the task 'segmentation'" in info.message
