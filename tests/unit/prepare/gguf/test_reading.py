"""Damaged files end in a sentence, never in a large allocation or another error."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from deepseek_api.errors import SourceError
from deepseek_engine.prepare.gguf.reading import GgufFile
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gguf_files import GgufBuilder, module_of


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return GgufBuilder(module_of("qwen2"), "qwen2").write(folder / "x.gguf")


def read_all(path: Path) -> None:
    with GgufFile(path) as opened:
        for name in opened.tensors:
            opened.read(name)


def refusal(path: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_all(path)
    return caught.value


def test_it_reads_what_the_package_of_the_format_reads(file: Path) -> None:
    expected = GGUFReader(file)
    with GgufFile(file) as opened:
        assert list(opened.tensors) == [tensor.name for tensor in expected.tensors]
        for tensor in expected.tensors:
            assert opened.tensors[tensor.name].shape == tuple(map(int, tensor.shape[::-1]))
            assert opened.tensors[tensor.name].offset == tensor.data_offset
            assert opened.read(tensor.name).flatten().tolist() == tensor.data.flatten().tolist()
        for key, field in expected.fields.items():
            if not key.startswith("GGUF."):
                assert opened.metadata[key] == field.contents(), key


def test_rows_are_read_alone(file: Path) -> None:
    with GgufFile(file) as opened:
        whole = opened.read("token_embd.weight")
        assert opened.read("token_embd.weight", 3, 5).tolist() == whole[3:5].tolist()
        assert opened.read("token_embd.weight", 60, 999).tolist() == whole[60:].tolist()


HEADERS: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "WeightsDamaged", "leads out of the file"),
    "another format": (b"PK\x03\x04" + bytes(40), "WeightsDamaged", "the letters GGUF"),
    "an old version": (
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "UnsupportedFormat", "of version 1",
    ),
    "the other byte order": (
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "UnsupportedFormat", "of version 50331648",
    ),
    "a key of an exabyte": (
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "WeightsDamaged", "leads out",
    ),
    "an array of an exabyte": (
        b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 4, 1 << 58),
        "WeightsDamaged", "leads out",
    ),
    "a value of no type": (
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 99), "WeightsDamaged", "unknown type",
    ),
    "a tensor of many dimensions": (
        b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"a", 9), "WeightsDamaged", "9 dimensions",
    ),
    "a tensor of an unknown kind": (
        b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"a", 1, 32, 999, 0),
        "UnsupportedFormat", "number 999",
    ),
    "a tensor behind the end": (
        b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"a", 1, 32, 0, 1 << 40),
        "WeightsDamaged", "before or inside",
    ),
    "half a block": (
        b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"a", 1, 33, 8, 0) + bytes(99),
        "WeightsDamaged", "shape [33]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_cannot_be_believed_is_refused(case: str, tmp_path: Path) -> None:
    content, reason, words = HEADERS[case]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    error = refusal(path)
    assert error.reason == reason
    assert words in error.message


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(part=st.floats(0, 0.999))
def test_a_file_that_was_cut_off_is_refused_wherever(
    part: float, file: Path, tmp_path: Path
) -> None:
    content = file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(content[: int(len(content) * part)])
    assert refusal(path).reason == "WeightsDamaged"


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_changed_header_is_read_or_refused(
    data: st.DataObject, file: Path, tmp_path: Path
) -> None:
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, 4000))
    content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "changed.gguf"
    path.write_bytes(content)
    with contextlib.suppress(SourceError):
        read_all(path)
