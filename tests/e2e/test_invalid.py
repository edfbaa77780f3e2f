"""The API server refuses what the types refuse: same place, and for CEL rules the same sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.support.cluster import ROOT, ApiRefused, Kube, Space

CORPUS = ROOT / "tests" / "data" / "invalid"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load((CORPUS / "expected.yaml").read_text())
READER_ONLY = {"nested-too-deep"}
"""Refused by our reader alone: it limits nesting, the server does not below an unchecked field."""


def of_class(*names: str) -> list[str]:
    return [name for name, one in EXPECTED.items() if one["class"] in names]


def test_every_file_of_the_corpus_is_expected() -> None:
    assert {path.stem for path in CORPUS.glob("*.yaml")} - {"expected"} == set(EXPECTED)


def refusal(space: Space, name: str) -> ApiRefused | None:
    """What the server says to a file; strict, without keeping it."""
    text = (CORPUS / f"{name}.yaml").read_bytes()
    path = space.kube.path("ModelPipeline", "", space.name)
    try:
        space.kube.request(
            "POST",
            f"{path}?dryRun=All&fieldValidation=Strict",
            text,
            content_type="application/yaml",
        )
    except ApiRefused as refused:
        return refused
    return None


def fields(refused: ApiRefused) -> set[str]:
    """Paths that the server names, as the types write them."""
    named = {str(cause.get("field", "")) for cause in refused.causes}
    # Unknown and doubled fields are decoding errors: a sentence with the path in quotes.
    named |= set(re.findall(r'(?:unknown|duplicate) field "([^"]+)"', str(refused)))
    return named


@pytest.mark.usefixtures("crd")
@pytest.mark.parametrize("name", of_class("cel"))
def test_a_cel_rule_says_the_same_at_the_same_place(name: str, bare_space: Space) -> None:
    refused = refusal(bare_space, name)
    assert refused is not None, "the server took it"
    expected = EXPECTED[name]
    said = [cause["message"] for cause in refused.causes]
    assert any(expected["message"] in text for text in said), said
    assert expected["path"] in fields(refused) | {""}, fields(refused)


@pytest.mark.usefixtures("crd")
@pytest.mark.parametrize("name", of_class("schema"))
def test_the_schema_refuses_at_the_same_place(name: str, bare_space: Space) -> None:
    refused = refusal(bare_space, name)
    assert refused is not None, "the server took it"
    path = EXPECTED[name]["path"]
    # A mapping in the place of a list is refused as an unknown field below it.
    assert any(field == path or field.startswith(f"{path}.") for field in fields(refused)), refused


@pytest.mark.usefixtures("crd")
@pytest.mark.parametrize("name", of_class("semantic"))
def test_the_server_takes_what_only_the_command_line_can_know(name: str, bare_space: Space) -> None:
    for document in yaml.safe_load_all((CORPUS / f"{name}.yaml").read_text()):
        bare_space.kube.request(
            "POST",
            bare_space.kube.path("ModelPipeline", "", bare_space.name) + "?dryRun=All",
            document,
        )


@pytest.mark.usefixtures("crd")
@pytest.mark.parametrize("name", sorted(set(of_class("load")) - READER_ONLY))
def test_what_is_no_readable_pipeline_is_refused(
    name: str, bare_space: Space, refused_by_kubectl: Callable[[str], bool]
) -> None:
    assert refused_by_kubectl(name) or refusal(bare_space, name) is not None


@pytest.fixture(scope="module")
def refused_by_kubectl(kube: Kube, bare_space: Space) -> Callable[[str], bool]:
    def ask(name: str) -> bool:
        done = kube.kubectl(
            *("apply", "--dry-run=server", "--validate=strict", "-n", bare_space.name),
            *("-f", str(CORPUS / f"{name}.yaml")),
            check=False,
        )
        return done.returncode != 0

    return ask
