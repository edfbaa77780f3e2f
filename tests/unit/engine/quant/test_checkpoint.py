"""Loading checkpoints into modules: right numbers, shared weights, and exact complaints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_api.errors import DeepseekError, PrecisionError, SourceError
from deepseek_engine.prepare.quant.kinds import LayerType
from deepseek_engine.prepare.quant.policy import (
    KEEP,
    Rule,
    for_precision,
    policy_named,
    uniform,
)
from deepseek_engine.prepare.quant.stream import quantize_checkpoint
from deepseek_engine.quant.checkpoint import Checkpoint, load_into
from deepseek_engine.quant.layers import QuantizedEmbedding, QuantizedLayer, QuantizedLinear
from safetensors.torch import load_file, save_file
from torch import nn

from tests.support.checkpoints import write_checkpoint

Tensors = dict[str, torch.Tensor]


class Words(nn.Module):
    """An embedding, a layer, a convolution, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 128)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(128, 128), "fc2": nn.Linear(128, 128)})
        self.conv = nn.Conv1d(128, 32, 3, padding=1)
        self.back = nn.ConvTranspose2d(32, 16, (1, 2), bias=False)
        self.norm = nn.BatchNorm1d(128)
        self.lm_head = nn.Linear(128, 40, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.mlp["fc2"](torch.relu(self.mlp["fc1"](self.embed(ids))))
        hidden = self.norm(hidden.transpose(1, 2))
        return self.lm_head(hidden.transpose(1, 2)), self.back(self.conv(hidden).unsqueeze(2))


def words(seed: int = 0) -> Words:
    torch.manual_seed(seed)
    module = Words()
    module.train(mode=False)
    return module


def state() -> Tensors:
    """As published checkpoints have it: a shared weight once."""
    return {name: t for name, t in words().state_dict().items() if name != "lm_head.weight"}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "plain", state(), config={"model_type": "own"})


def load(folder: Path, module: nn.Module | None = None) -> Any:
    found = words(seed=1) if module is None else module
    with Checkpoint(folder) as checkpoint:
        load_into(found, checkpoint)
    return found


def run(module: nn.Module) -> list[torch.Tensor]:
    with torch.inference_mode():
        return list(module(torch.arange(40).reshape(2, 20)))


def test_a_plain_checkpoint_gives_the_same_module(plain: Path) -> None:
    for found, expected in zip(run(load(plain)), run(words()), strict=True):
        assert torch.equal(found, expected)


def test_a_quantized_one_gives_quantized_layers_with_almost_the_same_answers(
    plain: Path, tmp_path: Path
) -> None:
    quantize_checkpoint(plain, tmp_path / "small", for_precision("int8"))
    module = load(tmp_path / "small")
    assert isinstance(module.mlp["fc1"], QuantizedLinear)
    assert isinstance(module.conv, QuantizedLayer)
    assert isinstance(module.back, QuantizedLayer)
    for found, expected in zip(run(module), run(words()), strict=True):
        assert (found - expected).norm() < 0.04 * expected.norm()


def test_a_shared_weight_stays_shared(plain: Path, tmp_path: Path) -> None:
    quantize_checkpoint(plain, tmp_path / "small", for_precision("int8"))
    module = load(tmp_path / "small")
    assert isinstance(module.embed, QuantizedEmbedding)
    assert isinstance(module.lm_head, QuantizedLinear)
    assert module.lm_head.data.data_ptr() == module.embed.data.data_ptr()


def test_tensors_are_cast_to_the_type_of_the_module(plain: Path, tmp_path: Path) -> None:
    quantize_checkpoint(plain, tmp_path / "small", policy_named("bf16"))
    module = load(tmp_path / "small")
    assert module.mlp["fc1"].weight.dtype == torch.float32
    expected = state()["mlp.fc1.weight"].to(torch.bfloat16).float()
    assert torch.equal(module.mlp["fc1"].weight, expected)


