"""Calling a module, compiled where the compiler has it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from deepseek_engine.backends.torch.calling import ModuleCall
from deepseek_engine.backends.torch.description import Description
from deepseek_engine.messages import TensorSpec

from tests.support.fake_cuda import FakeTorch

pytestmark = pytest.mark.timeout(300)


def description(**fields: Any) -> Description:
    specs = {name: (TensorSpec(name, "FP32", (-1, 4)),) for name in "xy"}
    return Description(
        library="timm",
        architecture="a",
        weights="w",
        inputs=specs["x"],
        outputs=specs["y"],
        **fields,
    )


class Compiler(FakeTorch):
    """torch whose compiler traces for real and generates nothing, or fails."""

    def __init__(self, *, fail: bool = False) -> None:
        super().__init__()
        self.fail = fail

    def compile(self, module: Any, *, dynamic: bool) -> Any:
        assert not dynamic

        def broken(graph: Any, inputs: Any) -> Any:
            raise RuntimeError("no such instruction")

        return torch.compile(module, dynamic=False, backend=broken if self.fail else "eager")


def linear() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 4).eval()


@pytest.mark.parametrize("compile_for", [0, 4], ids=["plain", "compiled"])
def test_the_answer_is_the_modules(compile_for: int) -> None:
    module, x = linear(), torch.randn(3, 4)
    call = ModuleCall(Compiler(), module, description(), compile_for=compile_for)
    with torch.inference_mode():
        torch.testing.assert_close(call({"x": x})["y"], module(x))
    assert call.compiled is bool(compile_for)
    assert not call.failed


def test_a_compiler_that_fails_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    module, x = linear(), torch.randn(3, 4)
    call = ModuleCall(Compiler(fail=True), module, description(), compile_for=4)
    with torch.inference_mode(), caplog.at_level(logging.WARNING, logger="deepseek_engine"):
        for _ in range(3):
            torch.testing.assert_close(call({"x": x})["y"], module(x))
    assert not call.compiled
    assert call.failed
    own = [r for r in caplog.records if r.name.startswith("deepseek_engine")]
    assert len(own) == 1
    assert "no such instruction" in own[0].cause  # type: ignore[attr-defined]


def test_a_request_that_the_module_refuses_does_not_count_against_the_compiler() -> None:
    call = ModuleCall(Compiler(), linear(), description(), compile_for=4)
    with torch.inference_mode():
        with pytest.raises(RuntimeError):
            call({"x": torch.randn(3, 5)})
        call({"x": torch.randn(3, 4)})
    assert call.compiled


def test_floating_point_inputs_get_the_modules_type() -> None:
    module = linear().bfloat16()
    call = ModuleCall(FakeTorch(), module, description(dtype="bfloat16"))
    with torch.inference_mode():
        assert call({"x": torch.randn(3, 4)})["y"].dtype is torch.bfloat16
