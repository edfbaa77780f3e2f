"""``engine.enable_pipeline_parallel(num_stages=4)`` as users write it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek import ConfigurationError, InferenceEngine, PrecisionError

from tests.support import bundles
from tests.support.rank_groups import descendants, gone, until
from tests.support.torch_bundles import tiny_bert, torch_bundle

# Every stage imports torch, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)

SAMPLE = {
    "input_ids": np.array([[3, 9, 7, 1], [5, 2, 0, 0], [8, 8, 8, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),
}
WANTED = "last_hidden_state"


def bert_in(folder: Path, layers: int) -> str:
    module, description = tiny_bert(num_hidden_layers=layers)
    torch_bundle(folder, description, module)
    return str(folder)


def alike(given: Any, wanted: Any) -> None:
    mask = SAMPLE["attention_mask"] == 1
    np.testing.assert_allclose(given[WANTED][mask], wanted[WANTED][mask], rtol=1e-4, atol=1e-5)


def test_stages_answer_like_the_whole_model(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    with InferenceEngine(model_path=bert_in(tmp_path / "m", layers=4), threads=1) as engine:
        wanted = engine.infer(SAMPLE).outputs
        engine.enable_pipeline_parallel(num_stages=4)
        stages = set(descendants(os.getpid())) - before
        assert len(stages) == 3
        alike(engine.infer(SAMPLE).outputs, wanted)
        engine.enable_pipeline_parallel(num_stages=1)
        alike(engine.infer(SAMPLE).outputs, wanted)
        until(lambda: all(map(gone, stages)), "stages end when the model is whole again")


def test_more_stages_than_layers_are_refused_and_the_model_goes_on(tmp_path: Path) -> None:
    with InferenceEngine(bert_in(tmp_path / "m", layers=1), threads=1) as engine:
        with pytest.raises(ConfigurationError, match="1 layers, fewer than 2 stages") as raised:
            engine.enable_pipeline_parallel(num_stages=2)
        assert "at most 1 stages" in str(raised.value)
        with pytest.raises(ConfigurationError, match="pipeline is 0"):
            engine.enable_pipeline_parallel(num_stages=0)
        assert engine.infer(SAMPLE).outputs[WANTED].shape == (3, 4, 8)


def test_a_graph_of_onnx_runtime_says_what_can_be_divided(tmp_path: Path) -> None:
    with InferenceEngine(bundles.write_echo(tmp_path / "m"), threads=1) as engine:
        with pytest.raises(ConfigurationError, match="computes a whole graph") as raised:
            engine.enable_pipeline_parallel(num_stages=4)
        assert raised.value.reason == "NotDivisible"
        assert "back end 'torch'" in str(raised.value)
        assert "replicas" in str(raised.value)


def test_an_architecture_that_is_no_chain_of_layers_is_named(tmp_path: Path) -> None:
    from deepseek_engine.models.unet3d import UNet3d, UNet3dConfig

    fields = {"channels": [4, 8], "classes": 2}
    description = {
        "library": "deepseek",
        "architecture": "3d-unet",
        "config": fields,
        "inputs": [["voxels", "FP32", [-1, 1, 4, 4, 4]]],
        "outputs": [["logits", "FP32", [-1, 2, 4, 4, 4]]],
    }
    module = UNet3d(UNet3dConfig.from_fields(fields)).eval()
    torch_bundle(tmp_path / "m", description, module)
    with InferenceEngine(tmp_path / "m", threads=1) as engine:
        with pytest.raises(PrecisionError, match="'3d-unet' cannot be divided") as raised:
            engine.enable_pipeline_parallel(num_stages=2)
        assert "BertModel" in str(raised.value)
