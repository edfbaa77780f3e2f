"""The page about quantization says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from deepseek_engine.prepare.quant.policy import LEAST_INT4_COLUMNS, SMALLEST
from deepseek_engine.quant.schemes import SCHEMES, Scheme

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "quantization.md").read_text()
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in re.findall(r"^\| (`(?:fp|bf|int)\S+`) \| (.+) \|$", PAGE, re.MULTILINE)
    if len(cells := [line[0], *line[1].split(" | ")]) == 7
}


def test_every_scheme_has_a_row_in_order() -> None:
    assert list(ROWS) == list(SCHEMES)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_a_row_says_what_the_scheme_is(scheme: Scheme) -> None:
    values, shared, inputs, bits, layers, stored = ROWS[scheme.name]
    assert values.startswith(
        {"int": f"int{scheme.bits}", "float": "fp8"}.get(scheme.kind, scheme.name)
    )
    assert ("zero points" in values) == (not scheme.symmetric)
    if scheme.group_size:
        assert shared == f"{scheme.group_size} along K"
    elif scheme.block:
        assert shared == f"{scheme.block[0]} x {scheme.block[1]} weights"
    else:
        assert shared == ("a row" if scheme.quantized else "-")
    if scheme.quantized:
        assert inputs.partition(",")[0] == {"none": "as they are"}.get(
            scheme.activations, scheme.activations
        )
    assert float(bits) == pytest.approx(scheme.stored_bits(4096, 4096) / 4096**2, abs=5.1e-4)
    assert (layers == "linear") == scheme.linear_only
    assert stored == scheme.format.value


def test_limits_are_those_of_the_code() -> None:
    assert f"fewer than {SMALLEST} weights" in PAGE
    assert f"K below {LEAST_INT4_COLUMNS}" in PAGE
