from __future__ import annotations

from typing import Any

import pytest
from deepseek._resolve import find_entry
from deepseek_api.v1alpha1.conditions import ConditionReason as Reason
from deepseek_api.v1alpha1.conditions import ConditionType as Type
from deepseek_operator.config import OperatorConfig
from deepseek_operator.plan import ResolvedModel

from tests.support.rendering import CATALOG, CONFIG, one_model, resolved

BUNDLE = {"uri": "oci://example.com/x:1"}


def model(name: str = "bert-base", config: OperatorConfig = CONFIG, **fields: Any) -> ResolvedModel:
    return resolved(one_model(name, **fields), config=config)[0]


def settings(**changes: Any) -> OperatorConfig:
    return CONFIG.model_copy(update=changes)


def test_a_model_of_the_catalog_takes_everything_from_there() -> None:
    found = model(source=None)
    assert (found.type, found.task, found.memory_request) == ("NLP", "text-embedding", "1Gi")
    assert found.source_uri == "hf://google-bert/bert-base-uncased"
    assert found.raw
    assert found.servable


def test_what_the_spec_says_comes_before_the_catalog() -> None:
    source = {**BUNDLE, "revision": "r", "digest": "sha256:" + "1" * 64, "secretName": "s"}
    found = model(type="Audio", task="tensors", source=source)
    assert (found.type, found.task) == ("Audio", "tensors")
    assert (found.source_uri, found.source_revision) == (BUNDLE["uri"], "r")
    assert (found.digest, found.secret_name) == (source["digest"], "s")
    assert not found.raw


def test_the_device_of_the_installation_is_the_default() -> None:
    found = model(config=settings(default_device="cuda"), parallelism={"tensor": 2, "pipeline": 2})
    assert (found.device, found.gpus, found.image) == ("cuda", 4, CONFIG.images["cuda"])


IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "an encoder on cpu": ({}, CONFIG.images["cpu"]),
    "generation on cpu": ({"task": "generate"}, CONFIG.torch_image),
    "limits of generation on cpu": ({"name": "x", "generation": {}}, CONFIG.torch_image),
    "a divided model on cpu": ({"parallelism": {"tensor": 2}}, CONFIG.torch_image),
    "a model on cuda": ({"device": "cuda"}, CONFIG.images["cuda"]),
    "generation on cuda": ({"device": "cuda", "task": "generate"}, CONFIG.images["cuda"]),
    "a raw source on cpu": ({"source": {"uri": "pip://x"}}, CONFIG.images["cpu"]),
}


