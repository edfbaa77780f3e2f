"""Bundles of one torch variant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from deepseek_api.manifest import Variant
from deepseek_engine.bundles import OpenBundle, open_bundle

from tests.support import bundles


def torch_bundle(
    folder: Path, description: dict[str, Any], module: Any
) -> tuple[OpenBundle, Variant]:
    """A bundle of one torch variant beside the echo graph's place."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(
        {k: v.contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors"
    )
    weights = (folder / "model.safetensors").read_bytes()
    parts = bundles.BundleParts(
        task="tensors",
        inputs=description["inputs"],
        outputs=description["outputs"],
        variant={"backend": "torch", "id": "torch"},
    )
    text = json.dumps({**description, "weights": "model.safetensors"}).encode()
    bundles.write_raw(folder, text, parts, name="t", extra={"model.safetensors": weights})
    bundle = open_bundle(folder)
    return bundle, bundle.manifest.variants[0]


def tiny_bert(**changes: Any) -> tuple[Any, dict[str, Any]]:
    transformers = pytest.importorskip("transformers", reason="needs the extra prepare")
    import torch

    fields = {
        "model_type": "bert",
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    } | changes
    torch.manual_seed(0)
    module = transformers.BertModel(
        transformers.BertConfig(**{k: v for k, v in fields.items() if k != "model_type"}),
        add_pooling_layer=False,
    ).eval()
    return module, {
        "library": "transformers",
        "architecture": "BertModel",
        "config": fields,
        "arguments": {"add_pooling_layer": False},
        "inputs": [["input_ids", "INT64", [-1, -1]], ["attention_mask", "INT64", [-1, -1]]],
        "outputs": [["last_hidden_state", "FP32", [-1, -1, 8]]],
    }
