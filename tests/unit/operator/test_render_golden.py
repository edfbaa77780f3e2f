"""All objects of two pipelines, as files that people can read and that a change shows up in.

``DEEPSEEK_UPDATE_GOLDEN=1`` writes the files anew; read the difference before you keep it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.rendering import Installation, from_file

REPOSITORY = Path(__file__).parents[3]
DATA = REPOSITORY / "tests/data/operator"
CASES = {
    "nlp-vision-joint": REPOSITORY / "examples/nlp-vision-joint.yaml",
    "rich": DATA / "rich.yaml",
}


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_gives_exactly_these_objects(case: str) -> None:
    rendered = Installation().rendered(from_file(CASES[case]))
    text = yaml.dump_all(rendered.objects, Dumper=_Plain, sort_keys=True, width=10_000)
    file = DATA / "golden" / f"{case}.yaml"
    if os.environ.get("DEEPSEEK_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert list(yaml.safe_load_all(file.read_text("utf-8"))) == list(yaml.safe_load_all(text))


@pytest.mark.parametrize("case", CASES)
def test_rendering_again_over_what_was_applied_changes_nothing(case: str) -> None:
    raw = from_file(CASES[case])
    installation = Installation().after(raw)
    assert installation.rendered(raw).objects == Installation().rendered(raw).objects
