"""Packing a bundle as an image."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deepseek._images import BundleImage, check_reference, find_program, pack, push
from deepseek_api.errors import ConfigurationError, DeepseekError

from tests.support.bundles import digest_of, write_echo


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
    bundle = write_echo(tmp_path / "echo")
    ids = set()
    for _ in range(2):
        pack(bundle, name="echo", digest=digest_of(bundle), reference=reference, program="buildah")
        listed = subprocess.run(
            ["buildah", "images", "-q", "--no-trunc", reference], capture_output=True, text=True
        )
        ids.add(listed.stdout.strip())
        os.utime(bundle / "manifest.json")
    assert len(ids) == 1
