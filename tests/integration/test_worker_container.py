"""A worker in a container: it finds its models, and leaves the cause of its end behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from deepseek_engine.client import ModelConfig
from deepseek_worker.container import config_of_folder

from tests.support.bundles import write_echo
from tests.support.worker import WorkerProcess, model

ON_IMPORT = """
import os, sys

def end(event, arguments):
    if event == "import" and arguments[0] == {module!r} and "deepseek_engine" in sys.orig_argv:
        {action}

sys.addaudithook(end)
"""
"""A ``sitecustomize`` that ends each engine process when it imports a module."""


def damage(bundle: Path) -> None:
    for path in bundle.iterdir():
        if path.name != "manifest.json":
            path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("digest", "spoil", "reason"),
    [
        ("sha256:" + "0" * 64, lambda bundle: None, "DigestMismatch"),
        ("", lambda bundle: (bundle / "manifest.json").unlink(), "MissingBundle"),
        ("", damage, "TruncatedFile"),
    ],
    ids=["another digest", "no bundle", "damaged"],
)
def test_a_worker_that_can_serve_nothing_ends_and_says_why(
    tmp_path: Path, digest: str, spoil: Callable[[Path], None], reason: str
) -> None:
    bundle = write_echo(tmp_path / "echo")
    spoil(bundle)
    log = tmp_path / "termination-log"
    with WorkerProcess(
        tmp_path,
        [model("echo", bundle, digest=digest)],
        environment={"DEEPSEEK_TERMINATION_LOG": str(log)},
    ) as worker:
        assert worker.wait() == 1
    cause = json.loads(log.read_text())
    assert cause["reason"] == reason
    assert cause["message"].startswith("Model echo: ")


@pytest.mark.parametrize(
    ("module", "action", "reason", "says"),
    [
        ("onnxruntime", "os.kill(os.getpid(), 9)", "OutOfMemory", "Raise the memory limit"),
        ("deepseek_engine.process", "os._exit(3)", "EngineFailed", "ended with status 3"),
    ],
    ids=["killed while it loads", "ends before it starts"],
)
def test_a_worker_whose_engine_ends_again_and_again_says_why(
    tmp_path: Path, module: str, action: str, reason: str, says: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ON_IMPORT.format(module=module, action=action))
    log = tmp_path / "termination-log"
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    with WorkerProcess(
        tmp_path,
        [model("echo", write_echo(tmp_path / "echo"))],
        environment={"DEEPSEEK_TERMINATION_LOG": str(log), "PYTHONPATH": path},
    ) as worker:
        assert worker.wait() == 1
    cause = json.loads(log.read_text())
    assert cause["reason"] == reason
    assert says in cause["message"]


def test_a_model_without_memory_is_refused_before_it_takes_any(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    with WorkerProcess(
        tmp_path,
        [model("echo", write_echo(tmp_path / "echo"))],
        memory_limit_bytes=1000,
        environment={"DEEPSEEK_TERMINATION_LOG": str(log)},
    ) as worker:
        assert worker.wait() == 1
    assert json.loads(log.read_text())["reason"] == "InsufficientMemory"


def test_a_worker_that_can_serve_one_of_two_models_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    good = write_echo(tmp_path / "echo")
    with WorkerProcess(
        tmp_path,
        [model("echo", good), model("gone", tmp_path / "nowhere")],
        environment={"DEEPSEEK_TERMINATION_LOG": str(log)},
    ) as worker:
        assert worker.wait_log("every model is settled")["failed"] == ["gone"]
        assert worker.get("/livez")[0] == 200
        assert not log.exists()


def test_without_a_termination_log_a_worker_stays_to_be_looked_at(tmp_path: Path) -> None:
    with WorkerProcess(tmp_path, [model("gone", tmp_path / "nowhere")]) as worker:
        assert worker.wait_log("a model is not served")["reason"] == "MissingBundle"
        assert worker.get("/livez")[0] == 200


def test_wrong_settings_are_left_in_the_termination_log(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    with WorkerProcess(tmp_path, [], environment={"DEEPSEEK_TERMINATION_LOG": str(log)}) as worker:
        assert worker.wait() == 2
    assert json.loads(log.read_text()) == {
        "reason": "InvalidConfiguration",
        "message": "No model is configured. List at least one model.",
    }


def test_every_bundle_of_a_folder_is_served_to_the_outside(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_echo(tmp_path / "models" / name)
    (tmp_path / "models" / "not-a-bundle").mkdir()
    config = config_of_folder(tmp_path / "models")
    assert [one.name for one in config.models] == ["a", "b"]
    assert config.models[0] == ModelConfig(name="a", bundle=str(tmp_path / "models" / "a"))
    assert config.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--models", "{folder}"], "There is no bundle below {folder}."),
        (["--config", "{folder}/no.json", "--models", "{folder}"], "There is no bundle below"),
        (["--config", "{folder}/no.json"], "cannot be read"),
        ([], "Nothing says what to serve. Give --config or --models."),
    ],
    ids=["empty folder", "no file and empty folder", "no file", "nothing"],
)
def test_a_worker_without_models_says_what_to_give(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    filled = [argument.format(folder=tmp_path) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "deepseek_worker", *filled],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert says.format(folder=tmp_path) in done.stderr
