"""Every family from safetensors to served answers, against its reference implementation."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deepseek_api.errors import SourceError

from tests.support.exact_int8 import exact_session, products, saturates
from tests.support.families import CONFIGS, VOCABULARY, Tiny, write_tiny

if TYPE_CHECKING:
    from deepseek import InferenceEngine
    from deepseek_api.manifest import Manifest
    from deepseek_engine.prepare.messages import PrepareRequest

pytestmark = [pytest.mark.timeout(300)]

TEXTS = ["short", "a somewhat longer text with several words, and a number: 42"]
ATOL = 2e-4


@dataclass(frozen=True)
class Made:
    """A tiny model and its bundle with fp32 and int8."""

    name: str
    tiny: Tiny
    bundle: Path

    @property
    def manifest(self) -> Manifest:
        from tests.support.bundles import read_manifest

        return read_manifest(self.bundle)


def build(request: PrepareRequest, folder: Path) -> Path:
    """Prepare in this process: starting another one would import torch once more."""
    from deepseek_engine.prepare.events import Reporter
    from deepseek_engine.prepare.recipe import build_bundle

    folder.mkdir()
    build_bundle(request, folder, Reporter(io.BytesIO()))
    return folder


@pytest.fixture(scope="module", params=CONFIGS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    from deepseek_engine.prepare.messages import PrepareRequest

    base = tmp_path_factory.mktemp("family")
    tiny = write_tiny(request.param, base / "weights")
    wanted = PrepareRequest(name="tiny", uri=tiny.folder.as_uri(), precisions=("int8",), threads=1)
    return Made(request.param, tiny, build(wanted, base / "bundle"))


Answers = Mapping[str, Any]


def embeddings(engine: InferenceEngine) -> Answers:
    return {"embedding": engine.infer({"text": TEXTS}).outputs["embedding"]}


def sentence_vectors(made: Made) -> Answers:
    """One text at a time, so that padding has no part in it."""
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(made.tiny.folder / "tokenizer.json"))
    vectors = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            hidden = made.tiny.reference(input_ids=ids).last_hidden_state
        mean = hidden[0].mean(0).numpy()
        vectors.append(mean / np.linalg.norm(mean))
    return {"embedding": np.stack(vectors)}


def token_ids() -> Any:
    return np.random.default_rng(0).integers(0, VOCABULARY, (3, 21))


def token_scores(engine: InferenceEngine) -> Answers:
    return engine.infer({"input_ids": token_ids()}).outputs


def next_tokens(made: Made) -> Answers:
    import torch

    with torch.inference_mode():
        result = made.tiny.reference(torch.from_numpy(token_ids()), output_hidden_states=True)
    return {
        "logits": result.logits.numpy(),
        "last_hidden_state": result.hidden_states[-1].numpy(),
    }


def pixels() -> Any:
    return np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)


def picture_scores(engine: InferenceEngine) -> Answers:
    return engine.infer({"pixel_values": pixels()}, outputs=["logits"]).outputs


def logits(made: Made) -> Answers:
    import torch

    with torch.inference_mode():
        return {"logits": made.tiny.reference(torch.from_numpy(pixels())).numpy()}


def voxels() -> Any:
    return np.random.default_rng(0).normal(0, 800, (2, 1, 6, 8, 10)).astype(np.float32)


def voxel_scores(engine: InferenceEngine) -> Answers:
    return engine.infer({"volume": voxels()}, outputs=["logits", "mask"]).outputs


def masks(made: Made) -> Answers:
    import torch

    normal = np.clip(voxels(), -1000, 1000) / 500
    with torch.inference_mode():
        scores = made.tiny.reference(torch.from_numpy(normal)).numpy()
    return {"logits": scores, "mask": scores.argmax(axis=1)}


ROUTES: dict[str, tuple[Callable[[InferenceEngine], Answers], Callable[[Made], Answers]]] = {
    "bert": (embeddings, sentence_vectors),
    "t5": (embeddings, sentence_vectors),
    "gpt2": (token_scores, next_tokens),
    "resnet": (picture_scores, logits),
    "vit": (picture_scores, logits),
    "unet3d": (voxel_scores, masks),
}


def test_served_answers_are_those_of_the_reference(made: Made) -> None:
    from deepseek import InferenceEngine

    ask, expect = ROUTES[made.name]
    with InferenceEngine(made.bundle, precision="fp32", threads=1) as engine:
        given = ask(engine)
    expected = expect(made)
    assert given.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(given[name], values, atol=ATOL, err_msg=name)


def graph_feed(name: str) -> Answers:
    """What a graph of a family reads, after preprocessing."""
    ids = token_ids()
    feeds: dict[str, Answers] = {
        "gpt2": {"input_ids": ids},
        "resnet": {"pixel_values": pixels()},
        "vit": {"pixel_values": pixels()},
        "unet3d": {"volume": voxels() / 500},
    }
    return feeds.get(name, {"input_ids": ids, "attention_mask": np.ones_like(ids)})


def test_the_torch_variant_gives_the_same_numbers_as_the_graph(made: Made) -> None:
    from deepseek_engine.backends import BackendOptions, open_backend
    from deepseek_engine.bundles import open_bundle
    from deepseek_engine.prepare.judge import EXPORT_BOUND
    from deepseek_engine.prepare.measure import cosines

    bundle = open_bundle(made.bundle)
    graph, torch = (
        open_backend(bundle, bundle.manifest.variant(name), BackendOptions(threads=1))
        for name in ("fp32", "fp32-torch")
    )
    feed = graph_feed(made.name)
    answers = torch.run(feed)
    if "sentence_embedding" in {spec.name for spec in graph.outputs}:
        answers = {"sentence_embedding": answers["last_hidden_state"].mean(axis=1)}
    for name, values in graph.run(feed).items():
        assert cosines(values, answers[name]).min() > EXPORT_BOUND


@pytest.mark.parametrize("made", sorted(CONFIGS.keys() - {"unet3d"}), indirect=True)
def test_int8_answers_stay_close(made: Made) -> None:
    from deepseek import InferenceEngine
    from deepseek_engine.prepare.measure import cosines

    ask, _ = ROUTES[made.name]
    answers = []
    for precision in ("fp32", "int8"):
        with InferenceEngine(made.bundle, precision=precision, threads=1) as engine:
            answers.append(next(iter(ask(engine).values())))
    assert cosines(*answers).min() > 0.98
    assert not np.array_equal(*answers)


@pytest.mark.parametrize("made", sorted(CONFIGS.keys() - {"unet3d"}), indirect=True)
def test_int8_of_either_range_stays_close_on_the_processors_that_it_is_for(made: Made) -> None:
    from deepseek_engine.bundles import open_bundle
    from deepseek_engine.prepare.measure import cosines

    bundle, feed = open_bundle(made.bundle), graph_feed(made.name)
    paths = {
        name: bundle.path(bundle.manifest.variant(name).graph)
        for name in ("fp32", "int8-avx2", "int8-vnni")
    }
    expected, paired, full = (exact_session(p).run(None, feed)[0] for p in paths.values())
    assert cosines(expected, paired).min() > 0.98
    assert cosines(expected, full).min() > 0.98
    columns = dict(products(paths["int8-avx2"]))
    assert columns
    assert not any(map(saturates, columns.values()))


def test_the_manifest_says_what_it_is(made: Made) -> None:
    manifest = made.manifest
    assert (manifest.task, manifest.model_type, manifest.random_weights) == {
        "bert": ("text-embedding", "NLP", False),
        "t5": ("text-embedding", "NLP", False),
        "gpt2": ("tensors", "LLM", False),
        "resnet": ("image-classification", "CV", False),
        "vit": ("image-classification", "CV", False),
        "unet3d": ("segmentation", "CV", False),
    }[made.name]
    int8 = manifest.variant("int8-avx2")
    assert int8.tensor_bytes < 0.6 * manifest.variant("fp32").tensor_bytes


def test_a_tied_table_is_stored_once(made: Made) -> None:
    from safetensors import safe_open

    with safe_open(made.bundle / "fp32-torch.safetensors", framework="pt") as stored:
        names = set(stored.keys())
    ties = {
        "t5": ("shared.weight", "encoder.embed_tokens.weight"),
        "gpt2": ("transformer.wte.weight", "lm_head.weight"),
    }
    if made.name in ties:
        assert len(names & set(ties[made.name])) == 1


def load(name: str, folder: Path, **changes: Any) -> Any:
    """Load a tiny model whose config was changed after its weights were written."""
    import json

    from deepseek_engine.prepare.architectures import load_model
    from deepseek_engine.prepare.messages import PrepareRequest
    from deepseek_engine.prepare.sources import Source

    tiny = write_tiny(name, folder)
    config = CONFIGS[name] | {k: v for k, v in changes.items() if k != "task"}
    (tiny.folder / "config.json").write_text(json.dumps(config))
    source = Source("file://x", tiny.folder / "model.safetensors", tiny.folder)
    return load_model(
        PrepareRequest(name="x", uri="file://x", task=changes.get("task", "")), source
    )


@pytest.mark.parametrize(
    ("name", "changes", "reason", "words"),
    [
        ("t5", {"d_ff": 96}, "WeightsDoNotFit", r"DenseReluDense\.w"),
        ("gpt2", {"n_layer": 3}, "WeightsDoNotFit", r"transformer\.h\.2"),
        ("gpt2", {"n_head": 5}, "InvalidConfig", "describes no model"),
        ("vit", {"num_classes": 9}, "WeightsDoNotFit", "vit_tiny_patch16_224"),
        ("vit", {"model_args": {"no_such": 1}}, "InvalidConfig", "vit_tiny_patch16_224"),
        ("unet3d", {"channels": [4, 12]}, "WeightsDoNotFit", r"decoder\.0|encoder\.1|up\.0"),
        ("unet3d", {"norm": "batch"}, "WeightsDoNotFit", "running_mean"),
        ("unet3d", {"channels": [4, -1]}, "InvalidConfig", "channels is -1"),
        ("unet3d", {"preprocessing": {"std": 0}}, "InvalidConfig", "preprocessing"),
        ("unet3d", {"preprocessing": 7}, "InvalidConfig", "preprocessing"),
        ("gpt2", {"task": "text-embedding"}, "UnsupportedTask", "does the task 'tensors'"),
        ("unet3d", {"task": "generate"}, "UnsupportedTask", "'generate'"),
    ],
)
def test_what_does_not_fit_is_named(
    name: str, changes: dict[str, Any], reason: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        load(name, tmp_path / "weights", **changes)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "library", "family"),
    [
        ("bert-base-uncased", "transformers", "encoder"),
        ("t5-small", "transformers", "encoder"),
        ("gpt2", "transformers", "decoder"),
        ("resnet50", "timm", "vision"),
        ("vit_base_patch16_224", "timm", "vision"),
        ("3d-unet", "deepseek", "volume"),
        ("", "", "vision"),
    ],
)
def test_a_name_tells_library_and_family(name: str, library: str, family: str) -> None:
    from deepseek_engine.prepare.known import family_of, library_of

    assert (library_of(name), family_of(library_of(name), name)) == (library, family)
