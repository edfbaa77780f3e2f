"""BERT-base from tokens to hidden states: bf16, int8 and fp8. Imports torch and transformers."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from deepseek_kernels.quantize import quantize_weight
from deepseek_kernels.weights import QuantizedWeight
from torch import nn

from benchmarks.gpu import inputs
from benchmarks.gpu.inputs import Subjects
from benchmarks.gpu.peers import find
from benchmarks.gpu.running import AGAIN, OWN, Case
from benchmarks.gpu.timing import Call

__all__ = ["QuantizedLinear", "encoder"]

TOKENS = 128
LIMITS = {"bf16": 3e-2, "int8": 8e-2, "fp8": 1e-1}
PEER = "transformers bf16, torch.compile"


class QuantizedLinear(nn.Module):
    """A linear layer over a quantized weight, through the dispatcher."""

    def __init__(
        self, weight: QuantizedWeight, bias: torch.Tensor | None, activations: str
    ) -> None:
        super().__init__()
        self.quantized, self.bias, self.activations = weight, bias, activations
        self._linear = importlib.import_module("deepseek_kernels.dispatch").linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x [..., K]`` to ``[..., N]``."""
        found: torch.Tensor = self._linear(
            x, self.quantized, self.bias, activations=self.activations
        )
        return found


def encoder() -> Iterator[Case]:
    """One case for each batch size and precision, and the best of them as cases of their own."""
    peer, transformers = find("transformers")
    if not peer.there:
        yield Case("BERT-base", "any", {}, skipped={OWN: peer.reason})
        return
    torch.manual_seed(0)
    config = transformers.BertConfig()
    plain = transformers.BertModel(config, add_pooling_layer=False).to(inputs.DEVICE).eval()
    # bf16 as it is loaded; int8 and fp8 through the dispatcher's linear layers.
    models = {name: _converted(plain, name) for name in LIMITS}
    compiled = torch.compile(models["bf16"])
    for batch in (1, 8, 32, 128):
        ids = torch.randint(1000, config.vocab_size, (batch, TOKENS), device=inputs.DEVICE)
        mask = torch.ones_like(ids)
        wanted = _call(plain, ids, mask)()
        fast = _call(compiled, ids, mask)
        for name, model in models.items():
            yield _case(f"batch {batch}, {name}", _call(model, ids, mask), fast, wanted, name)


def _case(group: str, own: Call, peer: Call, wanted: torch.Tensor, name: str) -> Case:
    # More than any cache holds: one copy of the inputs is enough.
    subjects = Subjects(1 << 40, wanted=wanted)
    subjects.add(OWN, lambda _: own, limit=LIMITS[name])
    subjects.add(AGAIN, lambda _: own)
    subjects.add(PEER, lambda _: peer)
    batch = float(len(wanted))
    return Case(group, f"{TOKENS} tokens", subjects.calls, skipped=subjects.skipped,
                throughput=batch)  # fmt: skip


def _call(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> Callable[[], torch.Tensor]:
    def call() -> torch.Tensor:
        with torch.inference_mode():
            found: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
            return found

    return call


def _converted(plain: nn.Module, name: str) -> nn.Module:
    model = copy.deepcopy(plain).to(torch.bfloat16)
    if name == "bf16":
        return model
    for parent in list(model.modules()):
        for key, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                weight = quantize_weight(layer.weight, "int8" if name == "int8" else "fp8")
                setattr(parent, key, QuantizedLinear(weight, layer.bias, name))
    return model
