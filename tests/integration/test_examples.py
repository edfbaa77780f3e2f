"""The numbered examples run as they are, against small models of the same names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import bundles
from tests.support.worker import WorkerProcess, model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("examples")
    models = [
        model("minilm", bundles.write_embedding(folder / "text")),
        model("efficientnet-lite0", bundles.write_classifier(folder / "image")),
    ]
    with WorkerProcess(folder, models) as worker:
        yield worker.wait_ready().target


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_01_embed_texts(url: str) -> None:
    assert len(run("01_embed_texts.py", url).splitlines()) == 2


def test_02_classify_image(url: str) -> None:
    lines = run("02_classify_image.py", url).splitlines()
    assert lines[0] == "chelsea.png"
    assert len(lines) == 4


def test_03_tritonclient(url: str) -> None:
    assert run("03_tritonclient.py", url).splitlines()[1] == "precision: fp32"


def test_04_in_process_engine(tmp_path: Path) -> None:
    bundle = bundles.write_embedding(tmp_path / "text")
    lines = run("04_in_process_engine.py", str(bundle)).splitlines()
    assert lines[0] == "100 vectors of 8 numbers"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("0*.py")), ids=lambda path: path.name)
def test_numbered_examples_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40
