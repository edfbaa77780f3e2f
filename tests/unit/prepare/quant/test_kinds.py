"""What the layers of the model families are for, from their names in transformers and timm."""

from __future__ import annotations

import pytest
from deepseek_engine.prepare.quant.kinds import (
    LayerType,
    WeightKind,
    is_norm_class,
    kind_of_class,
    layer_of_tensor,
    type_of,
)

LINEAR = {
    "bert": {
        "encoder.layer.0.attention.self.query": "attention",
        "encoder.layer.11.attention.output.dense": "attention",
        "bert.encoder.layer.0.intermediate.dense": "ffn",
        "bert.encoder.layer.0.output.dense": "ffn",
        "bert.pooler.dense": "other",
        "classifier": "head",
        "cls.predictions.decoder": "head",
    },
    "vit": {
        "vit.layers.0.attention.o_proj": "attention",
        "vit.layers.0.mlp.fc1": "ffn",
        "blocks.0.attn.qkv": "attention",
        "blocks.0.attn.proj": "attention",
        "blocks.0.mlp.fc2": "ffn",
        "head": "head",
        "head.fc": "head",
    },
    "t5": {
        "encoder.block.0.layer.0.SelfAttention.q": "attention",
        "encoder.block.0.layer.1.DenseReluDense.wi": "ffn",
        "encoder.block.0.layer.1.DenseReluDense.wi_0": "ffn",
        "encoder.block.0.layer.1.DenseReluDense.wo": "ffn",
        "decoder.block.0.layer.1.EncDecAttention.k": "attention",
        "lm_head": "head",
    },
    "gpt2": {
        "transformer.h.0.attn.c_attn": "attention",
        "h.0.attn.c_proj": "attention",
        "h.0.mlp.c_fc": "ffn",
        "h.0.mlp.c_proj": "ffn",
    },
    "llama and mixtral": {
        "model.layers.0.self_attn.q_proj": "attention",
        "model.layers.0.mlp.gate_proj": "ffn",
        "model.layers.0.mlp.down_proj": "ffn",
        "model.layers.0.block_sparse_moe.gate": "other",
        "model.layers.0.block_sparse_moe.experts.3.w2": "ffn",
    },
    "resnet and unet": {
        "fc": "head",
        "classifier.1": "head",
        "down_blocks.0.attentions.0.to_q": "attention",
        "mid.attn1.to_out.0": "attention",
        "time_embed.linear_1": "other",
    },
    "whisper": {"encoder.layers.0.fc1": "ffn", "decoder.layers.0.encoder_attn.q_proj": "attention"},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(name, expected, id=f"{family}: {name}")
        for family, names in LINEAR.items()
        for name, expected in names.items()
    ],
)
def test_a_linear_layer_is_known_by_its_name(name: str, expected: str) -> None:
    assert type_of(name, "linear") == expected


@pytest.mark.parametrize(
    ("name", "shape", "kind", "expected"),
    [
        ("bert.embeddings.word_embeddings.weight", (300, 32), "embedding", "embedding"),
        ("embeddings.position_embeddings.weight", (64, 32), "embedding", "embedding"),
        ("model.embed_tokens.weight", (300, 32), "embedding", "embedding"),
        ("transformer.wte.weight", (300, 32), "embedding", "embedding"),
        ("shared.weight", (300, 32), "embedding", "embedding"),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 8),
         "embedding", "embedding"),
        ("layer1.0.conv1.weight", (8, 4, 3, 3), "conv", "conv"),
        ("encoder.conv1.weight", (8, 4, 3), "conv", "conv"),
        ("down.0.block.conv.weight", (8, 4, 3, 3, 3), "conv", "conv"),
        ("model.layers.0.mlp.up_proj.weight", (64, 32), "linear", "ffn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value)),
)  # fmt: skip
def test_a_tensor_of_a_checkpoint_is_known_by_name_and_shape(
    name: str, shape: tuple[int, ...], kind: WeightKind, expected: str
) -> None:
    layer = layer_of_tensor(name, shape)
    assert layer is not None
    assert (layer.name, layer.kind, layer.type) == (name.removesuffix(".weight"), kind, expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("model.norm.weight", (32,), id="norm"),
        pytest.param("encoder.layer.0.output.dense.bias", (32,), id="bias"),
        pytest.param("vit.embeddings.position_embeddings", (1, 17, 32), id="bare parameter"),
        pytest.param("model.layers.0.mlp.experts.weight", (8, 64, 32), id="stacked experts"),
        pytest.param("empty.weight", (0, 32), id="no rows"),
    ],
)
def test_what_is_no_layers_weight_is_left_alone(name: str, shape: tuple[int, ...]) -> None:
    assert layer_of_tensor(name, shape) is None


def test_gpt2_stores_linear_weights_the_other_way_round() -> None:
    stored = layer_of_tensor("h.0.mlp.c_fc.weight", (32, 128), "gpt2")
    assert stored is not None
    assert (stored.shape, stored.columns) == ((128, 32), 32)
    other = layer_of_tensor("h.0.mlp.c_fc.weight", (32, 128), "llama")
    assert other is not None
    assert other.shape == (32, 128)


@pytest.mark.parametrize(
    ("class_name", "kind", "norm"),
    [
        ("Linear", "linear", False),
        ("Conv1D", "linear", False),
        ("Conv1d", "conv", False),
        ("ConvTranspose3d", "conv", False),
        ("Embedding", "embedding", False),
        ("LayerNorm", "other", True),
        ("T5LayerNorm", "other", True),
        ("BatchNorm2d", "other", True),
        ("NonDynamicallyQuantizableLinear", "other", False),
    ],
)
def test_a_module_is_known_by_its_class(class_name: str, kind: str, norm: bool) -> None:
    assert (kind_of_class(class_name), is_norm_class(class_name)) == (kind, norm)


def test_the_types_are_the_words_that_users_know() -> None:
    assert set(LayerType) == {"attention", "ffn", "conv", "embedding", "norm", "head", "other"}
