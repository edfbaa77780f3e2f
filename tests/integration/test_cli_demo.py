"""The demo with the real models: what ``make demo`` runs, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.worker import alive, until

pytestmark = [
    pytest.mark.models,
    pytest.mark.timeout(600),
]

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"


def children(pid: int) -> list[int]:
    """Processes below a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo prints when it is started in another folder, without a hub."""
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_texts_that_mean_the_same_are_nearer_than_others(first_run: str) -> None:
    values = [float(value) for value in re.findall(r"similarity +(-?[\d.]+)", first_run)]
    assert len(values) == 3
    assert min(values[:2]) > 0.4 > 0.2 > values[2]


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("coffee.png", "espresso"),
        ("camera.png", "tripod"),
        ("chelsea.png", "cat"),
        ("motorcycle_left.png", "moped"),
    ],
)
def test_the_best_label_of_a_photograph_is_right(first_run: str, picture: str, label: str) -> None:
    after = first_run.partition(f": {picture} in ")[2]
    assert label in after.splitlines()[1]


def test_precision_latency_and_the_next_steps_are_printed(first_run: str) -> None:
    assert re.search(r"minilm: 6 texts in [\d.]+ ms, precision \w+ \(variant [\w-]+\)", first_run)
    assert re.search(r"First answer [\d.]+ s after the start", first_run)
    assert "deepseek infer --model minilm" in first_run


@pytest.fixture
def running(first_run: str) -> Iterator[subprocess.Popen[str]]:
    """A demo whose server has been started; everything is prepared already."""
    process = subprocess.Popen([sys.executable, str(DEMO)], stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: children(process.pid), what="the demo's server")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_demo_leaves_nothing_running(
    running: subprocess.Popen[str], number: signal.Signals
) -> None:
    below = children(running.pid)
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode == 128 + number
    until(lambda: not any(alive(pid) for pid in below), what="the end of all processes")


IN_THE_FORK = """
import os, runpy, signal, subprocess, sys

class Interrupted(subprocess.Popen):
    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        print(self.pid, file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

subprocess.Popen = Interrupted
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_a_signal_while_the_server_is_being_started_leaves_nothing_running() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_FORK, str(DEMO)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 128 + signal.SIGTERM
    server = int(done.stderr.splitlines()[0])
    until(lambda: not alive(server), what="the end of the server")
