"""The generated reference is current and its examples are valid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from deepseek_api import catalog, docgen, v1alpha1
from deepseek_api._docexamples import EXAMPLES
from deepseek_api.base import WireModel
from deepseek_api.fielddocs import field_docs

TYPES = (*docgen.SPEC_TYPES, *docgen.STATUS_TYPES, *docgen.CATALOG_TYPES)


def test_the_committed_reference_is_what_the_types_generate() -> None:
    assert docgen.main(["--check"]) == 0


def test_the_check_fails_on_drift_and_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert docgen.main(["--check"], path=tmp_path / "missing.md") == 1
    assert "python -m deepseek_api.docgen" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_of_the_reference_is_valid(name: str) -> None:
    cls: type[WireModel] = getattr(v1alpha1, name, None) or getattr(catalog, name)
    cls.model_validate(yaml.safe_load(EXAMPLES[name]), by_alias=True, by_name=False)


@pytest.mark.parametrize("cls", TYPES, ids=lambda cls: cls.__name__)
def test_every_field_has_a_description(cls: type[WireModel]) -> None:
    docs = field_docs(cls)
    assert all(docs.get(name, "").endswith((".", "`")) for name in cls.model_fields)


@pytest.mark.parametrize(
    "words", [v1alpha1.ConditionType, v1alpha1.ConditionReason, v1alpha1.Policy], ids=str
)
def test_every_word_of_an_enum_has_a_description(words: type[v1alpha1.Policy]) -> None:
    assert set(field_docs(words)) == set(words.__members__)
