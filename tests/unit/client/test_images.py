"""Packing a bundle as an image."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from deepseek._images import BundleImage, check_reference, find_program, pack, push
from deepseek_api.errors import ConfigurationError, DeepseekError

from tests.support.bundles import digest_of, write_echo

ID = "ab" * 32
FAKE = f"""#!/bin/sh
here=$(dirname "$0")
echo "$(basename "$0") $*" >> "$here/calls"
for last; do :; done
case "$1" in
build|bud) cp "$last"/* "$here"; echo {ID};;
push) [ "$2" = --digestfile ] && echo sha256:{ID} > "$3" || echo "1: digest: sha256:{ID} size: 9";;
esac
"""


@pytest.mark.parametrize(
    "reference",
    ["minilm", "models/minilm:1", "localhost/deepseek/minilm:random", "registry.example:5000/a/b"],
)
def test_names_of_images_are_taken(reference: str) -> None:
    assert check_reference(reference) == reference


@pytest.mark.parametrize(
    "reference", ["", "a b", "oci://x/y", "UPPER/Case:1", "x:", "-f", "a/../b"]
)
def test_other_texts_are_refused_with_an_example(reference: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not the name of an image.*REGISTRY/NAME:TAG"):
        check_reference(reference)


def test_a_machine_without_any_program_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="install podman or buildah"):
        find_program()


def test_a_failure_ends_with_what_the_program_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "podman").write_text("#!/bin/sh\necho 'unauthorized: log in first' >&2\nexit 125\n")
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    image = BundleImage(reference="r/n:1", digest="sha256:0", program="podman")
    with pytest.raises(DeepseekError, match=r"'podman push' failed.* unauthorized: log in first"):
        push(image)


def test_the_source_names_image_and_digest() -> None:
    image = BundleImage(reference="r/n:1", digest="sha256:0", program="podman")
    assert image.source() == {"uri": "oci://r/n:1", "digest": "sha256:0"}


def test_the_source_of_a_pushed_image_is_pinned() -> None:
    image = BundleImage(
        reference="r/n:1", digest="sha256:0", program="podman", registry_digest=f"sha256:{ID}"
    )
    assert image.source()["uri"] == f"oci://r/n:1@sha256:{ID}"


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the three programs, which write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("docker", "podman", "buildah"):
        (folder / program).write_text(FAKE)
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("docker", "build -q --build-arg SOURCE_DATE_EPOCH=0"),
        ("podman", "build -q --timestamp 0"),
        ("buildah", "bud -q --timestamp 0"),
    ],
)
def test_each_program_builds_without_the_time(
    tmp_path: Path, fakes: Path, program: str, command: str
) -> None:
    bundle = write_echo(tmp_path / "echo")
    image = pack(bundle, name="echo", digest="sha256:1", reference="r/n:1", program=program)
    called = (fakes / "calls").read_text()
    assert called.startswith(f"{program} {command} -f /")
    assert " -t r/n:1 /" in called
    assert image.image_id == f"sha256:{ID}"
    assert image.size_bytes == sum(path.stat().st_size for path in bundle.iterdir())


def test_the_image_has_the_files_of_the_bundle_at_its_root(tmp_path: Path, fakes: Path) -> None:
    bundle = write_echo(tmp_path / "echo")
    (bundle / "manifest.json").chmod(0o600)
    pack(bundle, name="echo", digest="sha256:1", reference="r/n:1", program="podman")
    assert (fakes / "Containerfile").read_text().splitlines() == [
        "FROM scratch",
        'LABEL org.opencontainers.image.title="deepseek bundle echo" '
        'ai.deepseek.bundle.digest="sha256:1"',
        "ADD bundle.tar /",
    ]
    with tarfile.open(fakes / "bundle.tar") as archive:
        entries = archive.getmembers()
    assert [entry.name for entry in entries] == sorted(path.name for path in bundle.iterdir())
    assert {(entry.mode, entry.uid, entry.gid, entry.mtime) for entry in entries} == {
        (0o644, 0, 0, 0)
    }


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("docker", "docker push r/n:1"),
        ("podman", "podman push --digestfile /"),
        ("buildah", "buildah push --digestfile /"),
    ],
)
def test_a_push_tells_the_digest_of_the_registry(fakes: Path, program: str, command: str) -> None:
    image = BundleImage(reference="r/n:1", digest="sha256:0", program=program)
    assert push(image).registry_digest == f"sha256:{ID}"
    assert (fakes / "calls").read_text().startswith(command)


@pytest.fixture
def reference() -> Iterator[str]:
    """A name for an image that is gone afterwards."""
    name = f"localhost/deepseek-test/echo:{os.getpid()}"
    yield name
    subprocess.run(["buildah", "rmi", "-f", name], capture_output=True, check=False)


@pytest.mark.skipif(
    shutil.which("buildah") is None or os.geteuid() != 0, reason="needs buildah and root"
)
def test_the_image_of_a_bundle_is_the_same_each_time(tmp_path: Path, reference: str) -> None:
    bundle, ids = write_echo(tmp_path / "echo"), set()
    for mode in (0o644, 0o600):
        (bundle / "manifest.json").chmod(mode)
        os.utime(bundle / "manifest.json")
        image = pack(
            bundle, name="echo", digest=digest_of(bundle), reference=reference, program="buildah"
        )
        ids.add(image.image_id)
    assert len(ids) == 1
    listed = subprocess.run(
        ["buildah", "images", "-q", "--no-trunc", reference], capture_output=True, text=True
    )
    assert listed.stdout.strip() == ids.pop()
