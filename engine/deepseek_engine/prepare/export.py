"""From a torch module to an ONNX graph in fp32.

The batch is free, and so are the length of texts and the sides of volumes.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from deepseek_api.errors import SourceError
from deepseek_api.processing import EmbeddingPostprocessing, VolumePreprocessing
from torch import nn

from deepseek_engine.prepare.architectures import LoadedModel
from deepseek_engine.prepare.known import Family

OPSET = 20
"""The first operator set in which GELU is one node: runtimes fuse it, quantizing recognizes it."""
LARGEST_BATCH = 4096
LONGEST_SIDE = 1024
"""Sides of a volume, in steps of what they must be a multiple of."""
MASKED = -10000.0
"""Added to attention scores of padding; exp() of it is 0 in fp32."""


class PooledEncoder(nn.Module):
    """Token ids and mask to one vector a text; pooling inside the graph is free for the worker."""

    def __init__(self, encoder: nn.Module, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        self.has_types = hasattr(getattr(encoder, "config", None), "type_vocab_size")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``[N, S]`` and ``[N, S]`` to ``[N, hidden]``."""
        mask = attention_mask.to(torch.float32)
        # A ready-made additive mask [N, 1, 1, S]: the library's own construction of it depends on
        # its version and traces into a large graph.
        bias = (1.0 - mask[:, None, None, :]) * MASKED
        types = {"token_type_ids": torch.zeros_like(input_ids)} if self.has_types else {}
        hidden = self.encoder(input_ids=input_ids, attention_mask=bias, **types).last_hidden_state
        return self.pool(hidden, mask, self.pooling)

    @staticmethod
    def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
        """Token vectors ``[N, S, hidden]`` and mask ``[N, S]`` to ``[N, hidden]``."""
        if pooling == "cls":
            return hidden[:, 0]
        weights = mask[:, :, None].to(torch.float32)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


class CausalDecoder(nn.Module):
    """Token ids to scores of the next token and token vectors, all positions at once."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[N, S]`` to ``[N, S, vocabulary]`` and ``[N, S, hidden]``."""
        places = torch.arange(input_ids.shape[1])
        later = (places[None, :] > places[:, None]).to(torch.float32)
        # Ready-made and of one row [1, 1, S, S], as above.
        result = self.decoder(
            input_ids=input_ids,
            attention_mask=(later * MASKED)[None, None],
            output_hidden_states=True,
            use_cache=False,
        )
        return result.logits, result.hidden_states[-1]


@dataclass(frozen=True, slots=True)
class Trace:
    """What the exporter runs a module with."""

    module: nn.Module
    arguments: tuple[torch.Tensor, ...]
    shapes: tuple[dict[int, Any], ...]
    """For each argument: which dimensions are free."""


def export_graph(model: LoadedModel) -> onnx.ModelProto:
    """Export a model; inputs and outputs are named as in its signature.

    Raises:
        SourceError: the module cannot be traced.
    """
    return _export(_TRACES[model.family](model), model)


def _batch() -> Any:
    return torch.export.Dim("batch", min=1, max=LARGEST_BATCH)


def _trace_encoder(model: LoadedModel) -> Trace:
    assert isinstance(model.postprocessing, EmbeddingPostprocessing)  # encoders have no other
    longest = int(getattr(model.preprocessing, "max_length", 512))
    free = {0: _batch(), 1: torch.export.Dim("length", min=2, max=longest)}
    # Token 0 is in every vocabulary, and the values do not matter.
    ids = torch.zeros((2, min(16, longest)), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, -1:] = 0
    module = PooledEncoder(model.module, model.postprocessing.pooling)
    return Trace(module, (ids, mask), (free, free))


def _trace_decoder(model: LoadedModel) -> Trace:
    longest = int(model.torch_config["n_positions"])
    free = {0: _batch(), 1: torch.export.Dim("length", min=2, max=longest)}
    ids = torch.zeros((2, min(16, longest)), dtype=torch.int64)
    return Trace(CausalDecoder(model.module), (ids,), (free,))


def _trace_vision(model: LoadedModel) -> Trace:
    _, *rest = model.signature.inputs[0].shape
    return Trace(model.module, (torch.randn(2, *rest),), ({0: _batch()},))


def _trace_volume(model: LoadedModel) -> Trace:
    assert isinstance(model.preprocessing, VolumePreprocessing)  # volume models have no other
    step, channels = model.preprocessing.multiple, model.signature.inputs[0].shape[1]
    free = {0: _batch()}
    for axis, side in enumerate(("depth", "height", "width"), start=2):
        free[axis] = step * torch.export.Dim(side, min=1, max=LONGEST_SIDE)
    # Different sides, so that the exporter takes none for another.
    volume = torch.randn(2, channels, 2 * step, 3 * step, 4 * step)
    return Trace(model.module, (volume,), (free,))


_TRACES: dict[Family, Callable[[LoadedModel], Trace]] = {
    "encoder": _trace_encoder,
    "decoder": _trace_decoder,
    "vision": _trace_vision,
    "vision-transformer": _trace_vision,
    "volume": _trace_volume,
}


def _export(trace: Trace, model: LoadedModel) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                trace.module.eval(),
                trace.arguments,
                str(path),
                dynamo=True,
                opset_version=OPSET,
                input_names=[tensor.name for tensor in model.signature.inputs],
                output_names=[tensor.name for tensor in model.signature.outputs],
                dynamic_shapes=trace.shapes,
                external_data=True,
                optimize=True,
                verbose=False,
            )
        except Exception as error:  # the exporter documents no errors of its own
            raise SourceError(
                f"The architecture '{model.architecture}' cannot be exported to ONNX: "
                f"{type(error).__name__}.",
                hint="Architectures with control flow that depends on values cannot be prepared.",
                reason="ExportFailed",
            ) from error
        return onnx.load(str(path))
