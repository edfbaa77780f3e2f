"""Reading weights: good files load, and no file, however made, runs code or breaks the reader."""

from __future__ import annotations

import copyreg
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.errors import SourceError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.timeout(180)]

EXTENSION_CODE = 240
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read(path: Path) -> dict[str, Any]:
    from deepseek_engine.prepare.state_dicts import read_state_dict

    return read_state_dict(path)


def weights() -> dict[str, Any]:
    import torch

    return {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


def saved(content: object, *, legacy: bool = False) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


class Canary:
    """Pickled, it is a program that creates a file."""

    def __init__(self, program: str) -> None:
        self.program = program

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return exec, (self.program,)


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def names_from_the_memo(program: str) -> bytes:
    """The last texts before STACK_GLOBAL are harmless; those that it takes were put away before."""
    put_away = text("builtins") + b"\x940" + text("exec") + b"\x940"
    shown = text("collections") + text("OrderedDict") + b"00"
    return b"\x80\x04" + put_away + shown + b"h\x00h\x01\x93" + text(program) + b"\x85R."


def names_below_others(program: str) -> bytes:
    """Harmless texts lie on top when they are listed and are popped before STACK_GLOBAL."""
    names = text("builtins") + text("exec") + text("collections") + text("OrderedDict")
    return b"\x80\x04" + names + b"00\x93" + text(program) + b"\x85R."


def inst(program: str) -> bytes:
    return b"(" + text(program) + b"ibuiltins\nexec\n."


def extension(program: str) -> bytes:
    return b"\x80\x02\x82" + bytes([EXTENSION_CODE]) + text(program) + b"\x85R."


def bare(program: str, *, protocol: int) -> bytes:
    return pickle.dumps(Canary(program), protocol)


def legacy_with(program: str, *, position: int) -> bytes:
    """A file of torch's old format, one of whose five pickles is the canary."""
    parts: list[object] = [LEGACY_MAGIC, 1001, {"little_endian": True}, {}, []]
    parts[position] = Canary(program)
    return b"".join(pickle.dumps(part, 2) for part in parts)


def archive_with_another_pickle(program: str) -> bytes:
    stream = io.BytesIO(saved(weights()))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("archive/more.pkl", pickle.dumps(Canary(program), 2))
    return stream.getvalue()


def pickle_with_an_archive_behind(program: str) -> bytes:
    """``zipfile`` takes this for a harmless archive, torch for a file of its old format."""
    return legacy_with(program, position=3) + saved(weights())


def nested_archive(program: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", saved(Canary(program)))
        archive.writestr("archive/version", "3")
    return stream.getvalue()


def tar_with_a_pickle(program: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Canary(program), 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


ATTACKS: dict[str, Callable[[str], bytes]] = {
    "zip": lambda program: saved({"w": Canary(program)}),
    "legacy": lambda program: saved({"w": Canary(program)}, legacy=True),
    **{f"bare pickle, protocol {n}": partial(bare, protocol=n) for n in range(6)},
    "names from the memo": names_from_the_memo,
    "names below others": names_below_others,
    "INST": inst,
    "EXT": extension,
    **{f"legacy, pickle {n + 1} of 5": partial(legacy_with, position=n) for n in range(5)},
    "second pickle of an archive": archive_with_another_pickle,
    "archive behind a pickle": pickle_with_an_archive_behind,
    "archive in an archive": nested_archive,
    "tar": tar_with_a_pickle,
    "behind a good pickle": lambda program: pickle.dumps({}, 2) + pickle.dumps(Canary(program), 2),
}
NOT_A_PICKLE_TO_TORCH = {"archive in an archive", "tar", "behind a good pickle"}
"""Refused as damaged: nothing would read the canary in them."""


@pytest.fixture
def _extension() -> Iterator[None]:
    copyreg.add_extension("builtins", "exec", EXTENSION_CODE)
    yield
    copyreg.remove_extension("builtins", "exec", EXTENSION_CODE)


def assert_names_the_file_only(error: SourceError, path: Path) -> None:
    assert path.name in str(error)
    assert str(path.parent) not in str(error)


@pytest.mark.usefixtures("_extension")
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("suffix", [".bin", ".pth"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    attack: str, suffix: str, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(ATTACKS[attack](f"open({str(canary)!r}, 'w')"))
    with pytest.raises(SourceError) as caught:
        read(path)
    assert not canary.exists()
    expected = "WeightsDamaged" if attack in NOT_A_PICKLE_TO_TORCH else "DangerousPickle"
    assert caught.value.reason == expected
    assert_names_the_file_only(caught.value, path)


@pytest.mark.usefixtures("_extension")
@pytest.mark.parametrize(
    "attack",
    ["names from the memo", "names below others", "INST", "EXT", "bare pickle, protocol 0"],
)
def test_the_canary_sings_for_a_loader_without_restrictions(attack: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(ATTACKS[attack](f"open({str(canary)!r}, 'w')"))
    assert canary.exists()


def test_the_refusal_says_what_would_have_run(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(pickle.dumps(Canary("1"), 2))
    with pytest.raises(SourceError) as caught:
        read(path)
    assert str(caught.value) == (
        "'model.bin' was refused: opening it would run code (__builtin__.exec). "
        "Ask its author for safetensors. Nothing of the file was executed."
    )


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda: saved(weights()), id="zip"),
        pytest.param(lambda: saved(weights(), legacy=True), id="legacy"),
        pytest.param(lambda: saved({"state_dict": weights(), "epoch": 3}), id="checkpoint"),
    ],
)
def test_a_pickled_state_dict_loads(write: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(write())
    assert {k: v.tolist() for k, v in read(path).items()} == {
        k: v.tolist() for k, v in weights().items()
    }


def test_parameters_of_a_module_load(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "model.pt"
    path.write_bytes(saved(torch.nn.BatchNorm2d(3).half().state_dict()))
    assert read(path)["weight"].dtype is torch.float16


def test_safetensors_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights(), tmp_path / "model.safetensors")
    assert list(read(tmp_path / "model.safetensors")) == ["layer.bias", "layer.weight"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: [weights()["layer.bias"]], id="list"),
        pytest.param(lambda: weights()["layer.bias"], id="one tensor"),
        pytest.param(lambda: {"a": 1}, id="numbers"),
        pytest.param(lambda: {1: weights()["layer.bias"]}, id="numbered tensors"),
        pytest.param(lambda: {"a": {"b": weights()["layer.bias"]}}, id="nested"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: Callable[[], object], tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(saved(content()))
    with pytest.raises(SourceError, match="must map names to tensors") as caught:
        read(path)
    assert_names_the_file_only(caught.value, path)


def test_a_pickled_module_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "model.pt"
    path.write_bytes(saved(torch.nn.Linear(2, 2)))
    with pytest.raises(SourceError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read(path)


def safetensors(header: object, body: bytes = b"\0" * 8, *, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(**fields: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}}


DAMAGED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty pickle": ("a.bin", lambda: b""),
    "empty safetensors": ("a.safetensors", lambda: b""),
    "text": ("a.bin", lambda: b"version https://example.org/spec\n"),
    "zip magic only": ("a.bin", lambda: b"PK\x03\x04"),
    "zip without a pickle": ("a.bin", lambda: _zip_of({"archive/version": b"3"})),
    "truncated zip": ("a.bin", lambda: saved(weights())[:-40]),
    "truncated legacy": ("a.bin", lambda: saved(weights(), legacy=True)[:-4]),
    "legacy without storage": ("a.bin", lambda: saved(weights(), legacy=True)[:150]),
    "header longer than the file": (
        "a.safetensors",
        lambda: safetensors(tensor(), length=1 << 40),
    ),
    "offsets behind the end": (
        "a.safetensors",
        lambda: safetensors(tensor(shape=[1000], data_offsets=[0, 4000])),
    ),
    "shape larger than the offsets": (
        "a.safetensors",
        lambda: safetensors(tensor(shape=[1 << 40])),
    ),
    "shape that overflows": (
        "a.safetensors",
        lambda: safetensors(tensor(shape=[1 << 62, 1 << 62])),
    ),
    "unknown type": ("a.safetensors", lambda: safetensors(tensor(dtype="F99"))),
    "header that is a list": ("a.safetensors", lambda: safetensors([1, 2])),
    "a pickle called safetensors": ("a.safetensors", lambda: saved(weights())),
}


def _zip_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    name, content = DAMAGED[case]
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(SourceError) as caught:
        read(path)
    assert caught.value.reason == "WeightsDamaged"
    assert_names_the_file_only(caught.value, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    from safetensors.torch import save

    return {
        "zip.bin": saved(weights()),
        "legacy.bin": saved(weights(), legacy=True),
        "plain.safetensors": save(weights()),
    }


def loads_or_is_refused(path: Path) -> None:
    try:
        loaded = read(path)
    except SourceError as error:
        assert_names_the_file_only(error, path)
    else:
        assert all(isinstance(name, str) for name in loaded)


FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(content=st.binary(max_size=300), suffix=st.sampled_from([".bin", ".safetensors"]))
def test_any_bytes_load_or_are_refused(content: bytes, suffix: str, folder: Path) -> None:
    path = folder / f"any{suffix}"
    path.write_bytes(content)
    loads_or_is_refused(path)


@FUZZ
@pytest.mark.parametrize("name", ["zip.bin", "legacy.bin", "plain.safetensors"])
@given(data=st.data())
def test_a_changed_file_loads_or_is_refused(
    name: str, folder: Path, originals: dict[str, bytes], data: st.DataObject
) -> None:
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        position = data.draw(st.integers(0, len(content) - 1), label="position")
        content[position] = data.draw(st.integers(0, 255), label="byte")
    end = data.draw(st.integers(1, len(content)) | st.just(len(content)), label="end")
    path = folder / name
    path.write_bytes(bytes(content[:end]))
    loads_or_is_refused(path)
