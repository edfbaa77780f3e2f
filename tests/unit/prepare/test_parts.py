"""A file in parts of several packages is put together, checked and never trusted otherwise."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from deepseek_api.errors import SourceError
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.sources.parts import find_parts

CONTENT = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SUMS = f"{DIGEST}  whole.gguf\n".encode()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(
    site: Path, name: str, files: Mapping[str, bytes], requires: tuple[str, ...] = ()
) -> None:
    info = f"{name}-1.0.dist-info"
    needed = "".join(f"Requires-Dist: {each}\n" for each in requires)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needed}"
    contents = {f"{name}/data/{key}": value for key, value in files.items()}
    contents[f"{name}/__init__.py"] = b"raise SystemExit"
    contents[f"{info}/METADATA"] = metadata.encode()
    contents[f"{info}/RECORD"] = "".join(f"{key},,\n" for key in contents).encode()
    for key, value in contents.items():
        (site / key).parent.mkdir(parents=True, exist_ok=True)
        (site / key).write_bytes(value)


def install_all(site: Path, *, sums: bytes = SUMS, last: bytes = CONTENT[200_000:]) -> None:
    install(
        site, "whole", {"SHA256SUMS": sums}, ("whole-a==1.0", "whole-b", "other ; extra == 'x'")
    )
    install(site, "whole_a", {"whole.gguf.part00": CONTENT[:100_000]})
    install(site, "whole_b", {
        "whole.gguf.part02": last, "whole.gguf.part01": CONTENT[100_000:200_000],
        "unlike.gguf.part03": b"of another file",
    })  # fmt: skip


def test_parts_are_put_together_in_their_order(site: Path, tmp_path: Path) -> None:
    install_all(site)
    parts = find_parts("whole", ".gguf")
    assert parts is not None
    assert (parts.name, parts.sha256, len(parts.paths)) == ("whole.gguf", DIGEST, 3)
    events = io.BytesIO()
    parts.write(tmp_path / "out", Reporter(events))
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert f'"done":{len(CONTENT)},'.encode() in events.getvalue()


def test_a_package_without_sums_has_no_parts(site: Path) -> None:
    install(site, "whole", {"whole.gguf.part00": CONTENT})
    assert find_parts("whole", ".gguf") is None


def test_parts_that_give_another_file_are_refused(site: Path, tmp_path: Path) -> None:
    install_all(site, last=b"changed")
    parts = find_parts("whole", ".gguf")
    assert parts is not None
    with pytest.raises(SourceError) as caught:
        parts.write(tmp_path / "out", Reporter(io.BytesIO()))
    assert caught.value.reason == "DigestMismatch"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("removed", "reason", "words"),
    [
        pytest.param(
            "whole_a-1.0.dist-info/METADATA", "PackageNotInstalled", "'whole-a'", id="a package"
        ),
        pytest.param(
            "whole_b/data/whole.gguf.part01", "WeightsNotFound", "[0, 2]", id="a part inside"
        ),
        pytest.param("whole_a/data/whole.gguf.part00", "WeightsNotFound", "[1, 2]", id="the first"),
    ],
)
def test_what_is_missing_is_named(removed: str, reason: str, words: str, site: Path) -> None:
    install_all(site)
    (site / removed).unlink()
    if removed.endswith("METADATA"):
        (site / removed).with_name("RECORD").unlink()
        (site / removed).parent.rmdir()
    with pytest.raises(SourceError) as caught:
        find_parts("whole", ".gguf")
    assert caught.value.reason == reason
    assert words in caught.value.message
