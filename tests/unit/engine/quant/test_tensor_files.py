"""Reading and writing safetensors in pieces: the same bytes as the library's, damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from deepseek_api.errors import SourceError
from deepseek_engine.quant.tensor_files import DTYPES, TensorFile, TensorSpec, TensorWriter
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def tensors() -> dict[str, torch.Tensor]:
    numbers = torch.arange(24).reshape(4, 6)
    return {
        **{name: numbers.to(dtype) for name, dtype in DTYPES.items()},
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "deep": torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)),
    }


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    both = [t.reshape(-1).view(torch.uint8) for t in (first, second)]
    return torch.equal(*both)


def test_files_of_the_library_are_read(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    with TensorFile(tmp_path / "a.safetensors") as file:
        assert set(file.specs) == set(tensors())
        for name, expected in tensors().items():
            assert same(file.read(name), expected), name


@pytest.mark.parametrize(
    ("first", "last"), [(0, 1), (1, 3), (2, None), (0, 99), (4, None)], ids=str
)
def test_rows_are_read_alone(first: int, last: int | None, tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "a.safetensors")
    with TensorFile(tmp_path / "a.safetensors") as file:
        assert same(file.read("BF16", first, last), tensors()["BF16"][first:last])


def test_the_library_reads_what_was_written_in_any_order_and_in_pieces(tmp_path: Path) -> None:
    path, wanted = tmp_path / "a.safetensors", tensors()
    specs = {name: TensorSpec(t.dtype, tuple(t.shape)) for name, t in wanted.items()}
    with TensorWriter(path, specs, {"format": "pt"}) as writer:
        for name, tensor in reversed(wanted.items()):
            if tensor.ndim < 2:
                writer.write(name, tensor)
                continue
            half = len(tensor) // 2
            writer.write(name, tensor[half:], first=half)
            writer.write(name, tensor[:half])
    found = load_file(path)
    assert {name: same(found[name], tensor) for name, tensor in wanted.items()} == dict.fromkeys(
        wanted, True
    )
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_a_file_with_holes_is_not_called_done(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "a", {"x": TensorSpec(torch.int8, (4, 2))})
    writer.write("x", torch.zeros(2, 2, dtype=torch.int8))
    with pytest.raises(ValueError, match="not written completely: \\['x'\\]"):
        writer.close()


def test_what_was_not_planned_cannot_be_written(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "a", {"x": TensorSpec(torch.int8, (4, 2))})
    with pytest.raises(ValueError, match="was planned as"), writer:
        writer.write("x", torch.zeros(4, 3, dtype=torch.int8))


def file_with(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param(b"", "longer than the file", id="empty"),
        pytest.param(b"\xff" * 8 + b"{}", "longer than the file", id="huge header"),
        pytest.param(file_with(b"{]"), "cannot be read", id="no JSON"),
        pytest.param(file_with([1]), "cannot be read", id="no mapping"),
        pytest.param(file_with({"x": {**ENTRY, "dtype": "F3"}}, b"1234"), "cannot be read",
                     id="unknown type"),
        pytest.param(file_with({"x": {**ENTRY, "shape": [-4]}}, b"1234"), "cannot be read",
                     id="negative size"),
        pytest.param(file_with({"x": ENTRY}, b"123"), "place of the tensor 'x'", id="truncated"),
        pytest.param(file_with({"x": {**ENTRY, "shape": [5]}}, b"12345"),
                     "place of the tensor 'x'", id="size and shape differ"),
        pytest.param(file_with({"x": {**ENTRY, "data_offsets": [-2, 2]}}, b"1234"),
                     "place of the tensor 'x'", id="before the data"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=what) as caught:
        TensorFile(path)
    assert caught.value.reason == "WeightsDamaged"
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_shrinks_while_it_is_read_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_with({"x": ENTRY}, b"1234"))
    with TensorFile(path) as file:
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(SourceError, match="ends inside the tensor 'x'"):
            file.read("x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'none\.safetensors' cannot be opened"):
        TensorFile(tmp_path / "none.safetensors")
