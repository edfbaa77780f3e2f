"""The pages of the client name things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from deepseek_api.loading import load_pipelines

from tests.support.command import invoke

ROOT = Path(__file__).resolve().parents[3]
COVERAGE = (ROOT / "docs" / "coverage.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()


def test_every_surface_is_listed_once_in_order() -> None:
    assert re.findall(r"^\| (A\d+) \|", COVERAGE, re.MULTILINE) == [f"A{n}" for n in range(1, 24)]


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(tests/\S+\.py)`", COVERAGE))
    assert named
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_a_surface_that_works_or_fails_exactly_names_a_test() -> None:
    for row in re.findall(r"^\| A\d+ .*$", COVERAGE, re.MULTILINE):
        claims = "**works**" in row or "**exact error**" in row
        assert claims == ("`tests/" in row), row


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"(?:`|^)deepseek ([a-z]+)", QUICKSTART, re.M)))
)
def test_every_command_of_the_quickstart_exists(command: str) -> None:
    assert invoke(command, "--help").code == 0


def test_the_pipeline_of_the_quickstart_is_valid() -> None:
    text = QUICKSTART.partition("```yaml\n")[2].partition("```")[0]
    assert load_pipelines(text)[0].warnings == ()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_every_example_pipeline_is_valid_without_a_warning(path: Path) -> None:
    ran = invoke("validate", "-f", str(path))
    assert (ran.code, ran.err) == (0, "")
