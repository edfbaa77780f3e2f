"""Events are lines of JSON, whole ones, and nothing else gets between them."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import msgspec
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.messages import PrepareEvent


def decoded(stream: io.BytesIO) -> list[PrepareEvent]:
    return [msgspec.json.decode(line, type=PrepareEvent) for line in stream.getvalue().splitlines()]


def test_items_pass_through_and_each_is_a_step() -> None:
    stream = io.BytesIO()
    assert list(Reporter(stream).track("quantizing", "ab", 2, "variants")) == ["a", "b"]
    assert [(e.kind, e.stage, e.done, e.total, e.unit) for e in decoded(stream)] == [
        ("progress", "quantizing", done, 2, "variants") for done in (0, 1, 2)
    ]


def test_a_warning_keeps_its_message() -> None:
    stream = io.BytesIO()
    Reporter(stream).warning("Mind\nthis.")
    assert decoded(stream) == [PrepareEvent(kind="warning", message="Mind\nthis.")]


def test_events_of_several_threads_do_not_mix() -> None:
    stream = io.BytesIO()
    report = Reporter(stream)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: report.progress("x" * n), range(200)))
    assert sorted(len(event.stage) for event in decoded(stream)) == list(range(200))


def test_what_libraries_print_does_not_reach_the_events() -> None:
    program = (
        "import os\nfrom deepseek_engine.prepare.events import Reporter\n"
        "report = Reporter.take_over_stdout()\nprint('noise', flush=True)\n"
        "os.write(1, b'native noise')\nreport.progress('stage')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=50, check=True
    )
    assert msgspec.json.decode(done.stdout, type=PrepareEvent).stage == "stage"
    assert done.stderr == b"noise\nnative noise"
