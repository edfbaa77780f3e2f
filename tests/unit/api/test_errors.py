"""Errors carry code, reason, message and hint, also across processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import deepseek_api
import pytest
from deepseek_api import errors
from deepseek_api.errors import (
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
    InvalidPipelineError,
    Problem,
    QueueFullError,
)


def concrete() -> list[type[DeepseekError]]:
    found = [getattr(errors, name) for name in errors.__all__]
    return [cls for cls in found if isinstance(cls, type) and issubclass(cls, DeepseekError)]


def example(cls: type[DeepseekError]) -> DeepseekError:
    if cls is InvalidPipelineError:
        return InvalidPipelineError([Problem("It is wrong.", "Write it well.", path="spec")])
    if cls is QueueFullError:
        return QueueFullError("It is full.", retry_after_s=0.5)
    if cls is InferenceError:
        return InferenceError("It failed.", code=ErrorCode.DEADLINE_EXCEEDED, hint="Wait.")
    return cls("It is wrong.", hint="Do this.", reason="Because")


@pytest.mark.parametrize("cls", concrete(), ids=lambda cls: cls.__name__)
def test_an_error_survives_copying_and_pickling(cls: type[DeepseekError]) -> None:
    error = example(cls)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is cls
        assert vars(other) == vars(error)
        assert str(other) == str(error)


@pytest.mark.parametrize("cls", concrete(), ids=lambda cls: cls.__name__)
def test_every_error_is_in_the_tree_of_the_docstring(cls: type[DeepseekError]) -> None:
    assert cls.__name__ in (errors.__doc__ or "")


def test_the_text_is_the_message_and_then_the_hint() -> None:
    assert str(DeepseekError("It is wrong.", hint="Do this.")) == "It is wrong. Do this."
    assert str(DeepseekError("It is wrong.")) == "It is wrong."


def test_an_unavailable_engine_and_a_full_queue_may_be_tried_again() -> None:
    assert EngineUnavailableError("It restarts.").code is ErrorCode.UNAVAILABLE
    full = QueueFullError("It is full.", retry_after_s=0.25)
    assert (full.code, full.retry_after_s) == (ErrorCode.UNAVAILABLE, 0.25)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("No."), "<input>: No."),
        (Problem("No.", "Yes.", "spec", "f.yaml", 3, 4), "f.yaml:3:4: spec: No. Yes."),
        (Problem("No.", None, "", "f.yaml", 3), "f.yaml:3: No."),
    ],
    ids=["bare", "full", "without-column"],
)
def test_a_problem_is_shown_with_as_much_place_as_is_known(problem: Problem, text: str) -> None:
    assert str(problem) == text


@pytest.mark.parametrize("name", deepseek_api.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(deepseek_api, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = deepseek_api.nothing


def test_errors_alone_load_no_validation_library() -> None:
    code = (
        "import sys, deepseek_api.errors\n"
        "print(sorted({'pydantic', 'yaml', 'numpy', 'grpc'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=30, env=environment
    )
    assert done.stdout.strip() == "[]"
