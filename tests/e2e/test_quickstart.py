"""The quickstart's real models answer in a cluster as they do on one machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage
import yaml
from deepseek import Client, InferenceEngine

from tests.support.cluster import ROOT, Space
from tests.support.cluster_images import load_quickstart_bundles
from tests.support.cluster_probe import reach

NAME = "quickstart"
TEXTS = ["How do I reset my password?", "I cannot log in.", "The train leaves at noon."]
PICTURE = Path(skimage.__file__).parent / "data" / "coffee.png"


@pytest.fixture(scope="module", autouse=True)
def quickstart(space: Space) -> Iterator[None]:
    """The example's file with the same bundles as images: a cluster reaches no Python package."""
    bundles = load_quickstart_bundles(space.kube)
    wanted = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())
    for model in wanted["spec"]["models"]:
        model["source"] = bundles[model["name"]].source
    space.apply(wanted)
    space.wait_ready(NAME)
    yield
    space.delete("ModelPipeline", NAME)


def test_texts_get_the_vectors_of_the_local_engine(space: Space) -> None:
    with reach(space, f"{NAME}-minilm") as target, Client(target) as client:
        there = client.embed("minilm", TEXTS)
    with InferenceEngine(model_path="minilm", device="cpu") as engine:
        here = np.stack(engine.batch_infer(TEXTS))
    assert (there * here).sum(axis=1).min() > 0.9999


def test_a_photograph_gets_the_labels_of_the_local_engine(space: Space) -> None:
    with reach(space, f"{NAME}-efficientnet-lite0") as target, Client(target) as client:
        [there] = client.classify("efficientnet-lite0", [PICTURE.read_bytes()])
    with InferenceEngine(model_path="efficientnet-lite0", device="cpu") as engine:
        [here] = engine.batch_infer([PICTURE.read_bytes()])
    assert there[0][0] == "espresso"
    assert [label for label, _ in there] == [label for label, _ in here]


def test_real_weights_are_not_marked_as_random(space: Space) -> None:
    models = space.status(NAME)["models"]
    assert not any(model.get("randomWeights") for model in models)