def edited(folder: Path, edit: Callable[[Tensors], object]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def failure(call: Callable[[], object]) -> DeepseekError:
    with pytest.raises(DeepseekError) as caught:
        call()
    return caught.value


FC1 = "mlp.fc1"


@pytest.mark.parametrize(
    ("edit", "reason", "named"),
    [
        pytest.param(lambda t: t.pop("norm.weight"), "TensorMissing", "norm.weight", id="missing"),
        pytest.param(lambda t: t.update(other=torch.ones(1)), "TensorUnknown", "other", id="extra"),
        pytest.param(lambda t: t.update({"norm.bias": torch.ones(3)}), "TensorShapeWrong",
                     "'norm.bias' has the shape [3] in the checkpoint and [128]", id="shape"),
        pytest.param(lambda t: t.pop(f"{FC1}.weight_shape"), "TensorMissing",
                     f"'{FC1}' of this checkpoint has no tensor 'weight_shape'", id="no shape"),
        pytest.param(lambda t: t.pop(f"{FC1}.weight_packed"), "TensorMissing",
                     f"'{FC1}' of this checkpoint has no tensor 'weight'", id="no values"),
        pytest.param(lambda t: t.pop(f"{FC1}.weight_zero_point"), "TensorMissing",
                     "weight_zero_point", id="no zero points"),
        pytest.param(lambda t: t.update({f"{FC1}.weight_scale": torch.ones(128, 3)}),
                     "TensorShapeWrong", "[128, 3], not [128, 2]", id="scales"),
        pytest.param(lambda t: t.update({f"{FC1}.weight_shape": torch.tensor([128, 120])}),
                     "TensorShapeWrong", "K = 120 is no multiple of 64", id="group"),
        pytest.param(lambda t: t.update({f"{FC1}.weight_packed": t[f"{FC1}.weight_packed"].long()}),
                     "TensorShapeWrong", "the type is torch.int64", id="type"),
        pytest.param(lambda t: t.update({f"{FC1}.weight_packed": torch.ones(128, 9).int()}),
                     "TensorShapeWrong", "[128, 9], not [128, 16]", id="values"),
        pytest.param(lambda t: t[f"{FC1}.weight_scale"].fill_(float("inf")), "TensorShapeWrong",
                     f"'weight_scale' of the layer '{FC1}' does not fit its scheme: it holds NaN",
                     id="infinite scales"),
        pytest.param(lambda t: t.update({"fc9.weight_scale": torch.ones(1)}),
                     "UnknownScheme", "'fc9' has scales, and no group", id="no group"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    edit: Callable[[Tensors], object], reason: str, named: str, plain: Path, tmp_path: Path
) -> None:
    quantize_checkpoint(plain, tmp_path / "small", policy_named("int4-g64-asym"))
    error = failure(lambda: load(edited(tmp_path / "small", edit)))
    assert isinstance(error, SourceError)
    assert (error.reason, named in error.message) == (reason, True), error.message


@pytest.mark.parametrize(
    ("layer", "reason", "named"),
    [
        ("fc9", "TensorUnknown", "has 1 that the model does not know (fc9)"),
        ("norm", "TensorsDoNotFit", "'norm' is quantized in the checkpoint and is a BatchNorm1d"),
    ],
)
def test_a_quantized_layer_that_the_model_does_not_have_is_named(
    layer: str, reason: str, named: str, plain: Path, tmp_path: Path
) -> None:
    only_linear = uniform("int8").with_rules(Rule(KEEP, types=frozenset({LayerType.CONVOLUTION})))
    quantize_checkpoint(plain, tmp_path / "small", only_linear)
    more = {f"{layer}.weight_scale": torch.ones(1)}
    error = failure(lambda: load(edited(tmp_path / "small", lambda t: t.update(more))))
    assert (error.reason, named in error.message) == (reason, True), error.message


def test_a_layer_of_another_size_is_named(plain: Path, tmp_path: Path) -> None:
    quantize_checkpoint(plain, tmp_path / "small", uniform("int8"))
    other = words()
    other.mlp["fc1"] = nn.Linear(64, 128)
    error = failure(lambda: load(tmp_path / "small", other))
    assert error.message == (
        "'mlp.fc1' has the shape [128, 128] in the checkpoint and [128, 64] in the model."
    )


@pytest.mark.parametrize(
    ("change", "kind", "what"),
    [
        pytest.param({"quant_method": "gptq"}, SourceError, "quantized with 'gptq'", id="method"),
        pytest.param({"config_groups": {}}, SourceError, "has scales, and no group",
                     id="no group"),
        pytest.param({"config_groups": {"odd": {"weights": {"num_bits": 3}}}},
                     PrecisionError, "group 'odd'", id="unknown scheme"),
    ],
)  # fmt: skip
def test_an_unknown_description_is_refused(
    change: dict[str, Any], kind: type[DeepseekError], what: str, plain: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    quantize_checkpoint(plain, folder, uniform("int8"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    error = failure(lambda: load(folder))
    assert type(error) is kind
    assert what in error.message


def test_targets_may_be_patterns(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    quantize_checkpoint(plain, folder, policy_named("int8"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_1"]["targets"] = [r"re:mlp\.fc\d"]
    (folder / "config.json").write_text(json.dumps(config))
    with Checkpoint(folder) as checkpoint:
        assert checkpoint.quantized_layers()["mlp.fc2"].name == "int8"


@pytest.mark.parametrize(
    ("prepare", "what"),
    [
        pytest.param(lambda folder: None, "no safetensors files", id="nothing"),
        pytest.param(
            lambda folder: [(folder / f"{name}.safetensors").touch() for name in "ab"],
            "2 safetensors files and no index",
            id="several files",
        ),
    ],
)
def test_a_folder_without_a_checkpoint_says_what_is_there(
    prepare: Callable[[Path], object], what: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    error = failure(lambda: Checkpoint(tmp_path))
    assert (error.reason, what in error.message) == ("WeightsNotFound", True)


def test_a_shard_that_is_missing_and_one_that_lacks_a_tensor_are_found(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "sharded", state(), shards=2)
    file = folder / "model-00002-of-00002.safetensors"
    kept = load_file(file)
    lost = sorted(kept)[0]
    save_file({name: t for name, t in kept.items() if name != lost}, file)
    assert lost in failure(lambda: Checkpoint(folder)).message
    file.unlink()
    assert "cannot be opened" in failure(lambda: Checkpoint(folder)).message


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"weight_map": dict.fromkeys(state(), "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    error = failure(lambda: Checkpoint(folder))
    assert error.reason == "TensorMissing"


def test_a_config_that_is_no_json_is_refused(plain: Path) -> None:
    (plain / "config.json").write_text("{")
    assert failure(lambda: Checkpoint(plain)).reason == "InvalidConfig"
