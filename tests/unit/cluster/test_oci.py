"""Images written without an image builder are valid OCI archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cluster.oci import File, write_image

FILES = {"pause": File(b"\x7fELF", 0o755), "etc/thing/config.yaml": File(b"a: 1\n")}


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {
            entry.name: (tar.extractfile(entry) or io.BytesIO()).read()
            for entry in tar
            if entry.isfile()
        }


def blob(found: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    content = found["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
    assert len(content) == descriptor["size"]
    assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"]
    return content


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    target = tmp_path / "image.tar"
    write_image(target, reference="localhost/pause:1", files=FILES, entrypoint=["/pause"])
    return target


def test_the_index_leads_to_manifest_config_and_layer_by_digest(archive: Path) -> None:
    found = members(archive)
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (listed,) = json.loads(found["index.json"])["manifests"]
    manifest = json.loads(blob(found, listed))
    config = json.loads(blob(found, manifest["config"]))
    layer = gzip.decompress(blob(found, manifest["layers"][0]))
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
    assert config["config"]["Entrypoint"] == ["/pause"]
    assert config["os"] == "linux"


def test_the_name_under_which_it_is_imported_is_in_the_index(archive: Path) -> None:
    (listed,) = json.loads(members(archive)["index.json"])["manifests"]
    assert set(listed["annotations"].values()) == {"localhost/pause:1"}


def test_the_layer_holds_the_files_with_their_modes_below_readable_folders(archive: Path) -> None:
    found = members(archive)
    (listed,) = json.loads(found["index.json"])["manifests"]
    layer = blob(found, json.loads(blob(found, listed))["layers"][0])
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as tar:
        modes = {entry.name: entry.mode for entry in tar}
        order = tar.getnames()
    assert modes == {"etc": 0o755, "etc/thing": 0o755, "etc/thing/config.yaml": 0o644} | {
        "pause": 0o755
    }
    assert order.index("etc") < order.index("etc/thing") < order.index("etc/thing/config.yaml")


def test_the_digest_that_is_returned_is_the_manifests(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    digest = write_image(target, reference="localhost/x:1", files=FILES)
    (listed,) = json.loads(members(target)["index.json"])["manifests"]
    assert listed["digest"] == digest


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}", fullmatch=True), st.binary(), max_size=4
    ).filter(lambda files: not any(a.startswith(b + "/") for a in files for b in files))
)
def test_the_same_files_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("images")
    given_files = {name: File(content) for name, content in files.items()}
    turned = dict(reversed(given_files.items()))
    first = write_image(folder / "a", reference="localhost/x:1", files=given_files)
    second = write_image(folder / "b", reference="localhost/x:1", files=turned)
    assert first == second
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
