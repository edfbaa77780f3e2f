"""Each invalid file has one defect, which is reported once, at its place, in these words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_api._yaml_tree import read_documents
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import ErrorCode, InvalidPipelineError, Problem
from deepseek_api.loading import load_pipeline_file
from deepseek_api.v1alpha1.rules import RULES, Rule

from tests.unit.api.crd_schema import schema_error_paths

FOLDER = Path(__file__).parents[2] / "data" / "invalid"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "expected.yaml").read_text("utf-8"))
NAMES = sorted(EXPECTED)
ALL_RULES = [
    pytest.param(rule, id=f"{place}-{number}")
    for place, table in RULES.items()
    for number, rule in enumerate(table)
]


def of_class(*classes: str) -> list[str]:
    return [name for name in NAMES if EXPECTED[name]["class"] in classes]


def problems_of(name: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidPipelineError) as caught:
        load_pipeline_file(FOLDER / f"{name}.yaml", catalog=builtin_catalog())
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    return caught.value.problems


def test_every_file_has_an_expectation_and_there_are_enough() -> None:
    files = {file.stem for file in FOLDER.glob("*.yaml")} - {"expected"}
    assert files == set(EXPECTED)
    assert len(files) >= 64


@pytest.mark.parametrize("name", NAMES)
def test_the_one_defect_is_reported_at_its_place_in_the_expected_words(name: str) -> None:
    expected = dict(EXPECTED[name])
    expected.pop("class")
    [problem] = problems_of(name)
    assert problem.file == str(FOLDER / f"{name}.yaml")
    reported = {
        "path": problem.path,
        "line": problem.line,
        "column": problem.column,
        "message": problem.message,
        "hint": problem.hint,
    }
    assert reported == expected


@pytest.mark.parametrize("name", of_class("schema"))
def test_the_schema_of_the_crd_refuses_the_same_field(name: str) -> None:
    [document] = read_documents((FOLDER / f"{name}.yaml").read_text("utf-8"))
    assert EXPECTED[name]["path"] in schema_error_paths(document.value)


@pytest.mark.parametrize("name", of_class("cel", "semantic"))
def test_the_schema_of_the_crd_takes_what_only_a_rule_refuses(name: str) -> None:
    for document in read_documents((FOLDER / f"{name}.yaml").read_text("utf-8")):
        assert schema_error_paths(document.value) == []


@pytest.mark.parametrize("rule", ALL_RULES)
def test_every_rule_has_a_file_that_breaks_it(rule: Rule[Any]) -> None:
    texts = [EXPECTED[name]["message"] for name in of_class("cel")]
    pattern = re.compile(re.sub(r"%[\\.\d]*[sdf]", ".+", re.escape(rule.message)))
    assert any(pattern.fullmatch(text) for text in texts)


@pytest.mark.parametrize("name", NAMES)
def test_a_message_is_a_sentence_and_says_what_to_do(name: str) -> None:
    expected = EXPECTED[name]
    assert expected["message"].endswith(".")
    assert expected["hint"]
    assert expected["hint"].endswith((".", "?", "'"))
