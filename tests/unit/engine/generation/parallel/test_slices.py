"""Which part of a checkpoint a rank reads, and that it reads nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deepseek_api.errors import ConfigurationError
from deepseek_engine.generation.parallel.slices import (
    Cut,
    ModelShape,
    ShardPlan,
    ShardReader,
    cut_state,
)
from safetensors.torch import save_file

from tests.support.ranks import places

SHAPE = ModelShape(layers=4, heads=8, kv_heads=2, vocabulary=101, experts=4)
LAYER = "model.layers.2."


@pytest.mark.parametrize(
    ("name", "shape", "cut"),
    [
        (f"{LAYER}self_attn.q_proj.weight", (64, 32), Cut(0, ((16, 32),))),
        (f"{LAYER}self_attn.q_proj.bias", (64,), Cut(0, ((16, 32),))),
        (f"{LAYER}self_attn.k_proj.weight", (16, 32), Cut(0, ((0, 8),))),
        (f"{LAYER}self_attn.o_proj.weight", (32, 64), Cut(1, ((16, 32),))),
        (f"{LAYER}self_attn.o_proj.bias", (32,), Cut()),
        (f"{LAYER}self_attn.qkv_proj.weight", (96, 32), Cut(0, ((16, 32), (64, 72), (80, 88)))),
        (f"{LAYER}self_attn.q_norm.weight", (8,), Cut()),
        (f"{LAYER}self_attn.kv_a_proj_with_mqa.weight", (20, 32), Cut()),
        (f"{LAYER}self_attn.kv_b_proj.weight", (128, 16), Cut(0, ((32, 64),))),
        (f"{LAYER}mlp.up_proj.weight", (48, 32), Cut(0, ((12, 24),))),
        (f"{LAYER}mlp.gate_up_proj.weight", (96, 32), Cut(0, ((12, 24), (60, 72)))),
        (f"{LAYER}mlp.down_proj.weight", (32, 48), Cut(1, ((12, 24),))),
        (f"{LAYER}mlp.down_proj.weight_scale", (32, 1), Cut()),
        (f"{LAYER}mlp.down_proj.weight_scale", (32, 12), Cut(1, ((3, 6),))),
        (f"{LAYER}mlp.up_proj.weight_scale", (48, 1), Cut(0, ((12, 24),))),
        (f"{LAYER}mlp.up_proj.weight_shape", (2,), Cut()),
        (f"{LAYER}mlp.experts.1.down_proj.weight", (32, 48), Cut()),
        (f"{LAYER}mlp.experts.0.down_proj.weight", (32, 48), None),
        (f"{LAYER}mlp.gate.weight", (4, 32), Cut()),
        (f"{LAYER}mlp.shared_experts.down_proj.weight", (32, 48), Cut(1, ((12, 24),))),
        (f"{LAYER}input_layernorm.weight", (32,), Cut()),
        ("model.embed_tokens.weight", (101, 32), Cut(0, ((26, 52),))),
        ("lm_head.weight", (101, 32), Cut(0, ((26, 52),))),
        ("model.norm.weight", (32,), Cut()),
        ("transformer.h.2.attn.c_attn.weight", (32, 96), Cut(1, ((16, 32), (64, 72), (80, 88)))),
        ("transformer.h.2.mlp.c_fc.weight", (32, 48), Cut(1, ((12, 24),))),
        ("transformer.h.2.mlp.c_fc.bias", (48,), Cut(0, ((12, 24),))),
        ("transformer.h.2.mlp.c_proj.weight", (48, 32), Cut(0, ((12, 24),))),
        ("encoder.layer.2.attention.self.value.weight", (64, 32), Cut(0, ((16, 32),))),
        ("encoder.layer.2.attention.output.dense.weight", (32, 64), Cut(1, ((16, 32),))),
        ("encoder.block.2.layer.1.DenseReluDense.wo.weight", (32, 48), Cut(1, ((12, 24),))),
    ],
    ids=lambda value: value.replace(LAYER, "") if isinstance(value, str) else "",
)
def test_the_second_of_four_ranks_takes_its_part(
    name: str, shape: tuple[int, ...], cut: Cut | None
) -> None:
    assert ShardPlan(SHAPE, places(tensor=4)[1]).cut(name, shape) == cut


def test_the_last_rank_pads_its_rows_of_the_vocabulary() -> None:
    cut = ShardPlan(SHAPE, places(tensor=4)[3]).cut("lm_head.weight", (101, 32))
    assert cut == Cut(0, ((78, 101),), 3)


@pytest.mark.parametrize(
    ("name", "tied", "stages"),
    [
        ("model.embed_tokens.weight", False, [0]),
        ("model.embed_tokens.weight", True, [0, 2]),
        ("transformer.wpe.weight", True, [0]),
        ("model.layers.0.input_layernorm.weight", False, [0]),
        ("model.layers.1.mlp.up_proj.weight", False, [1]),
        ("model.layers.3.mlp.up_proj.weight", False, [2]),
        ("model.norm.weight", False, [2]),
        ("lm_head.weight", False, [2]),
    ],
)
def test_each_stage_needs_its_own_layers_and_an_end(
    name: str, tied: bool, stages: list[int]
) -> None:
    shape = ModelShape(layers=4, heads=2, kv_heads=2, vocabulary=8, tied=tied)
    plans = [ShardPlan(shape, place) for place in places(pipeline=3)]
    assert [stage for stage, plan in enumerate(plans) if plan.holds(name)] == stages


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.layers.0.mlp.up_proj.weight", (50, 8), "up_proj.weight"),
        ("model.layers.0.mlp.down_proj.weight_scale", (8, 6), "down_proj.weight_scale"),
        ("model.layers.0.self_attn.q_proj.weight", (10, 8), "begin inside a group"),
        ("lm_head.weight", (80, 8), "80 rows for a vocabulary of 101"),
    ],
)
def test_a_tensor_that_cannot_be_divided_is_named(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        ShardPlan(SHAPE, places(tensor=4)[1]).cut(name, shape)
    assert raised.value.reason == "InvalidParallelism"


def checkpoint() -> dict[str, torch.Tensor]:
    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))

    state = {"model.embed_tokens.weight": weight(101, 32), "lm_head.weight": weight(101, 32)}
    for layer in range(4):
        begin = f"model.layers.{layer}."
        state |= {
            f"{begin}self_attn.q_proj.weight": weight(64, 32),
            f"{begin}self_attn.k_proj.weight": weight(16, 32),
            f"{begin}self_attn.v_proj.weight": weight(16, 32),
            f"{begin}self_attn.o_proj.weight": weight(32, 64),
            f"{begin}mlp.up_proj.weight": weight(96, 32),
            f"{begin}mlp.down_proj.weight": weight(32, 96),
            f"{begin}input_layernorm.weight": weight(32),
        }
    return state


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)], ids=str)
def test_a_rank_reads_its_share_of_the_bytes_and_no_more(
    tmp_path: Path, tensor: int, pipeline: int
) -> None:
    state = checkpoint()
    names = sorted(state)
    save_file({name: state[name] for name in names[::2]}, tmp_path / "1.safetensors")
    save_file({name: state[name] for name in names[1::2]}, tmp_path / "2.safetensors")
    total = sum(tensor.nbytes for tensor in state.values())
    shape = ModelShape(layers=4, heads=8, kv_heads=2, vocabulary=101)
    for place in places(tensor=tensor, pipeline=pipeline):
        with ShardReader(sorted(tmp_path.iterdir()), ShardPlan(shape, place)) as reader:
            read = {name: reader.read(name) for name in reader.names()}
        expected = cut_state(state, shape, place)
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[name], expected[name]) for name in read)
        assert all(part.is_contiguous() for part in read.values())
        # Norms are whole everywhere, and with four ranks two of them hold the same keys.
        assert reader.bytes_read <= 1.15 * total / (tensor * pipeline)


def test_a_tensor_of_another_stage_is_not_read(tmp_path: Path) -> None:
    save_file(checkpoint(), tmp_path / "1.safetensors")
    shape = ModelShape(layers=4, heads=8, kv_heads=2, vocabulary=101)
    plan = ShardPlan(shape, places(pipeline=2)[1])
    with ShardReader([tmp_path / "1.safetensors"], plan) as reader:
        with pytest.raises(KeyError):
            reader.read("model.layers.0.mlp.up_proj.weight")
        assert reader.bytes_read == 0


def test_parts_put_together_again_are_the_whole() -> None:
    state = checkpoint()
    shape = ModelShape(layers=4, heads=8, kv_heads=8, vocabulary=101)
    parts = [cut_state(state, shape, place) for place in places(tensor=2)]
    name = "model.layers.3.mlp.down_proj.weight"
    assert torch.equal(torch.cat([part[name] for part in parts], dim=1), state[name])
    rows = torch.cat([part["lm_head.weight"] for part in parts])
    assert torch.equal(rows[:101], state["lm_head.weight"])
    assert not rows[101:].any()
