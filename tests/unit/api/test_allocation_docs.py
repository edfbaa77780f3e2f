"""The examples of docs/allocation.md are true."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepseek_api.allocation import Allocation, LimitedBy, allocate
from deepseek_api.loading import load_pipelines

DOC = Path(__file__).parents[3] / "docs" / "allocation.md"


@dataclass
class Example:
    """A pipeline of the page and what the page says about it."""

    text: str
    demands: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    sentences: list[tuple[str, str]] = field(default_factory=list)

    def allocate(self) -> Allocation:
        [(pipeline, _)] = load_pipelines(self.text, DOC.name)
        return allocate(pipeline, demands=self.demands)


def read_examples() -> list[Example]:
    found: list[Example] = []
    header: list[str] = []
    parts = re.split(r"```yaml\n(.*?)```\n", DOC.read_text("utf-8"), flags=re.DOTALL)
    for index, part in enumerate(parts):
        if index % 2:
            content: dict[str, Any] = yaml.safe_load(part)
            if "demands" in content:
                found[-1].demands = content["demands"]
            else:
                found.append(Example(part))
            continue
        for line in part.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] == "model":
                header = cells
            elif len(cells) == len(header) > 2 and found and not cells[0].startswith("--"):
                found[-1].rows.append(dict(zip(header, cells, strict=True)))
            elif line.startswith("> "):
                model, _, sentence = line[2:].partition(": ")
                found[-1].sentences.append((model, sentence))
    return found


EXAMPLES = read_examples()
IDS = [re.findall(r"name: (\S+)", example.text)[0] for example in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_the_table_of_an_example_is_what_allocation_gives(example: Example) -> None:
    computed = [row.to_wire() for row in example.allocate().rows]
    assert example.rows
    assert example.rows == [
        {column: str(row[column]) for column in example.rows[0]} for row in computed
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=IDS)
def test_the_sentences_of_an_example_are_what_allocation_says(example: Example) -> None:
    allocation = example.allocate()
    assert example.sentences
    for model, sentence in example.sentences:
        assert allocation.row(model).explanation == sentence


@pytest.mark.parametrize("limit", LimitedBy, ids=str)
def test_every_limit_has_a_heading_and_an_example(limit: LimitedBy) -> None:
    assert f"\n## `{limit}`: " in DOC.read_text("utf-8")
    assert any(row["limitedBy"] == limit for example in EXAMPLES for row in example.rows)
