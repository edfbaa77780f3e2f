"""Every kernel compiles for the GPUs it is meant for, keeps its registers, and uses their units.

No GPU is needed: the compiler and the disassembler come with Triton. The rows are in
``tests/support/compiled``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kernel_gate import SHARED_BYTES, Compiler, Row, all_rows

# A compilation takes a second, and many on a busy machine.
pytestmark = pytest.mark.timeout(300)

CASES = [(row, architecture) for row in all_rows() for architecture in row.architectures]
rows = pytest.mark.parametrize(
    ("row", "architecture"), CASES, ids=[f"{row.name}-sm_{cc}" for row, cc in CASES]
)
DEMANDS = [(row, cc, pattern) for row in all_rows() for cc, pattern in row.instructions.items()]
SAMPLE: dict[str, Any] = {
    "signature": {"source": "*fp32", "target": "*fp32"},
    "constants": {"SIZE": 64},
    "warps": 1,
}


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    """The process that compiles."""
    compiler = Compiler()
    yield compiler
    compiler.close()


@rows
def test_it_compiles_and_spills_nothing(compiler: Compiler, row: Row, architecture: int) -> None:
    compiled = compiler.compile(row, architecture)
    assert not compiled.error
    assert (compiled.stack_bytes, compiled.spills) == (0, 0), f"{compiled.registers} registers"


@rows
def test_its_shared_memory_fits(compiler: Compiler, row: Row, architecture: int) -> None:
    assert compiler.compile(row, architecture).shared_bytes <= SHARED_BYTES[architecture]


@pytest.mark.parametrize(
    ("row", "architecture", "pattern"),
    DEMANDS,
    ids=[f"{row.name}-sm_{cc}" for row, cc, _ in DEMANDS],
)
def test_it_uses_the_instructions_that_it_is_written_for(
    compiler: Compiler, row: Row, architecture: int, pattern: str
) -> None:
    opcodes = compiler.compile(row, architecture).opcodes
    assert any(re.fullmatch(pattern, opcode) for opcode in opcodes), sorted(opcodes)


def test_spilled_registers_are_noticed(compiler: Compiler) -> None:
    row = Row(name="spills", kernel="tests.support.gate_samples:keeps_too_much", **SAMPLE)
    compiled = compiler.compile(row, 90)
    assert not compiled.error
    assert compiled.stack_bytes > 0
    assert compiled.spills > 0


def test_missing_tensor_core_instructions_are_noticed(compiler: Compiler) -> None:
    row = Row(name="by hand", kernel="tests.support.gate_samples:multiplies_by_hand", **SAMPLE)
    opcodes = compiler.compile(row, 90).opcodes
    assert "FMUL" in opcodes or "FFMA" in opcodes
    assert not any("MMA" in opcode for opcode in opcodes)


def test_a_row_with_other_arguments_than_its_kernel_is_noticed(compiler: Compiler) -> None:
    row = Row(
        name="other arguments",
        kernel="tests.support.gate_samples:multiplies_by_hand",
        signature={"source": "*fp32"},
        constants={"LENGTH": 64},
    )
    assert "['LENGTH', 'SIZE', 'target']" in compiler.compile(row, 90).error


def test_a_kernel_that_does_not_compile_is_noticed(compiler: Compiler) -> None:
    row = Row(
        name="does not compile",
        kernel="tests.support.gate_samples:multiplies_by_hand",
        signature={"source": "*fp32", "target": "*fp32"},
        constants={"SIZE": 63},
    )
    assert "power of 2" in compiler.compile(row, 90).error
