"""The table of schemes: names, sizes, and descriptions that can be read back."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_api.errors import PrecisionError
from deepseek_engine.quant.schemes import (
    SCHEMES,
    Scheme,
    WeightFormat,
    scheme_from_config,
    scheme_named,
)

QUANTIZED = [scheme for scheme in SCHEMES.values() if scheme.quantized]


@pytest.mark.parametrize("scheme", QUANTIZED, ids=lambda s: s.name)
def test_a_description_is_read_back_as_the_same_scheme(scheme: Scheme) -> None:
    assert scheme_from_config("group_0", scheme.to_config(["Linear"])) is scheme


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("int8", WeightFormat.PACKED),
        ("int8-dynamic", WeightFormat.INT),
        ("int8-block", WeightFormat.NAIVE),
        ("int4-g128", WeightFormat.PACKED),
        ("int4-g32-asym", WeightFormat.PACKED),
        ("fp8", WeightFormat.NAIVE),
        ("fp8-dynamic", WeightFormat.FLOAT),
        ("fp8-block-dynamic", WeightFormat.FLOAT),
        ("bf16", WeightFormat.DENSE),
    ],
)
def test_each_scheme_has_its_format(name: str, expected: WeightFormat) -> None:
    assert scheme_named(name).format is expected


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("fp32", 32 * 64 * 256),
        ("bf16", 16 * 64 * 256),
        ("int8", 8 * 64 * 256 + 32 * 64),
        ("int4-g128", 4 * 64 * 256 + 16 * 64 * 2),
        ("int4-g32-asym", 4 * 64 * 256 + 20 * 64 * 8),
        ("fp8-block", 8 * 64 * 256 + 32 * 1 * 2),
        ("int8-block", 8 * 64 * 256 + 32 * 1 * 4),
    ],
)
def test_the_bits_of_a_weight_are_values_scales_and_zero_points(name: str, bits: int) -> None:
    assert scheme_named(name).stored_bits(64, 256) == bits


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PrecisionError, match=r"'int3'.*int4-g128") as caught:
        scheme_named("int3")
    assert caught.value.reason == "UnknownScheme"


WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"weights": WEIGHTS | {"num_bits": 3}}, id="bits"),
        pytest.param({"weights": WEIGHTS | {"group_size": 96}}, id="group"),
        pytest.param({"weights": WEIGHTS | {"type": "float"}}, id="type"),
        pytest.param({"weights": {"num_bits": 8, "type": "float"}}, id="one scale a tensor"),
        pytest.param({"weights": None}, id="no weights"),
        pytest.param({"weights": WEIGHTS, "output_activations": WEIGHTS}, id="outputs"),
        pytest.param(
            {"weights": WEIGHTS, "input_activations": {"num_bits": 8, "strategy": "tensor"}},
            id="static inputs",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_group(entry: dict[str, Any]) -> None:
    with pytest.raises(PrecisionError, match="group 'group_7'"):
        scheme_from_config("group_7", entry)


def test_defaults_may_be_spelled_out_or_left_out() -> None:
    long = {**WEIGHTS, "symmetric": True, "dynamic": False, "observer": "memoryless_minmax"}
    short = {name: value for name, value in WEIGHTS.items() if name not in {"type", "strategy"}}
    assert scheme_from_config("a", {"weights": long}).name == "int4-g128"
    assert scheme_from_config("b", {"weights": short}).name == "int4-g128"
