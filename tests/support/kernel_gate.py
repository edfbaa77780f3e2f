"""Compiling kernels for GPUs that are not here, and reading what came out.

A test process interprets kernels, so compiling happens in a child without the interpreter:
``python -m tests.support.kernel_gate`` reads one row as JSON per line and answers in one line. It
keeps Triton's own cache, so a row that did not change costs a look into its machine code.

A table of rows is a module in ``tests/support/compiled`` with a list ``ROWS``; adding a module adds
its rows to the gate.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED_BYTES = {80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448}
"""What one block may have, by compute capability (CUDA programming guide, compute capabilities)."""
TENSOR_CORES = {90: "HGMMA|IGMMA|QGMMA"}
"""Instructions that a kernel with ``tl.dot`` needs: Hopper's own, not those of older GPUs."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kernel with one set of constants.

    ``instructions`` holds a regular expression by architecture; one opcode must match it.
    Pointers are taken to be aligned to 16 bytes; integers in ``divisible``, if the kernel has
    them, to be multiples of 16.
    """

    name: str
    kernel: str
    """``package.module:function``"""
    signature: Mapping[str, str]
    """Type of each argument that is no constant: ``*fp16``, ``i32``."""
    constants: Mapping[str, Any]
    divisible: tuple[str, ...] = ()
    warps: int = 4
    stages: int = 3
    architectures: tuple[int, ...] = (80, 90, 100)
    instructions: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a row on one architecture."""

    error: str
    """Empty if it compiled."""
    stack_bytes: int = 0
    registers: int = 0
    shared_bytes: int = 0
    opcodes: Mapping[str, int] = field(default_factory=dict)
    """How often each instruction is there, without what follows its first dot."""

    @property
    def spills(self) -> int:
        """Loads and stores of registers that did not fit."""
        return self.opcodes.get("STL", 0) + self.opcodes.get("LDL", 0)


def all_rows() -> list[Row]:
    """The rows of every table."""
    from tests.support import compiled

    names = sorted(found.name for found in pkgutil.iter_modules(compiled.__path__))
    tables = [importlib.import_module(f"{compiled.__name__}.{name}") for name in names]
    return [row for table in tables for row in table.ROWS]


class Compiler:
    """The child process."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kernel_gate"],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._known: dict[tuple[str, int], Compiled] = {}

    def compile(self, row: Row, architecture: int) -> Compiled:
        """Compile once and remember the answer."""
        key = (row.name, architecture)
        if key not in self._known:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            request = dataclasses.asdict(row) | {"architecture": architecture}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            assert answer, "the compiling process ended; its standard error is above"
            self._known[key] = Compiled(**json.loads(answer))
        return self._known[key]

    def close(self) -> None:
        """End the child."""
        self._process.communicate(timeout=30)


def compile_row(request: Mapping[str, Any]) -> Compiled:
    """Compile in this process; ``request`` is a ``Row`` as a mapping, and ``architecture``."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, function = request["kernel"].split(":")
    kernel = getattr(importlib.import_module(module), function)
    constants, signature = request["constants"], request["signature"]
    if missing := set(kernel.arg_names) ^ (set(constants) | set(signature)):
        return Compiled(f"the row and the kernel differ in their arguments: {sorted(missing)}")
    pointers = {name for name, kind in signature.items() if kind.startswith("*")}
    divisible = pointers | (set(request["divisible"]) & set(signature))
    places = {name: (index,) for index, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        kernel,
        {name: signature.get(name, "constexpr") for name in kernel.arg_names},
        constexprs={places[name]: value for name, value in constants.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name in divisible},
    )
    target = GPUTarget("cuda", request["architecture"], 32)
    options = {"num_warps": request["warps"], "num_stages": request["stages"]}
    try:
        compiled = triton.compile(source, target=target, options=options)
    except Exception as error:  # whatever the compiler raises is the answer
        return Compiled(f"{type(error).__name__}: {error}")
    return _inspect(compiled.asm["cubin"], compiled.metadata.shared)


def _inspect(cubin: bytes, shared_bytes: int) -> Compiled:
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        resources = _output(triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        code = _output(triton.knobs.nvidia.nvdisasm.path, "-c", file.name)
    found = {name: int(n) for name, n in re.findall(r"\b(STACK|REG):(\d+)", resources)}
    instruction = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9]*)", re.M)
    return Compiled(
        error="",
        stack_bytes=found["STACK"],
        registers=found["REG"],
        shared_bytes=shared_bytes,
        opcodes=dict(Counter(instruction.findall(code))),
    )


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Answer requests until standard input ends."""
    for line in sys.stdin:
        answer = dataclasses.asdict(compile_row(json.loads(line)))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
