"""Bytes of what is written are those that the policy's arithmetic says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.accuracy.subject import Score, Trained
from benchmarks.accuracy.variants import (
    VARIANTS,
    Variant,
    bytes_of_fp32,
    expected_bytes,
    quantize,
)

pytestmark = pytest.mark.timeout(120)


class Small(nn.Module):
    """Layers of every kind that policies know, one of them shared."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 128)
        self.attention = nn.Linear(128, 128)
        self.mlp = nn.Linear(128, 130)
        self.conv = nn.Conv1d(16, 16, 5)
        self.norm = nn.LayerNorm(128)
        self.head = nn.Linear(128, 32, bias=False)
        self.head.weight = self.embed.weight
        self.classifier = nn.Linear(128, 10)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``[N, S]`` to ``[N, S, 32]``."""
        hidden = self.norm(self.attention(self.embed(ids)) + self.mlp(self.embed(ids))[..., :128])
        scores: torch.Tensor = self.head(hidden) + self.classifier(hidden).sum(-1, keepdim=True)
        return scores


@pytest.fixture
def trained() -> Trained:
    torch.manual_seed(0)
    module = Small().eval().requires_grad_(False)
    feeds = [torch.randint(0, 32, (2, 64)) for _ in range(2)]
    return Trained(module, feeds, lambda _: Score(1, 1), {})


def test_fp32_counts_a_shared_weight_once(trained: Trained) -> None:
    sizes = [p.numel() for p in trained.module.parameters()]
    found = bytes_of_fp32(trained.module)
    assert found.tensors == 4 * sum(sizes)
    assert found.file > found.tensors


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_written_is_what_the_policy_says(name: str, trained: Trained) -> None:
    expected = expected_bytes(trained.module, VARIANTS[name].policy)
    made = quantize(trained, VARIANTS[name])
    # Shapes of packed weights are stored too, 16 bytes a layer.
    assert expected <= made.bytes.tensors <= expected + 16 * len(made.report.layers)


def test_mixed_is_attention_in_16_bits_and_the_rest_by_kind(trained: Trained) -> None:
    embedding, attention, mlp, conv = 32 * 128, 128 * 128, 128 * 130, 16 * 16 * 5
    scales = 4 * (32 + 130 + 16)
    others = 2 * (128 + 130 + 16 + 2 * 128 + 129 * 10)
    assert expected_bytes(trained.module, VARIANTS["mixed"].policy) == (
        embedding + 2 * attention + mlp + conv + scales + others
    )


def test_int4_takes_half_a_byte_a_scale_a_group_and_its_shape(trained: Trained) -> None:
    report = quantize(trained, VARIANTS["int4 nearest"]).report
    found = {layer.name: layer.bytes_after for layer in report.layers if "int4" in layer.scheme}
    assert found == {"attention": 128 * (64 + 2) + 16, "mlp": 130 * (64 + 2) + 16}


def test_the_original_stays_as_it_was(trained: Trained) -> None:
    before = {name: value.clone() for name, value in trained.module.state_dict().items()}
    quantize(trained, Variant(VARIANTS["int4 awq"].policy, "awq"))
    after = trained.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
