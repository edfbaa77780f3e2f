"""Loading a decoder: files, tensors that do not fit, int8 and quantized checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_api.errors import PrecisionError, SourceError
from deepseek_engine.generation.decoder.int8 import Int8Linear
from deepseek_engine.generation.weights import load_decoder
from deepseek_engine.quant.activations import multiply_int8
from deepseek_kernels.quantize import quantize_weight
from torch import nn

from tests.support.checkpoints import LLAMA, llama_tensors, write_checkpoint
from tests.support.decoders import Driver, prompt

TOKENS = prompt(24, vocabulary=96)
Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return llama_tensors(torch.float32)


def scores(folder: Path, **settings: Any) -> torch.Tensor:
    return Driver(load_decoder(folder, **settings)).step({"a": TOKENS}, rows="all")


def test_one_file_and_several_with_an_index_are_the_same(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    one = write_checkpoint(tmp_path / "one", tensors)
    several = write_checkpoint(tmp_path / "several", tensors, shards=3)
    assert torch.equal(scores(one), scores(several))


BROKEN: dict[str, tuple[dict[str, torch.Tensor | None], str, str]] = {
    "missing": ({Q: None}, f"lacks the tensor '{Q}'", "TensorMissing"),
    "head is missing": ({"lm_head.weight": None}, "lm_head.weight", "TensorMissing"),
    "wrong shape": ({Q: torch.zeros(128, 64)}, f"'{Q}' has the shape", "TensorShapeWrong"),
    "left over": (
        {"model.layers.2.mlp.up_proj.weight": torch.zeros(2, 2)},
        r"does not know: model\.layers\.2\.mlp\.up_proj\.weight",
        "TensorUnknown",
    ),
    "a bias that the configuration does not have": (
        {"model.layers.0.self_attn.q_proj.bias": torch.zeros(128)},
        r"self_attn\.q_proj\.bias",
        "TensorUnknown",
    ),
}


@pytest.mark.parametrize(
    ("changes", "named", "reason"), [pytest.param(*case, id=name) for name, case in BROKEN.items()]
)
def test_tensors_that_are_not_the_models_are_named(
    tmp_path: Path,
    tensors: dict[str, torch.Tensor],
    changes: dict[str, torch.Tensor | None],
    named: str,
    reason: str,
) -> None:
    changed = {**tensors, **changes}
    folder = write_checkpoint(
        tmp_path, {name: tensor for name, tensor in changed.items() if tensor is not None}
    )
    with pytest.raises(SourceError, match=named) as error:
        load_decoder(folder)
    assert error.value.reason == reason


def test_a_tied_head_may_be_published_twice(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    tied = {**LLAMA, "tie_word_embeddings": True}
    twice = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    once = {name: tensor for name, tensor in twice.items() if name != "lm_head.weight"}
    first = write_checkpoint(tmp_path / "twice", twice, config=tied)
    second = write_checkpoint(tmp_path / "once", once, config=tied)
    assert torch.equal(scores(first), scores(second))


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "with bias"])
@pytest.mark.parametrize("columns", [32, 640, 2048])
def test_int8_products_are_exact_integer_sums_by_token(columns: int, biased: bool) -> None:
    draws = torch.Generator().manual_seed(columns)
    weight = quantize_weight(torch.randn(48, columns, generator=draws), "int8")
    bias = torch.randn(48, generator=draws) if biased else None
    layer = Int8Linear(weight, bias)
    x = torch.randn(9, columns, generator=draws) * torch.logspace(-3, 3, 9).unsqueeze(1)
    x[4] = 0
    found = layer(x)
    assert torch.equal(found, torch.cat([layer(row.unsqueeze(0)) for row in x]))
    if layer.limit == 127:
        torch.testing.assert_close(found, multiply_int8(x, weight, bias), rtol=2e-6, atol=1e-6)
    exact = nn.functional.linear(x, weight.dequantize(), bias)
    assert ((found - exact).norm(dim=1) <= 0.03 * exact.norm(dim=1)).all()


def test_fine_products_lose_almost_nothing_of_loud_channels() -> None:
    draws = torch.Generator().manual_seed(1)
    weight = quantize_weight(torch.randn(48, 640, generator=draws), "int8")
    x = torch.randn(9, 640, generator=draws)
    x[:, 7] *= 100
    exact = nn.functional.linear(x, weight.dequantize())
    coarse, fine = (Int8Linear(weight, None, fine=fine) for fine in (False, True))
    assert (coarse(x) - exact).norm() > 0.01 * exact.norm()
    assert (fine(x) - exact).norm() < 1e-3 * exact.norm()
    assert torch.equal(fine(x), torch.cat([fine(row.unsqueeze(0)) for row in x]))


@pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_an_int8_product_of_what_is_no_number_is_none(poison: float, fine: bool) -> None:
    layer = Int8Linear(quantize_weight(torch.randn(16, 32), "int8"), None, fine=fine)
    x = torch.randn(3, 32)
    x[1, 5] = poison
    found = layer(x)
    assert not found[1].isfinite().any()
    assert found[[0, 2]].isfinite().all()


def test_the_largest_products_do_not_overflow() -> None:
    """Every weight and every input as large as it can be: sums of pairs beyond 16 bits."""
    layer = Int8Linear(quantize_weight(torch.ones(8, 512), "int8"), None)
    torch.testing.assert_close(layer(torch.ones(2, 512)), torch.full((2, 8), 512.0))


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_int8_rounds_everything_and_stays_near(
    tmp_path: Path, tensors: dict[str, torch.Tensor], tied: bool
) -> None:
    kept = {n: t for n, t in tensors.items() if not tied or n != "lm_head.weight"}
    folder = write_checkpoint(tmp_path, kept, config={**LLAMA, "tie_word_embeddings": tied})
    decoder = load_decoder(folder, quantization="int8")
    wide = [b for b in decoder.buffers() if b.is_floating_point() and b.ndim == 2]
    assert {b.shape[1] for b in wide} <= {1}  # scales
    found, plain = Driver(decoder).step({"a": TOKENS}, rows="all"), scores(folder)
    assert (found - plain).norm() < 0.05 * plain.norm()


def test_int8_answers_do_not_depend_on_the_batch(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    decoder = load_decoder(write_checkpoint(tmp_path, tensors), quantization="int8")
    prompts = {name: prompt(9 + 5 * i, seed=i, vocabulary=96) for i, name in enumerate("abc")}
    together = Driver(decoder).greedy(prompts, 12, chunk=4)
    for name, tokens in prompts.items():
        assert Driver(decoder).greedy({name: tokens}, 12)[name] == together[name]


def test_weights_that_are_not_finite_cannot_be_rounded(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    bad = tensors[Q].clone()
    bad[3, 4] = torch.nan
    folder = write_checkpoint(tmp_path, {**tensors, Q: bad})
    with pytest.raises(SourceError, match=r"layers\.1\.self_attn\.q_proj"):
        load_decoder(folder, quantization="int8")


def test_an_unknown_rounding_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder = write_checkpoint(tmp_path, tensors)
    with pytest.raises(PrecisionError, match="'int3'"):
        load_decoder(folder, quantization="int3")
