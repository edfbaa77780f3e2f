"""``deepseek prepare --image``: what is asked for, and what to write into a pipeline afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support.bundles import digest_of, write_echo
from tests.support.command import invoke

ID = "ab" * 32


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only program on the search path; gives the file with its calls."""
    program, calls = tmp_path / "bin" / "podman", tmp_path / "calls"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {calls}\n'
        f'[ "$1" = push ] && echo sha256:{ID} > "$3" || echo {ID}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return calls


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_echo(tmp_path / "echo")


def test_the_source_is_printed_as_it_is_written_in_a_pipeline(podman: Path, bundle: Path) -> None:
    ran = invoke("prepare", str(bundle), "--image", "registry.example/echo:1", columns=200)
    assert ran.code == 0, ran.err
    source = {"uri": "oci://registry.example/echo:1", "digest": digest_of(bundle)}
    _, _, rest = ran.out.partition("In a pipeline's model:\n")
    written, _, values = rest.partition("Or for every pipeline of a cluster, in the values")
    assert yaml.safe_load(written) == {"source": source}
    assert yaml.safe_load(values.partition("\n")[2]) == {
        "catalog": {"models": {"echo": {"source": source}}}
    }
    assert f"Image id sha256:{ID}" in ran.out


def test_a_program_reads_everything_about_a_pushed_image(podman: Path, bundle: Path) -> None:
    ran = invoke("prepare", str(bundle), "--image", "registry.example/echo:1", "--push", "--json")
    assert ran.code == 0, ran.err
    answer = json.loads(ran.out)
    assert answer["image"] == {
        "reference": "registry.example/echo:1",
        "id": f"sha256:{ID}",
        "bytes": sum(path.stat().st_size for path in bundle.iterdir()),
        "registryDigest": f"sha256:{ID}",
    }
    assert answer["source"] == {
        "uri": f"oci://registry.example/echo:1@sha256:{ID}",
        "digest": digest_of(bundle),
    }
    assert [line.split()[0] for line in podman.read_text().splitlines()] == ["build", "push"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--push"], "There is no image to push."),
        (["--image", "Not An Image"], "is not the name of an image"),
    ],
    ids=["nothing to push", "no name of an image"],
)
def test_wrong_arguments_are_told_before_anything_starts(
    podman: Path, arguments: list[str], says: str
) -> None:
    ran = invoke("prepare", "bert-base", *arguments)
    assert ran.code == 2
    assert says in ran.err
    assert not podman.exists()


def test_without_a_program_the_three_that_work_are_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = invoke("prepare", str(bundle), "--image", "registry.example/echo:1")
    assert ran.code == 2
    text = " ".join(ran.err.split())
    assert "Start the Docker daemon, or install podman or buildah." in text
