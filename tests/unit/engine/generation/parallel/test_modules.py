"""Modules of transformers cut into ranks answer like whole ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from deepseek_api.errors import ConfigurationError, PrecisionError
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.modules import shard_module

from tests.support.ranks import on_ranks

# Importing transformers takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)

FIELDS: dict[str, dict[str, Any]] = {
    "BertModel": {
        "model_type": "bert", "vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 32,
    },
    "T5EncoderModel": {
        "model_type": "t5", "vocab_size": 37, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2,
        "num_heads": 4, "feed_forward_proj": "gated-gelu",
    },
    "GPT2LMHeadModel": {
        "model_type": "gpt2", "vocab_size": 37, "n_embd": 16, "n_layer": 2, "n_head": 4,
        "n_positions": 32,
    },
}  # fmt: skip
OUTPUTS = {"BertModel": "last_hidden_state", "T5EncoderModel": "last_hidden_state",
           "GPT2LMHeadModel": "logits"}  # fmt: skip
# Of a layer: attention and feed-forward; of the whole: the embedding.
SUMS = 2 * 2 + 1


def module(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**FIELDS[name] | changes)
    made = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            # Biases and norms too: zeros and ones would hide one that is added twice.
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return made


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", FIELDS)
def test_ranks_answer_like_the_whole_module(name: str, size: int) -> None:
    whole = module(name)
    inputs = {
        "input_ids": torch.tensor([[3, 36, 7, 1], [5, 2, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }
    with torch.no_grad():
        wanted = whole(**inputs)[OUTPUTS[name]]

    def run(context: ParallelContext) -> tuple[torch.Tensor, dict[str, int], int]:
        part = shard_module(copy.deepcopy(whole), context)
        answer = part(**inputs)[OUTPUTS[name]]
        calls = dict(context.traffic.calls)
        return answer, calls, sum(weight.nbytes for weight in part.parameters())

    bytes_whole = sum(weight.nbytes for weight in whole.parameters())
    for answer, calls, held in on_ranks(run, tensor=size):
        # Rows that are padding may hold anything.
        torch.testing.assert_close(answer[0], wanted[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(answer[1, :2], wanted[1, :2], rtol=1e-4, atol=1e-5)
        gathers = {"all_gather": 1} if name == "GPT2LMHeadModel" else {}
        assert calls == {"all_reduce": SUMS} | gathers
        # Norms, biases and positions are whole, which weighs in so small a model.
        assert held < bytes_whole * (1 / size + 0.25)


@pytest.mark.parametrize("name", FIELDS)
def test_heads_that_do_not_divide_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="attention heads is 4, which 3"):
        shard_module(module(name), ParallelContext(tensor_size=3))


def test_a_family_that_cannot_be_cut_is_named() -> None:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(PrecisionError, match="'vit'") as raised:
        shard_module(transformers.ViTModel(config), ParallelContext(tensor_size=2))
    assert "bert, t5, gpt2" in str(raised.value)
