"""Quantizing whole modules: every layer gets its scheme, answers stay, reports are right."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from deepseek_api.errors import ConfigurationError, PrecisionError, SourceError
from deepseek_engine.prepare.quant.api import layers_of, quantize_module
from deepseek_engine.prepare.quant.calibration import Calibration
from deepseek_engine.prepare.quant.folding import find_folds
from deepseek_engine.prepare.quant.kinds import LayerType
from deepseek_engine.prepare.quant.policy import (
    Policy,
    Rule,
    adaptive_quantization,
    for_precision,
    mixed,
    uniform,
)
from deepseek_engine.prepare.quant.report import Accuracy, QuantizationReport, Speed
from deepseek_engine.quant.layers import CastLinear, QuantizedEmbedding, QuantizedLinear
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
)

SIZE: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def bert() -> Any:
    config = BertConfig(vocab_size=200, intermediate_size=256, max_position_embeddings=64, **SIZE)
    return BertModel(config)


def vit() -> Any:
    labels = {number: str(number) for number in range(10)}
    config = ViTConfig(image_size=32, patch_size=8, intermediate_size=256, id2label=labels, **SIZE)
    return ViTForImageClassification(config)


def gpt2() -> Any:
    config = GPT2Config(vocab_size=200, n_positions=64, n_embd=128, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config)


def t5() -> Any:
    config = T5Config(
        vocab_size=200, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4,
        feed_forward_proj="relu",
    )  # fmt: skip
    return T5EncoderModel(config)


class UNet(nn.Module):
    """One level down and up in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 32, 3, padding=1), nn.BatchNorm3d(32), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv3d(32, 64, 2, stride=2), nn.BatchNorm3d(64), nn.ReLU())
        self.up = nn.ConvTranspose3d(64, 32, 2, stride=2)
        self.last = nn.Conv3d(64, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.down(x)
        found: torch.Tensor = self.last(torch.cat([self.up(self.inner(high)), high], 1))
        return found


FAMILIES: dict[str, tuple[Any, Any]] = {
    "bert": (bert, lambda: {"input_ids": torch.randint(200, (4, 24))}),
    "vit": (vit, lambda: {"pixel_values": torch.randn(4, 3, 32, 32)}),
    "gpt2": (gpt2, lambda: {"input_ids": torch.randint(200, (4, 24))}),
    "t5": (t5, lambda: {"input_ids": torch.randint(200, (4, 24))}),
    "unet": (UNet, lambda: torch.randn(2, 1, 8, 8, 8)),
}
EACH = pytest.mark.parametrize("family", FAMILIES)


def build(family: str) -> tuple[Any, Any]:
    """A module with seeded weights large enough to matter, and an input."""
    torch.manual_seed(0)
    make, draw = FAMILIES[family]
    module = make()
    module.train(mode=False)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2 and family != "t5":  # whose own are large already
                parameter.mul_(3.0)
            elif name.endswith("bias"):
                parameter.add_(torch.linspace(-0.1, 0.1, len(parameter)))
    return module, draw()


def run(module: Any, feed: Any) -> torch.Tensor:
    with torch.inference_mode():
        answer = module(**feed) if isinstance(feed, dict) else module(feed)
    found: torch.Tensor = answer if isinstance(answer, torch.Tensor) else answer[0]
    return found


def off(given: torch.Tensor, expected: torch.Tensor) -> float:
    return float((given - expected).norm() / expected.norm())


@EACH
@pytest.mark.parametrize(
    ("precision", "limit"),
    [
        ("fp16", 0.005),
        ("bf16", 0.02),
        ("int8", 0.06),
        ("mixed", 0.03),
        ("fp8", 0.12),
        ("int4", 0.6),
    ],
)
def test_every_family_answers_nearly_the_same(family: str, precision: str, limit: float) -> None:
    module, feed = build(family)
    expected = run(module, feed)
    quantize_module(module, for_precision(precision))
    given = run(module, feed)
    assert given.dtype == torch.float32
    assert off(given, expected) < limit


@EACH
def test_mixed_gives_every_layer_its_number_format(family: str) -> None:
    module, _ = build(family)
    report = quantize_module(module, mixed())
    for layer in report.layers:
        small = layer.parameters < 1024
        expected = {
            "attention": "fp16", "ffn": "int8", "conv": "int8", "embedding": "int8", "norm": "bf16",
            "head": "bf16", "other": "bf16",
        }[layer.type]  # fmt: skip
        assert layer.wanted == expected, layer
        assert layer.scheme == ("bf16" if small and expected == "int8" else expected), layer
        part = module.get_submodule(layer.name)
        if layer.scheme == "int8":
            assert hasattr(part, "quantized"), layer.name
        elif layer.type == "attention":
            assert isinstance(part, CastLinear)
            assert part.weight.dtype == torch.float16
    assert {layer.type for layer in report.layers} >= {"conv"} or family != "unet"


@EACH
def test_bytes_are_what_the_policy_makes_of_every_parameter(family: str) -> None:
    module, _ = build(family)
    unique = {id(p): p for p in module.parameters()}
    total = sum(p.nbytes for p in unique.values())
    report = quantize_module(module, mixed())
    assert report.bytes_before == total
    assert report.parameters == total // 4
    width = {"fp16": 2.0, "bf16": 2.0, "int8": 1.0}
    arithmetic = sum(layer.parameters * width[layer.scheme] for layer in report.layers)
    arithmetic += 2 * report.other_parameters
    assert report.bytes_after == pytest.approx(arithmetic, rel=0.04)  # scales, of small layers


def test_the_types_of_a_real_module_feed_the_rule_that_users_know() -> None:
    modes = {layer.name: adaptive_quantization(layer) for layer in layers_of(build("bert")[0])}
    assert modes["encoder.layer.0.attention.self.query"] == "fp16"
    assert modes["encoder.layer.0.attention.output.dense"] == "fp16"
    assert modes["encoder.layer.1.intermediate.dense"] == "int8"
    assert modes["encoder.layer.1.output.dense"] == "int8"
    assert modes["embeddings.LayerNorm"] == "bf16"


def test_a_shared_embedding_is_counted_and_stored_once() -> None:
    module, feed = build("gpt2")
    report = quantize_module(module, for_precision("int8"))
    assert isinstance(module.transformer.wte, QuantizedEmbedding)
    assert isinstance(module.lm_head, QuantizedLinear)
    assert module.lm_head.data.data_ptr() == module.transformer.wte.data.data_ptr()
    assert [layer.name for layer in report.layers if "lm_head" in layer.name] == []
    assert run(module, feed).shape == (4, 24, 200)


def test_t5s_own_look_at_a_weight_is_answered_in_its_type() -> None:
    """It casts hidden states to the type of ``wo.weight``, and ViT pixels to its projection's."""
    module, _ = build("t5")
    quantize_module(module, for_precision("int8"))
    layer = module.encoder.block[0].layer[1].DenseReluDense.wo
    assert isinstance(layer, QuantizedLinear)
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("family", ["bert", "vit", "gpt2", "t5"])
@pytest.mark.parametrize(("method", "part"), [("gptq", 0.8), ("awq", 0.98)])
def test_calibrated_int4_changes_outputs_less_than_nearest(
    family: str, method: Any, part: float
) -> None:
    def error(method: Any) -> float:
        module, feed = loud(family)
        report = quantize_module(
            module, uniform("int4-g64"), calibration=Calibration([feed]), method=method
        )
        found = [e for layer in report.layers if (e := layer.output_error) is not None]
        return sum(found) / len(found)

    assert error(method) < part * error("nearest")


def test_less_memory_means_more_passes_and_the_same_kind_of_result() -> None:
    errors = []
    for memory in (1, 1 << 30):
        module, feed = build("bert")
        expected = run(module, feed)
        calibration = Calibration([feed], memory_bytes=memory)
        quantize_module(module, uniform("int4-g64"), calibration=calibration, method="gptq")
        errors.append(off(run(module, feed), expected))
    assert errors[0] < 1.2 * errors[1]


def test_output_errors_are_reported_with_a_calibration() -> None:
    module, feed = build("bert")
    report = quantize_module(
        module, for_precision("int8"), calibration=Calibration([feed]), method="nearest"
    )
    linear = [layer for layer in report.layers if layer.kind == "linear"]
    # The pooler too: BERT runs it.
    assert all(layer.output_error is not None and layer.output_error < 0.02 for layer in linear)
    assert report.worst(1)[0].name in {layer.name for layer in report.layers}


def loud(family: str) -> tuple[Any, Any]:
    """A module whose norms make a few channels very loud."""
    module, feed = build(family)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1 and "norm" in name.lower() and name.endswith("weight"):
                parameter[::32] *= 30
    return module, feed


def test_smoothing_helps_rounded_inputs_with_outliers() -> None:
    def error(smoothing: float | None) -> float:
        module, feed = loud("vit")
        expected = run(module, feed)
        calibration = Calibration([feed]) if smoothing is not None else None
        report = quantize_module(
            module, for_precision("int8"), calibration=calibration, smoothing=smoothing
        )
        assert report.method == ("nearest" if smoothing is None else "smoothquant+nearest")
        return off(run(module, feed), expected)

    assert error(0.5) < 0.7 * error(None)


@pytest.mark.parametrize(
    ("family", "least"),
    [
        pytest.param("vit", 6, id="norms before attention and feed-forward, values"),
        pytest.param("gpt2", 4, id="the same with Conv1D"),
        pytest.param("t5", 8, id="ReLU besides"),
        pytest.param("bert", 2, id="values only: norms feed the residual"),
    ],
)
def test_factors_move_only_where_the_answer_stays(family: str, least: int) -> None:
    module, feed = build(family)
    expected = run(module, feed)
    folds = find_folds(module, feed)
    assert torch.equal(run(module, feed), expected)  # trying left no trace
    assert len(folds) >= least
    if family == "bert":
        assert all(isinstance(fold.producer, nn.Linear) for fold in folds)
    for fold in folds:
        weight = fold.consumers[0].get_parameter("weight")
        size = weight.shape[0 if type(fold.consumers[0]).__name__ == "Conv1D" else 1]
        fold.move(torch.rand(size) + 0.5)
    assert off(run(module, feed), expected) < 1e-4


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_method_that_needs_examples_says_so(method: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"method '{method}' needs examples"):
        quantize_module(build("bert")[0], uniform("int4-g64"), method=method)
    with pytest.raises(ConfigurationError, match="'smoothing' needs examples"):
        quantize_module(build("bert")[0], uniform("int8"), smoothing=0.5)


def test_a_single_layer_cannot_be_exchanged_inside_itself() -> None:
    with pytest.raises(ConfigurationError, match="Put it into a module"):
        quantize_module(nn.Linear(64, 64), uniform("int8"))


def test_errors_name_the_layer() -> None:
    module, _ = build("bert")
    with torch.no_grad():
        module.encoder.layer[1].intermediate.dense.weight[0, 0] = float("nan")
    with pytest.raises(SourceError, match=r"'encoder\.layer\.1\.intermediate\.dense' holds NaN"):
        quantize_module(module, uniform("int8"))
    name = "encoder.layer.0.output.dense"
    policy = Policy("own", (Rule("bf16"),)).with_rules(Rule("int4-g128", names="*.q_porj"))
    with pytest.raises(ConfigurationError, match=r"'\*\.q_porj' matches no layer"):
        quantize_module(build("bert")[0], policy)
    odd, _ = build("bert")
    odd.encoder.layer[0].output.dense = nn.Linear(200, 128)
    explicit = uniform("int8").with_rules(Rule("int4-g128", names=name))
    with pytest.raises(PrecisionError, match=f"'{name}' cannot have the scheme"):
        quantize_module(odd, explicit)


def test_attention_of_torch_itself_is_left_alone_where_it_reads_weights() -> None:
    module = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    module.train(mode=False)
    feed = torch.randn(2, 5, 64)
    expected = run(module, feed)
    report = quantize_module(module, uniform("int8"))
    kept = {layer.name: layer.scheme for layer in report.layers}
    assert kept["self_attn.out_proj"] == "keep"
    assert kept["linear1"] == "int8"
    assert off(run(module, feed), expected) < 0.02


def report_of(family: str = "bert") -> QuantizationReport:
    return quantize_module(build(family)[0], for_precision("int4"))


def test_a_report_is_a_table_and_json() -> None:
    report = report_of().measured(
        accuracy=Accuracy("cosine", 0.97, 1.0, 100), speed=Speed(1.0, 2.0, "1x64", "cpu")
    )
    lines = report.text().splitlines()
    assert lines[0].split() == ["LAYERS", "SCHEME", "COUNT", "BEFORE", "AFTER", "ERROR", "WORST"]
    assert lines[-1].split() == ["all", str(report.bytes_before), str(report.bytes_after)]
    found = json.loads(report.to_json())
    assert found["bytes_after"] == report.bytes_after
    assert found["accuracy"]["value"] == 0.97
    assert len(found["layers"]) == len(report.layers)
    assert report.accuracy is not None
    assert report.speed is not None
    assert (report.accuracy.kept, report.speed.ratio) == (0.97, 2.0)


def test_shares_are_against_fp32_and_by_kind() -> None:
    report = report_of()
    assert report.share(kind="linear", quantized_only=True) == pytest.approx(4.14 / 32, rel=0.03)
    assert report.share(kind="embedding") == pytest.approx(0.26, rel=0.08)
    assert report.share() == report.bytes_after / (4 * report.parameters)
    assert report.share(kind="conv") == 0.0


def test_fallbacks_are_listed_by_reason() -> None:
    found = quantize_module(build("vit")[0], uniform("int4-g128")).fallbacks()
    reason = "int8 instead of int4-g128: a convolution can only be int8 by row"
    assert found[reason] == ["vit.embeddings.patch_embeddings.projection"]


def test_types_can_be_overridden_by_rules() -> None:
    module, _ = build("bert")
    policy = mixed().with_rules(
        Rule("int4-g128", types=frozenset({LayerType.FEED_FORWARD})),
        Rule("int8", names="*.value"),
    )
    schemes = {layer.name: layer.scheme for layer in quantize_module(module, policy).layers}
    assert schemes["encoder.layer.0.output.dense"] == "int4-g128"
    assert schemes["encoder.layer.0.attention.self.value"] == "int8"
    assert schemes["encoder.layer.0.attention.self.query"] == "fp16"
