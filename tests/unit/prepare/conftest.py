"""A BERT of two small layers, built and exported once: the whole way of an encoder in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # torch takes seconds to import; only the tests that need it wait
    import onnx
    from deepseek_engine.prepare.architectures import LoadedModel

TINY = {
    "model_type": "bert",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}

LoadTiny = Callable[..., "LoadedModel"]


@pytest.fixture(scope="session")
def load_tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadTiny:
    """Loads an encoder from a ``config.json`` and, if given, a state dict."""

    def load(*, state: dict[str, Any] | None = None, **config: Any) -> LoadedModel:
        import torch
        from deepseek_engine.prepare.architectures import load_model
        from deepseek_engine.prepare.architectures.tokenizers import character_tokenizer
        from deepseek_engine.prepare.messages import PrepareRequest
        from deepseek_engine.prepare.sources import Source

        folder: Path = tmp_path_factory.mktemp("tiny")
        fields = TINY | config
        (folder / "config.json").write_text(json.dumps(fields))
        (folder / "tokenizer.json").write_bytes(character_tokenizer(300, 64))
        torch.save(state or {}, folder / "model.bin")
        source = Source(uri="file://tiny", weights=folder / "model.bin", folder=folder)
        request = PrepareRequest(name="tiny", uri="file://tiny", random_weights=state is None)
        return load_model(request, source)

    return load


@pytest.fixture(scope="session")
def tiny_bert(load_tiny: LoadTiny) -> LoadedModel:
    """Seeded random weights, large enough for attention and GELU to matter."""
    import torch

    model = load_tiny()
    with torch.no_grad():
        for name, value in model.module.named_parameters():
            if value.ndim == 2:
                value.mul_(4.0)
            elif name.endswith("bias"):
                value.add_(torch.linspace(-0.2, 0.2, len(value)))
    return model


@pytest.fixture(scope="session")
def tiny_graph(tiny_bert: LoadedModel) -> onnx.ModelProto:
    """The same, exported."""
    from deepseek_engine.prepare.export import export_graph

    return export_graph(tiny_bert)
