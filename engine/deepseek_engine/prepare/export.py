"""From a torch module to an ONNX graph in fp32, with the batch (and the length of texts) free."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from deepseek_api.errors import SourceError
from deepseek_api.processing import EmbeddingPostprocessing
from torch import nn

from deepseek_engine.prepare.architectures import LoadedModel

OPSET = 20
"""The first operator set in which GELU is one node: runtimes fuse it, quantizing recognizes it."""
LARGEST_BATCH = 4096
MASKED = -10000.0
"""Added to attention scores of padding; exp() of it is 0 in fp32."""


class PooledEncoder(nn.Module):
    """Token ids and mask to one vector a text; pooling inside the graph is free for the worker."""

    def __init__(self, encoder: nn.Module, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """``[N, S]`` and ``[N, S]`` to ``[N, hidden]``."""
        mask = attention_mask.to(torch.float32)
        # A ready-made additive mask [N, 1, 1, S]: the library's own construction of it depends on
        # its version and traces into a large graph.
        bias = (1.0 - mask[:, None, None, :]) * MASKED
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=bias, token_type_ids=torch.zeros_like(input_ids)
        ).last_hidden_state
        return self.pool(hidden, mask, self.pooling)

    @staticmethod
    def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
        """Token vectors ``[N, S, hidden]`` and mask ``[N, S]`` to ``[N, hidden]``."""
        if pooling == "cls":
            return hidden[:, 0]
        weights = mask[:, :, None].to(torch.float32)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def export_graph(model: LoadedModel) -> onnx.ModelProto:
    """Export a model; inputs and outputs are named as in its signature.

    Raises:
        SourceError: the module cannot be traced.
    """
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    if model.family == "encoder":
        assert isinstance(model.postprocessing, EmbeddingPostprocessing)  # encoders have no other
        module: nn.Module = PooledEncoder(model.module, model.postprocessing.pooling)
        length = torch.export.Dim("length", min=2, max=_longest(model))
        # Token 0 is in every vocabulary, and the values do not matter.
        ids = torch.zeros((2, min(16, _longest(model))), dtype=torch.int64)
        mask = torch.ones_like(ids)
        mask[1, -1:] = 0
        arguments: tuple[torch.Tensor, ...] = (ids, mask)
        shapes: Any = ({0: batch, 1: length}, {0: batch, 1: length})
    else:
        module = model.module
        _, *rest = model.signature.inputs[0].shape
        arguments = (torch.randn(2, *rest),)
        shapes = ({0: batch},)
    return _export(module.eval(), arguments, shapes, model)


def _export(
    module: nn.Module, arguments: tuple[torch.Tensor, ...], shapes: Any, model: LoadedModel
) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                module,
                arguments,
                str(path),
                dynamo=True,
                opset_version=OPSET,
                input_names=[tensor.name for tensor in model.signature.inputs],
                output_names=[tensor.name for tensor in model.signature.outputs],
                dynamic_shapes=shapes,
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


def _longest(model: LoadedModel) -> int:
    return int(getattr(model.preprocessing, "max_length", 512))