@pytest.mark.parametrize("case", IMAGES)
def test_the_image_follows_from_device_and_task(case: str) -> None:
    fields, image = IMAGES[case]
    config = settings(torch_image="torch:1")
    expected = "torch:1" if image == CONFIG.torch_image and "cuda" not in case else image
    assert model(config=config, **fields).image == expected


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], Type, Reason, str]] = {
    "a name that nobody knows": (
        {"name": "bert-bas", "source": None},
        {},
        Type.DEGRADED,
        Reason.MODEL_UNKNOWN,
        "Did you mean 'bert-base'?",
    ),
    "a folder": (
        {"source": {"uri": "file:///x"}},
        {},
        Type.DEGRADED,
        Reason.SOURCE_UNAVAILABLE,
        "pvc://CLAIM/PATH",
    ),
    "random weights": (
        {"source": {"uri": "random://bert"}},
        {},
        Type.DEGRADED,
        Reason.RANDOM_WEIGHTS_REFUSED,
        "allowRandomWeights",
    ),
    "a raw source without torch": (
        {"source": {"uri": "hf://a/b"}},
        {"torch_image": ""},
        Type.DEGRADED,
        Reason.RAW_SOURCE_UNSUPPORTED,
        "torchImage",
    ),
    "a device without an image": (
        {"device": "rocm"},
        {},
        Type.DEVICE_UNAVAILABLE,
        Reason.NO_IMAGE_FOR_DEVICE,
        "images.rocm",
    ),
    "generation without torch": (
        {"task": "generate"},
        {"torch_image": ""},
        Type.DEVICE_UNAVAILABLE,
        Reason.NO_IMAGE_FOR_DEVICE,
        "torchImage",
    ),
    "limits of generation for an encoder": (
        {"generation": {"maxTokens": 8}},
        {},
        Type.DEGRADED,
        Reason.GENERATION_UNSUPPORTED,
        "its task is text-embedding",
    ),
    "an adapter in a folder": (
        {"task": "generate", "adapters": [{"name": "a", "source": {"uri": "file:///a"}}]},
        {},
        Type.DEGRADED,
        Reason.SOURCE_UNAVAILABLE,
        "The adapter 'a'",
    ),
    "GPUs on the default device cpu": (
        {"gpus": 1},
        {},
        Type.DEVICE_UNAVAILABLE,
        Reason.GPUS_MISMATCH,
        "on its device cpu a replica has 0",
    ),
    "GPUs that differ from the parts on the default device": (
        {"gpus": 3, "parallelism": {"tensor": 2}},
        {"default_device": "cuda"},
        Type.DEVICE_UNAVAILABLE,
        Reason.GPUS_MISMATCH,
        "a replica has 2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_says_why_and_what_to_do(case: str) -> None:
    fields, changes, condition, reason, part = REFUSED[case]
    found = model(config=settings(**changes), **fields)
    assert [(one.condition, one.reason) for one in found.findings] == [(condition, reason)]
    assert part in found.findings[0].message
    assert found.findings[0].model == found.name
    assert not found.servable


UNAVAILABLE = CATALOG.merged(
    {
        "bert-base": CATALOG.get("bert-base").to_wire()
        | {"availability": "It cannot run. Use minilm."}
    }
)


def test_an_entry_that_cannot_run_is_refused_with_its_own_words() -> None:
    found = resolved(one_model(source=None), catalog=UNAVAILABLE)[0]
    assert "It cannot run. Use minilm." in found.findings[0].message
    assert resolved(one_model(), catalog=UNAVAILABLE)[0].servable


ENTRIES: dict[str, tuple[str, str, str | None]] = {
    "by its source": ("mine", "hf://timm/resnet50.a1_in1k", "resnet50"),
    "by its architecture": ("mine", "random://timm/resnet50?seed=1", "resnet50"),
    "by the name of an entry as architecture": ("mine", "random://minilm", "minilm"),
    "by its name": ("minilm", "hf://somebody/else", "minilm"),
    "by its source before its name": ("minilm", "hf://timm/resnet50.a1_in1k", "resnet50"),
    "not at all": ("mine", "hf://somebody/else", None),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_the_catalog_describes_a_model_as_it_does_on_one_machine(case: str) -> None:
    name, uri, expected = ENTRIES[case]
    found = model(name, source={"uri": uri})
    entry = find_entry(name, uri, CATALOG)
    assert found.entry == entry
    assert (entry.name if entry else None) == expected
    assert found.task == (entry.task if entry else None)


def test_an_architecture_that_cannot_run_is_refused_whatever_the_name() -> None:
    config = settings(allow_random_weights=True)
    mine = one_model("mine", source={"uri": "random://bert-base?seed=0"})
    found = resolved(mine, config=config, catalog=UNAVAILABLE)[0]
    assert [one.reason for one in found.findings] == [Reason.SOURCE_UNAVAILABLE]


def test_random_weights_are_served_where_the_installation_allows_them() -> None:
    config = settings(allow_random_weights=True)
    assert model(source={"uri": "random://bert"}, config=config).servable


def test_one_bad_model_says_nothing_about_the_others() -> None:
    raw = one_model()
    raw["spec"]["models"].append({"name": "nobody-knows-it"})
    assert [found.servable for found in resolved(raw)] == [True, False]
