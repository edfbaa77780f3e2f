"""The parts of the command line that print, read requests and limit batches."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek.cli import _answers, _batch_limit, _console, _errors
from deepseek.cli._json_request import read_request
from deepseek.cli._progress import bars, preparing
from deepseek.cli._ready import Loading, loading
from deepseek.cli._report import show_report
from deepseek_api.errors import ConfigurationError, DeviceError, PrecisionError, SourceError
from deepseek_api.manifest import bundle_digest
from deepseek_engine.messages import ModelInfo, ModelState
from deepseek_engine.prepare.api import PreparedBundle
from deepseek_engine.prepare.messages import PrepareEvent
from deepseek_worker.fleet import ModelStatus, Phase
from rich.console import Console

from tests.support import bundles


def test_progress_without_a_terminal_is_one_line_a_stage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with preparing("m") as on_event:
        for done in range(3):
            on_event(PrepareEvent(kind="progress", stage="export", done=done, total=2))
        on_event(PrepareEvent(kind="warning", message="odd"))
        on_event(PrepareEvent(kind="progress", stage="measure"))
    assert capsys.readouterr().err == "m: export\nm: odd\nm: measure\n"


def test_loading_without_a_terminal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with loading(["a", "b"]) as shown:
        shown.show([ModelStatus("a", Phase.STARTING, "", "", None)])
        shown.end()
    assert capsys.readouterr().err == "Loading a, b ...\n"


@pytest.mark.parametrize(
    ("phase", "info", "words"),
    [
        (Phase.STARTING, None, "m: starting"),
        (Phase.LOADING, {"stage": "verifying", "progress": 0.4}, "m: verifying 40 %"),
        (Phase.LOADING, {"stage": "opening", "progress": 0.0}, "m: opening"),
        (Phase.PROVING, {}, "m: proving"),
        (Phase.READY, {}, "m: ready 100 %"),
        (Phase.FAILED, {}, "m: failed"),
    ],
    ids=["starting", "verifying", "opening", "proving", "ready", "failed"],
)
def test_a_bar_shows_the_stage_and_the_part_that_is_done(
    phase: Phase, info: dict[str, Any] | None, words: str
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=80)
    known = None if info is None else ModelInfo(name="m", state=ModelState.LOADING, **info)
    with bars(console) as progress:
        Loading(progress, ["m"]).show([ModelStatus("m", phase, "", "", known)])
        progress.refresh()
    last = screen.getvalue().split("\r\x1b[2K")[-2]
    assert f"{words} 0:00:" in " ".join(last.split()), "in front of the time"


def write_request(folder: Path, body: Any) -> str:
    path = folder / "request.json"
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    return str(path)


def test_a_json_request_may_be_the_text_itself() -> None:
    text = ' {"inputs": [{"name": "a", "datatype": "INT8", "shape": [2], "data": [1, 2]}]}'
    assert np.asarray(read_request(text)[0]["a"]).tolist() == [1, 2]
    with pytest.raises(
        ConfigurationError, match="The request in the argument of --json is not valid JSON"
    ):
        read_request('{"inputs": [')


def test_a_json_request_becomes_arrays(tmp_path: Path) -> None:
    body = {
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [[1, 2]]},
            {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["x"]},
        ],
        "outputs": [{"name": "y"}],
        "parameters": {"top_k": 2},
    }
    inputs, parameters, outputs = read_request(write_request(tmp_path, body))
    np.testing.assert_array_equal(np.asarray(inputs["a"]), np.array([[1, 2]], np.float32))
    assert np.asarray(inputs["t"]).tolist() == ["x"]
    assert (parameters, outputs) == ({"top_k": 2}, ["y"])


def test_a_json_request_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"inputs": []}')))
    assert read_request("-") == ({}, {}, [])


TENSOR = {"name": "a", "datatype": "FP32", "shape": [2], "data": [1, 2]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "is not valid JSON"),
        ([], "has no list 'inputs'"),
        ({"inputs": [{"name": "a"}]}, "without name, datatype, shape or data"),
        ({"inputs": [TENSOR | {"datatype": "FP9"}]}, "datatype 'FP9'"),
        ({"inputs": [TENSOR | {"shape": [3]}]}, "does not fit"),
        ({"inputs": [TENSOR | {"data": ["x"]}]}, "does not fit"),
        ({"inputs": [], "outputs": [3]}, "output without a name"),
        ({"inputs": [], "parameters": 3}, "object 'parameters'"),
    ],
    ids=["json", "list", "fields", "datatype", "shape", "data", "output", "parameters"],
)
def test_a_wrong_json_request_says_what_is_wrong(tmp_path: Path, body: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read_request(write_request(tmp_path, body))


@pytest.mark.parametrize(("text", "limit"), [("32", 32), ("70%", 0.7), (" 12.5 % ", 0.125)])
def test_a_batch_limit_is_a_number_or_a_share(text: str, limit: float) -> None:
    assert _batch_limit.parse_limit(text) == limit


@pytest.mark.parametrize("text", ["", "0", "-3", "0%", "101%", "many", "1.5"])
def test_what_is_no_batch_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a limit"):
        _batch_limit.parse_limit(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("x"), 2),
        (PrecisionError("x"), 2),
        (SourceError("x"), 1),
        (DeviceError("x"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes_tell_wrong_input_from_failure(error: Any, code: int) -> None:
    assert _errors.exit_code(error) == code


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (83 << 20, "83 MiB"), (5 << 40, "5120 GiB")],
)
def test_sizes_read_well(count: int, text: str) -> None:
    assert _console.size(count) == text


def test_similarity_of_a_zero_vector_is_zero() -> None:
    assert _answers.cosine(np.zeros(3), np.ones(3)) == 0
    assert _answers.cosine(np.ones(3), np.ones(3)) == pytest.approx(1)


def test_the_report_shows_size_agreement_speed_and_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = bundles.write_echo(tmp_path / "echo")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"][0] |= {
        "tensorBytes": 2048,
        "agreement": {
            "metric": "cosine", "mean": 0.995, "worst": 0.99, "samples": 60, "bound": 0.994,
            "reference": "torch fp32",
        },
        "speed": {
            "medianMs": 4.25, "shape": "1x128 tokens", "device": "a processor", "threads": 2,
            "instructionSet": "avx2", "runtime": "onnxruntime 1", "ratioToFp32": 1.5,
        },
        "notes": ["The first layer stayed at fp32."],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    digest = bundle_digest(bundles.read_manifest(folder))
    show_report(PreparedBundle(folder, digest, cached=False), as_json=False)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "echo (tensors) from random://test?seed=0",
        "VARIANT  TENSORS  AGREEMENT   WORST    TIME  VS FP32  SERVES",
        "────────────────────────────────────────────────────────────────",
        "fp32     2.0 KiB     0.9950  0.9900  4.2 ms    1.50x  auto, fp32",
        "",
        "Agreement: cosine similarity with torch fp32 over 60 samples; auto needs 0.994.",
        "Time: median of 1x128 tokens on a processor, 2 threads, avx2, onnxruntime 1.",
        "fp32: The first layer stayed at fp32.",
        f"Written to {folder}",
        f"Digest {digest}",
    ]
