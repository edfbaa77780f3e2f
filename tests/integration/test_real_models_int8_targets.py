"""Every int8 variant for every kind of processor: built, and judged whatever processor this is.

The instruction set in a figure's name is the one that the variant was made for. What is measured
is exact integer arithmetic, see `tests.support.exact_int8`: VNNI computes so, and variants for
AVX2 must be such that AVX2 does too.
"""

from __future__ import annotations

import numpy as np
import pytest
from deepseek_api.manifest import Variant
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.prepare.samples import Crops
from deepseek_engine.tasks.image import softmax
from tokenizers import Tokenizer

from tests.support.exact_int8 import Array, exact_session, products, saturates
from tests.support.real_models import open_graph, sentences, unit

pytest_plugins = ("tests.support.real_bundles",)
pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]

ENCODER = {
    "int8-avx2": (0.989, 0.97),
    "int8-vnni": (0.989, 0.97),
    "int8-guarded-avx2": (0.994, 0.985),
    "int8-guarded-vnni": (0.994, 0.985),
    "mixed-avx2": (0.994, 0.985),
    "mixed-vnni": (0.994, 0.985),
}
"""The least mean and worst cosine with fp32 of every variant."""
VISION = {"int8-avx2": 0.99, "int8-vnni": 0.99}
"""The least part of pictures with the same best class, where fp32 is sure."""
TEXTS = slice(0, None, 8)
PICTURES, SEED = 40, 5


def variant(bundle: OpenBundle, name: str) -> Variant:
    return next(variant for variant in bundle.manifest.variants if variant.id == name)


@pytest.mark.parametrize("model", ["minilm", "efficientnet"])
def test_both_targets_of_every_scheme_are_built(model: str, request: pytest.FixtureRequest) -> None:
    bundle: OpenBundle = request.getfixturevalue(f"{model}_bundle")
    built = {variant.id for variant in bundle.manifest.variants} - {"fp32", "fp32-torch"}
    assert built == set(ENCODER if model == "minilm" else VISION)


def embed(bundle: OpenBundle, name: str) -> Array:
    """Unit vectors of some of the committed sentences, one by one."""
    path = bundle.path(variant(bundle, name).graph)
    session = open_graph(bundle, variant(bundle, name)) if name == "fp32" else exact_session(path)
    tokenizer = Tokenizer.from_file(str(bundle.path("tokenizer.json")))
    rows = []
    for encoding in tokenizer.encode_batch(sentences()[TEXTS]):
        ids = np.array([encoding.ids])
        rows.append(session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0])
    return unit(np.concatenate(rows))


@pytest.fixture(scope="module")
def exact_vectors(minilm_bundle: OpenBundle) -> Array:
    return embed(minilm_bundle, "fp32")


@pytest.mark.parametrize("name", ENCODER)
def test_an_encoder_agrees_with_fp32_on_the_processors_that_it_is_for(
    name: str, minilm_bundle: OpenBundle, exact_vectors: Array
) -> None:
    cosines = (embed(minilm_bundle, name) * exact_vectors).sum(axis=1)
    mean, worst = ENCODER[name]
    assert float(cosines.mean()) >= mean
    assert float(cosines.min()) >= worst


@pytest.mark.parametrize("name", VISION)
def test_a_classifier_agrees_with_fp32_on_the_processors_that_it_is_for(
    name: str, efficientnet_bundle: OpenBundle
) -> None:
    preprocessing = efficientnet_bundle.manifest.preprocessing
    assert preprocessing is not None
    assert preprocessing.kind == "image"
    pictures = Crops(preprocessing, seed=SEED).pixels(PICTURES)
    source = efficientnet_bundle.manifest.signature.inputs[0].name
    chosen = variant(efficientnet_bundle, name)
    reference = open_graph(efficientnet_bundle, variant(efficientnet_bundle, "fp32"))
    small = exact_session(efficientnet_bundle.path(chosen.graph))
    expected, given = (
        np.concatenate([session.run(None, {source: p[None]})[0] for p in pictures])
        for session in (reference, small)
    )
    sure = softmax(expected).max(axis=1) >= 0.5
    assert sure.sum() >= 12
    same = expected.argmax(axis=1) == given.argmax(axis=1)
    assert float(same[sure].mean()) >= VISION[name]


@pytest.mark.parametrize("model", ["minilm", "efficientnet"])
def test_reduced_range_cannot_saturate_and_full_range_could(
    model: str, request: pytest.FixtureRequest
) -> None:
    bundle: OpenBundle = request.getfixturevalue(f"{model}_bundle")
    for name in ENCODER if model == "minilm" else VISION:
        path = bundle.path(variant(bundle, name).graph)
        found = {weight: saturates(columns) for weight, columns in products(path)}
        assert found
        assert any(found.values()) == name.endswith("-vnni"), name
