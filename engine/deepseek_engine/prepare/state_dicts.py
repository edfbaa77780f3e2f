"""Reading weights: safetensors as they are, pickles only through a restricted loader.

A pickle is a program. Before anything of it runs, its instructions are listed and every name that
it would import is compared with the few that a state dict needs; then torch's own restricted
unpickler (``weights_only``) loads it. All of this happens in the preparing process, which serves
nobody, and the result is written as safetensors, so that no pickle ever reaches a worker.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from deepseek_api.errors import SourceError
from safetensors.torch import load_file

from deepseek_engine.quant.checkpoint import INDEX, Checkpoint

ALLOWED_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch FloatStorage", "torch HalfStorage", "torch BFloat16Storage", "torch DoubleStorage",
        "torch LongStorage", "torch IntStorage", "torch ShortStorage", "torch CharStorage",
        "torch ByteStorage", "torch BoolStorage",
        "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_parameter",
    }
)  # fmt: skip
"""Every name that the pickle of a plain state dict may import."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that torch writes first into a file of its format before 1.6."""
LEGACY_PICKLES = 5
"""Such a file holds magic, version, machine, state dict and storage keys; then raw storage."""

ZIP_MAGIC = b"PK\x03\x04"
TEXT_OPCODES = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING",
                          "BINSTRING", "SHORT_BINSTRING"})  # fmt: skip
MEMO_OPCODES = frozenset({"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"})
"""They remember the top of the stack and leave it as it is."""

StateDict = dict[str, torch.Tensor]


def read_state_dict(path: Path) -> StateDict:
    """Read named tensors from a ``.safetensors``, ``.bin``, ``.pt`` or ``.pth`` file.

    The index of several safetensors files, ``model.safetensors.index.json``, gives all of them.

    Raises:
        SourceError: the file is damaged, is no state dict, or would run code when opened.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.name == INDEX:
        with Checkpoint(path.parent) as checkpoint:
            return {name: checkpoint.read(name) for name in checkpoint.names}
    _refuse_dangerous_pickle(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the loader raise nearly anything
        raise _damaged(path) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]  # the habit of training scripts
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in loaded.items()
    ):
        raise SourceError(
            f"'{path.name}' is not a state dict: it must map names to tensors and nothing else.",
            hint="Save it with torch.save(model.state_dict(), path) or as safetensors.",
            reason="NotAStateDict",
        )
    return loaded


def _read_safetensors(path: Path) -> StateDict:
    try:
        return load_file(path)
    except Exception as error:  # as above
        raise _damaged(path) from error


def _damaged(path: Path) -> SourceError:
    return SourceError(
        f"'{path.name}' cannot be read: it is truncated, damaged or of another format.",
        hint="Fetch the file again and compare its size and hash with the publisher's.",
        reason="WeightsDamaged",
    )


def _refuse_dangerous_pickle(path: Path) -> None:
    forbidden = sorted(set(_globals_of(path)) - ALLOWED_GLOBALS)
    if forbidden:
        names = ", ".join(name.replace(" ", ".") for name in forbidden[:4])
        raise SourceError(
            f"'{path.name}' was refused: opening it would run code ({names}).",
            hint="Ask its author for safetensors. Nothing of the file was executed.",
            reason="DangerousPickle",
        )


def _globals_of(path: Path) -> Iterator[str]:
    """Names that the file's pickles would import, found without executing them."""
    try:
        with path.open("rb") as stream:
            # As torch decides it; zipfile would also take a pickle with an archive behind it.
            is_archive = stream.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            stream.seek(0)
            if not is_archive:
                yield from _globals_in(stream)
                return
            with zipfile.ZipFile(stream) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        with archive.open(name) as member:
                            yield from _globals_in(member)
    except Exception as error:  # of a damaged file; what scanning raises is not documented
        raise _damaged(path) from error


def _globals_in(stream: IO[bytes]) -> Iterator[str]:
    remaining = 1
    while remaining:
        remaining -= 1
        texts: list[str] = []  # those on top of the stack, as far as they were just pushed
        for opcode, argument, _position in pickletools.genops(stream):
            if opcode.name in {"GLOBAL", "INST"}:
                yield str(argument)
            elif opcode.name == "STACK_GLOBAL":
                # Names from the memo are not tracked: what cannot be read for sure is refused.
                yield " ".join(texts[-2:]) if len(texts) >= 2 else "an unknown name"
                texts.clear()
            elif opcode.name in {"EXT1", "EXT2", "EXT4"}:
                yield "an extension code"
            elif opcode.name in TEXT_OPCODES:
                texts.append(str(argument))
            elif opcode.name not in MEMO_OPCODES:
                texts.clear()
            if argument == LEGACY_MAGIC:
                remaining = LEGACY_PICKLES - 1
