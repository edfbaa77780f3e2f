"""Generated modules are what the .proto files say, and drift is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from deepseek_protos import generate


def test_the_committed_modules_are_up_to_date() -> None:
    assert generate.main(["--check"]) == 0


def test_an_edited_module_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "deepseek_protos"
    package.mkdir()
    for source in generate.PACKAGE.glob("*.proto"):
        (package / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(generate, "PACKAGE", package)
    assert generate.main([]) == 0
    (package / "statistics_pb2.py").write_text("edited")
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("statistics_pb2.py is out of date.")


def test_no_generated_module_uses_the_default_pool() -> None:
    texts = [path.read_text() for path in generate.PACKAGE.glob("*_pb2.py")]
    assert texts
    assert not any(generate.DEFAULT_POOL in text for text in texts)
