"""A module that was quantized in memory comes back from its files as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_engine.prepare.quant.api import quantize_module
from deepseek_engine.prepare.quant.policy import for_precision
from deepseek_engine.prepare.quant.writing import save_module
from deepseek_engine.quant.checkpoint import Checkpoint, load_into
from deepseek_engine.quant.layers import CastLinear
from safetensors.torch import load_file

from tests.unit.prepare.quant.test_api import EACH, build, run


def saved(family: str, precision: str, folder: Path) -> tuple[Any, Any, Any]:
    module, feed = build(family)
    report = quantize_module(module, for_precision(precision))
    save_module(module, report, folder, {"model_type": family})
    return module, feed, report


@EACH
@pytest.mark.parametrize("precision", ["int8", "int4", "mixed", "fp8", "bf16"])
def test_a_module_comes_back_with_the_same_answers(
    family: str, precision: str, tmp_path: Path
) -> None:
    module, feed, _ = saved(family, precision, tmp_path)
    fresh, _ = build(family)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(float("nan"))
    with Checkpoint(tmp_path) as checkpoint:
        load_into(fresh, checkpoint)
    assert torch.equal(run(fresh, feed), run(module, feed))


@EACH
def test_the_file_has_the_bytes_of_the_report(family: str, tmp_path: Path) -> None:
    module, _, report = saved(family, "mixed", tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    buffers = sum(b.nbytes for name, b in module.named_buffers() if name in found)
    biases = [n for n, b in module.named_buffers() if n in found and n.endswith("bias")]
    stored = sum(t.nbytes for t in found.values())
    # Running statistics of norms are buffers, which reports do not count; biases are counted.
    buffers -= sum(dict(module.named_buffers())[name].nbytes for name in biases)
    assert stored - buffers == report.bytes_after


def test_layers_of_16_bits_come_back_in_their_type(tmp_path: Path) -> None:
    saved("bert", "mixed", tmp_path)
    fresh, _ = build("bert")
    with Checkpoint(tmp_path) as checkpoint:
        load_into(fresh, checkpoint)
    query = fresh.encoder.layer[0].attention.self.query
    assert isinstance(query, CastLinear)
    assert query.weight.dtype == torch.float16
    own = json.loads((tmp_path / "config.json").read_text())["deepseek_quantization"]
    assert own["policy"] == "mixed"
    assert own["cast"]["encoder.layer.0.attention.self.query"] == "fp16"
