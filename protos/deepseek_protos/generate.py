"""Writes the generated modules of this package, or says which of them are out of date.

Why it exists: generated code is committed, so that installing needs no compiler; this program makes
sure that it is what the ``.proto`` files say. It needs ``grpcio-tools`` and is never imported by
anything that serves.

Usage: ``python -m deepseek_protos.generate [--check]``
"""

from __future__ import annotations

import argparse
import importlib.resources
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deepseek_protos._service_types import service_stub_types

PACKAGE = Path(__file__).parent
DEFAULT_POOL = "_descriptor_pool.Default()"
POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
OWN_POOL_IMPORT = "from deepseek_protos._pool import POOL as _POOL\n"
TYPES_HEADER = '# mypy: disable-error-code="type-arg,no-untyped-def"\n'
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


class GenerationError(Exception):
    """The compiler failed, or its output no longer has the form that is post-processed."""


def generate(target: Path) -> None:
    """Write all generated modules into the folder ``target``.

    Raises:
        GenerationError: if a ``.proto`` file does not compile.
    """
    from grpc_tools import protoc  # a tool for developers only

    sources = sorted(PACKAGE.glob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        descriptor_set = Path(folder, "descriptors.bin")
        arguments = [
            "protoc",
            f"--proto_path={PACKAGE.parent}",
            f"--proto_path={well_known}",
            f"--python_out={folder}",
            f"--pyi_out={folder}",
            f"--grpc_python_out={folder}",
            f"--descriptor_set_out={descriptor_set}",
            *(f"deepseek_protos/{source.name}" for source in sources),
        ]
        if protoc.main(arguments) != 0:
            raise GenerationError("The .proto files do not compile; see the lines above.")
        _collect(Path(folder, "deepseek_protos"), target)
        for name, text in service_stub_types(descriptor_set.read_bytes()).items():
            (target / name).write_text(text, encoding="utf-8")


def _collect(built: Path, target: Path) -> None:
    for path in sorted(built.iterdir()):
        text = path.read_text(encoding="utf-8")
        if path.name.endswith("_pb2_grpc.py") and "class " not in text:
            continue  # the file declares no service
        if path.name.endswith("_pb2.py"):
            text = _with_own_pool(text, path.name)
        if path.name.endswith("_pb2.pyi"):
            text = TYPES_HEADER + text
        (target / path.name).write_text(text, encoding="utf-8")


def _with_own_pool(text: str, name: str) -> str:
    if text.count(DEFAULT_POOL) != 1 or text.count(POOL_IMPORT) != 1:
        raise GenerationError(f"{name} does not name the default pool where it was expected.")
    return text.replace(POOL_IMPORT, OWN_POOL_IMPORT).replace(DEFAULT_POOL, "_POOL")


def _read(folder: Path) -> dict[str, str]:
    paths = (path for pattern in GENERATED for path in folder.glob(pattern))
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def drift() -> list[str]:
    """Names of generated files that are missing, superfluous or not what would be written now."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        expected = _read(Path(folder))
    committed = _read(PACKAGE)
    names = sorted(expected.keys() | committed.keys())
    return [name for name in names if expected.get(name) != committed.get(name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate, or with ``--check`` return 1 and name what is out of date."""
    parser = argparse.ArgumentParser(prog="python -m deepseek_protos.generate")
    parser.add_argument("--check", action="store_true", help="change nothing, report differences")
    options = parser.parse_args(arguments)
    if not options.check:
        generate(PACKAGE)
        return 0
    outdated = drift()
    for name in outdated:
        print(f"{name} is out of date. Run 'make protos' and commit the result.", file=sys.stderr)
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())
