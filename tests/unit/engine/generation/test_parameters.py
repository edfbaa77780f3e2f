"""Sampling settings as they travel beside tensors."""

from __future__ import annotations

from typing import Any

import pytest
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_engine.generation.parameters import NAMES, sampling_parameters
from deepseek_engine.generation.requests import Constraint, SamplingParameters


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({"temperature": 1}, "temperature", 1.0),
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": '["a", "b"]'}, "stop", ("a", "b")),
        ({"stop": "[a"}, "stop", ("[a",)),
        ({"stop_token_ids": 7}, "stop_token_ids", (7,)),
        ({"stop_token_ids": "[7, 8]"}, "stop_token_ids", (7, 8)),
        ({"regex": "a+"}, "constraint", Constraint(kind="regex", definition="a+")),
        ({"json_object": True}, "constraint", Constraint(kind="json_object")),
        ({"json_object": False}, "constraint", None),
        ({"seed": (1 << 64) - 1}, "seed", (1 << 64) - 1),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_value_is_read(given: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(sampling_parameters(given), field) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": True},
        {"max_tokens": 1.0},
        {"temperature": "hot"},
        {"ignore_eos": 1},
        {"stop": 3},
        {"stop_token_ids": "[1.5]"},
        {"json_schema": 1},
        {"json_schema": "{}", "regex": "a"},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(InferenceError) as caught:
        sampling_parameters(given)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert next(iter(given)) in str(caught.value)


def test_names_of_other_protocols_are_left_alone() -> None:
    assert sampling_parameters({"stream": True, "sequence_id": 4}) == SamplingParameters()


def test_every_setting_has_a_name() -> None:
    fields = set(SamplingParameters.__struct_fields__) - {"constraint"}
    assert fields <= set(NAMES)
