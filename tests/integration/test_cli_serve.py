"""``deepseek serve`` and ``deepseek infer`` as real processes with small models."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deepseek import Client
from PIL import Image

from tests.support import bundles
from tests.support.command import Serve, environment, invoke, pipeline, run
from tests.support.worker import alive, until

RULES = ["  scheduler:", "    priorityRules:", "    - {modelType: NLP, weight: 0.6}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("serve")
    bundles.write_embedding(base / "embed")
    bundles.write_classifier(base / "colours")
    bundles.write_echo(base / "echo")
    names = ("embed", "colours", "echo")
    text = pipeline({name: base / name for name in names}, extra=RULES, name="tiny")
    text = text.replace("- name: embed\n", "- name: embed\n    type: NLP\n")
    (base / "tiny.yaml").write_text(text)
    Image.new("RGB", (32, 32), (220, 20, 30)).save(base / "red.png")
    return base


@pytest.fixture(scope="module")
def serve(folder: Path) -> Iterator[Serve]:
    with Serve("-f", str(folder / "tiny.yaml")) as process:
        process.wait_line("Stop it with Ctrl-C.")
        yield process


def test_the_table_shows_models_precisions_and_weights(serve: Serve) -> None:
    lines = [line.split() for line in "".join(serve.out).splitlines()]
    assert ["Pipeline", "tiny"] in lines
    rows = {
        words[0]: words for words in lines if words and words[0] in ("embed", "colours", "echo")
    }
    assert rows["embed"][1:6] == ["NLP", "fp32", "fp32", "60", "%"]
    assert rows["colours"][1:6] == ["CV", "fp32", "fp32", "20", "%"]
    assert all(words[-1] == "ready" for words in rows.values())


def test_every_printed_call_works_as_it_stands(serve: Serve, folder: Path) -> None:
    calls = [line.split() for line in serve.out if line.startswith("  deepseek infer")]
    assert [call[call.index("--model") + 1] for call in calls] == ["embed", "colours", "echo"]
    text_call = [word.strip('"') for word in calls[0][1:]]
    assert run(*text_call).code == 0
    image_call = [str(folder / "red.png") if w == "photo.jpg" else w for w in calls[1][1:]]
    assert run(*image_call).code == 0


def test_two_texts_print_their_similarity_precision_and_latency(serve: Serve) -> None:
    ran = run("infer", "--url", serve.url, "--model", "embed", "--text", "the cat", "the cat")
    assert ran.code == 0
    assert "cosine similarity: 1.0000" in ran.out
    assert "embed: fp32 (variant fp32), " in ran.out
    assert ran.out.rstrip().endswith("ms")


def test_a_picture_prints_its_labels(serve: Serve, folder: Path) -> None:
    picture = str(folder / "red.png")
    ran = invoke("infer", "--url", serve.url, "--model", "colours", "--image", picture)
    row = next(line for line in ran.out.splitlines() if line.startswith("red.png"))
    assert row.split()[1] == "red"


def test_tensors_go_in_and_out_as_json(serve: Serve) -> None:
    tensor = {"name": "IN", "datatype": "FP32", "shape": [1, 16], "data": list(range(16))}
    request = json.dumps({"inputs": [tensor]})
    arguments = ["infer", "--url", serve.url, "--model", "echo", "--json", "-"]
    answer = json.loads(run(*arguments, "-o", "json", stdin=request).out)
    assert answer["outputs"][0]["data"] == list(range(16))
    assert answer["parameters"]["precision"] == "fp32"
    assert answer["latency_ms"] > 0
    assert "FP32" in run(*arguments, stdin=request).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nobody", "--text", "a"], "nobody"),
        (["--model", "echo", "--text", "a"], "no input 'text'"),
        (["--model", "colours", "--image", __file__], "image"),
    ],
    ids=["unknown model", "wrong task", "no picture"],
)
def test_a_refused_call_exits_with_1_and_a_sentence(
    serve: Serve, arguments: list[str], words: str
) -> None:
    ran = invoke("infer", "--url", serve.url, *arguments)
    assert ran.code == 1
    assert words in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_stops_it_and_leaves_nothing_behind(folder: Path, number: signal.Signals) -> None:
    text = pipeline({"echo": folder / "echo"})
    with Serve("-f", "-", stdin=text) as process:
        with Client(process.url) as client:
            client.infer("echo", {"IN": np.zeros((1, 16), np.float32)})
        started = next(line for line in process.err if "the engine process started" in line)
        engine = int(json.loads(started)["pid"])
        process.signal(number)
        assert process.wait().code == 0
    until(lambda: not alive(engine), what="the end of the engine")


def test_a_model_that_fails_is_shown_and_the_others_serve(folder: Path, tmp_path: Path) -> None:
    broken = bundles.write_echo(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"short")
    text = pipeline({"broken": broken, "echo": folder / "echo"})
    with Serve("-f", "-", stdin=text) as process:
        process.wait_line("Stop it with Ctrl-C.")
        printed = "".join(process.out)
        assert "failed" in printed
        assert "broken: " in printed
        assert str(tmp_path) not in printed
        with Client(process.url) as client:
            assert client.ready("echo")
            assert not client.ready("broken")


def test_on_a_terminal_it_shows_how_far_each_model_is(folder: Path) -> None:
    master, slave = pty.openpty()
    arguments = ["-f", str(folder / "tiny.yaml"), "--grpc-port", "0", "--http-port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepseek", "serve", *arguments],
        stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
        env={**environment(), "TERM": "xterm", "COLUMNS": "160"},
    )  # fmt: skip
    os.close(slave)
    try:
        screen = read_screen(master, "Stop it with Ctrl-C.")
    finally:
        process.terminate()
        read_screen(master, None)
        os.close(master)
        process.wait(60)
    before, _, _ = screen.partition("Pipeline tiny")
    assert all(f"{name}: starting" in before for name in ("embed", "colours", "echo"))
    logged = [line for line in before.splitlines() if "model ready" in line]
    assert len(logged) == 3
    assert all("INFO" in line and "starting" not in line for line in logged), "above the bars"


def read_screen(master: int, until_text: str | None) -> str:
    """What a terminal gets until a text, or until nobody can write to it any more."""
    screen = b""
    while until_text is None or until_text.encode() not in screen:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        if not part:
            break
        screen += part
    return screen.decode()


def test_it_ends_with_1_when_no_model_can_be_loaded(tmp_path: Path) -> None:
    broken = bundles.write_echo(tmp_path / "broken")
    (broken / "model.onnx").unlink()
    with Serve("-f", "-", stdin=pipeline({"broken": broken})) as process:
        ran = process.wait()
    assert ran.code == 1
    assert "model.onnx" in ran.out


def test_random_weights_are_marked(tmp_path: Path) -> None:
    bundle = bundles.write_echo(tmp_path / "echo")
    manifest = json.loads((bundle / "manifest.json").read_text()) | {"randomWeights": True}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with Serve("-f", "-", stdin=pipeline({"echo": bundle})) as process:
        process.wait_line("random weights")
        with Client(process.url) as client:
            result = client.infer("echo", {"IN": np.zeros((1, 16), np.float32)})
    assert result.parameters["random_weights"] is True


def test_a_port_in_use_is_refused_at_once(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        ran = run("serve", "-f", str(folder / "tiny.yaml"), "--http-port", port, "--grpc-port", "0")
    assert ran.code == 2
    assert f"Port {port}" in ran.err
    assert "--http-port" in ran.err


def test_an_invalid_file_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(pipeline({"m": "file:///x"}).replace("source:", "sorce:"))
    ran = run("serve", "-f", str(path))
    assert ran.code == 2
    assert f"{path}:8:" in ran.err
