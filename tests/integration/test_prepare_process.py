"""The real preparing process: what it makes of a small encoder, and when it ends."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from deepseek_api.errors import DeepseekError, ErrorCode
from deepseek_api.manifest import Manifest
from deepseek_engine.bundles import open_bundle
from deepseek_engine.prepare.api import PrepareEvent, PrepareRequest, prepare

pytestmark = [pytest.mark.timeout(300)]

CONFIG = {
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a tiny encoder; its weights are a pickle that would run a program."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "weights.bin").write_bytes(pickle.dumps(Canary(tmp_path / "canary"), 2))
    return folder


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, list[PrepareEvent]]:
    """The bundle of the same encoder with random weights, in every precision."""
    source = tmp_path_factory.mktemp("random")
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "weights.bin").touch()  # never opened
    events: list[PrepareEvent] = []
    request = PrepareRequest(
        name="tiny", uri=source.as_uri(), random_weights=True, seed=3, threads=1
    )
    bundle = prepare(request, output=source / "bundle", on_event=events.append)
    manifest = open_bundle(bundle.path).manifest
    return bundle.path, manifest, events


def test_a_bundle_has_every_variant_and_only_the_files_it_lists(
    made: tuple[Path, Manifest, list[PrepareEvent]],
) -> None:
    path, manifest, _ = made
    assert [variant.id for variant in manifest.variants] == [
        "fp32", "int8-avx2", "int8-vnni", "int8-guarded-avx2", "int8-guarded-vnni", "mixed-avx2",
        "mixed-vnni", "fp32-torch",
    ]  # fmt: skip
    listed = {file.path for file in manifest.all_files()} | {"manifest.json"}
    assert {file.name for file in path.iterdir()} == listed


def test_whoever_may_read_the_manifest_may_read_every_file(
    made: tuple[Path, Manifest, list[PrepareEvent]],
) -> None:
    path, _, _ = made
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1


def test_random_weights_are_said_to_be_random(
    made: tuple[Path, Manifest, list[PrepareEvent]],
) -> None:
    _, manifest, _ = made
    assert manifest.random_weights
    assert manifest.created_by["torch"]


def test_progress_names_every_step(made: tuple[Path, Manifest, list[PrepareEvent]]) -> None:
    _, _, events = made
    stages = dict.fromkeys(event.stage for event in events if event.kind == "progress")
    assert list(stages) == [
        "starting", "reading weights", "exporting to ONNX", "quantizing", "comparing with fp32",
        "measuring speed", "writing the manifest",
    ]  # fmt: skip
    assert events[-1].kind == "done"


def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(folder: Path, tmp_path: Path) -> None:
    request = PrepareRequest(name="evil", uri=folder.as_uri(), threads=1)
    with pytest.raises(DeepseekError, match="was refused: opening it would run code") as caught:
        prepare(request, output=tmp_path / "out")
    assert caught.value.reason == "DangerousPickle"
    assert not (tmp_path / "canary").exists()
    assert str(tmp_path) not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_process_ends_with_its_caller(folder: Path, tmp_path: Path) -> None:
    """A caller that was killed closes the pipe; what it wanted is not made."""
    request = PrepareRequest(name="tiny", uri=folder.as_uri(), random_weights=True, threads=1)
    with subprocess.Popen(
        [sys.executable, "-m", "deepseek_engine.prepare", str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(msgspec.json.encode(request) + b"\n")
        child.stdin.flush()
        first = msgspec.json.decode(child.stdout.readline(), type=PrepareEvent)
        child.stdin.close()
        rest = child.stdout.read()
        assert child.wait(timeout=60) == 1
    assert first.stage == "starting"
    assert b"done" not in rest
    assert not (tmp_path / "manifest.json").exists()


def test_a_source_error_crosses_the_process_border_with_its_code(tmp_path: Path) -> None:
    request = PrepareRequest(name="m", uri="pip://no-such-package")
    with pytest.raises(DeepseekError) as caught:
        prepare(request, output=tmp_path / "out")
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert "pip install 'no-such-package'" in str(caught.value)
