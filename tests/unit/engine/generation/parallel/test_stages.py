"""Modules of transformers in stages answer like whole ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_api.errors import ConfigurationError, PrecisionError
from deepseek_engine.backends.torch.description import Description
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.stages import RUN, ModuleStage, build_stage
from deepseek_engine.messages import TensorSpec
from safetensors.torch import save_model

from tests.support.ranks import on_ranks
from tests.unit.engine.generation.parallel.test_modules import module

pytestmark = pytest.mark.timeout(300)

INPUTS = {
    "input_ids": torch.tensor([[3, 36, 7, 1], [5, 2, 9, 9], [4, 4, 4, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]),
}


def describe(whole: Any, outputs: list[str], **fields: Any) -> Description:
    config = json.loads(whole.config.to_json_string(use_diff=False))
    sizes = {"logits": whole.config.vocab_size, "last_hidden_state": whole.config.hidden_size}
    return Description(
        library="transformers",
        architecture=type(whole).__name__,
        weights="model.safetensors",
        inputs=tuple(TensorSpec(name, "INT64", (-1, -1)) for name in INPUTS),
        outputs=tuple(TensorSpec(name, "FP32", (-1, -1, sizes[name])) for name in outputs),
        config=config | {"output_hidden_states": True, "use_cache": False},
        arguments={"add_pooling_layer": False} if type(whole).__name__ == "BertModel" else {},
        **fields,
    )


@pytest.mark.parametrize(
    ("name", "tensor", "pipeline"),
    [
        ("BertModel", 1, 3),
        ("BertModel", 2, 2),
        ("T5EncoderModel", 1, 2),
        ("GPT2LMHeadModel", 1, 2),
    ],
)
def test_stages_answer_like_the_whole_module(
    tmp_path: Path, name: str, tensor: int, pipeline: int
) -> None:
    layers = {"BertModel": "num_hidden_layers", "T5EncoderModel": "num_layers"}
    whole = module(name, **{layers.get(name, "n_layer"): 3})
    if name == "BertModel":
        whole.pooler = None
    save_model(whole, str(tmp_path / "model.safetensors"))
    outputs = ["last_hidden_state"] + ["logits"] * (name == "GPT2LMHeadModel")
    description = describe(whole, outputs)
    with torch.no_grad():
        answer = whole(**INPUTS, output_hidden_states=True)
        wanted = {"last_hidden_state": answer["hidden_states"][-1]}
        if "logits" in outputs:
            wanted["logits"] = answer["logits"]

    def run(context: ParallelContext) -> tuple[dict[str, torch.Tensor], int]:
        stage = build_stage(description, tmp_path / "model.safetensors", context)
        shard = ModuleStage(stage, description, context, micro_batches=2)
        found = shard.run(RUN, {"outputs": outputs}, INPUTS)
        return found, sum(weight.nbytes for weight in stage.parameters())

    results = on_ranks(run, tensor=tensor, pipeline=pipeline)
    seen = INPUTS["attention_mask"] == 1
    for key in outputs:
        torch.testing.assert_close(
            results[0][0][key][seen], wanted[key][seen], rtol=1e-4, atol=1e-5
        )
    held = [size for _, size in results]
    whole_bytes = sum(weight.nbytes for weight in whole.parameters())
    # No rank holds the whole; only what is tied is there twice, at both ends.
    assert max(held) < 0.75 * whole_bytes
    assert sum(held) < 1.5 * whole_bytes


def test_more_stages_than_layers_are_refused(tmp_path: Path) -> None:
    description = describe(module("BertModel"), ["last_hidden_state"])
    with pytest.raises(ConfigurationError, match="2 layers, fewer than 3 stages"):
        build_stage(description, tmp_path / "none", ParallelContext(pipeline_size=3))


def test_quantized_layers_are_refused(tmp_path: Path) -> None:
    description = describe(module("BertModel"), ["last_hidden_state"], quantized=True)
    with pytest.raises(PrecisionError, match="quantized layers cannot be divided") as raised:
        build_stage(description, tmp_path / "none", ParallelContext(pipeline_size=2))
    assert "fp32" in str(raised.value)
