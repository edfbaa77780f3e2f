"""The torch back end: the reference that others are compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek_api.errors import BundleError, DeviceError
from deepseek_api.manifest import Variant
from deepseek_engine.backends import BackendOptions, open_backend
from deepseek_engine.bundles import OpenBundle, open_bundle

from tests.support import bundles

# Importing torch takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)


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


def tiny_bert() -> tuple[Any, dict[str, Any]]:
    transformers = pytest.importorskip("transformers", reason="needs the extra prepare")
    import torch

    fields = {
        "model_type": "bert",
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
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


def test_torch_builds_the_module_and_gives_its_answers(tmp_path: Path) -> None:
    import torch

    module, description = tiny_bert()
    bundle, variant = torch_bundle(tmp_path / "t", description, module)
    bundle.verify(variant)
    backend = open_backend(bundle, variant, BackendOptions(threads=1))
    ids = np.array([[1, 2, 3], [4, 5, 0]])
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    answer = backend.run({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    with torch.inference_mode():
        wanted = module(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
    np.testing.assert_allclose(answer, wanted.numpy(), atol=1e-6)
    backend.close()


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "AutoConfig"},
        {"architecture": "NoSuchModel"},
        {"library": "os"},
        {"weights": "../elsewhere.safetensors"},
        {"config": {"model_type": "bert", "hidden_size": 4, "num_attention_heads": 2}},
        {"outputs": None},
    ],
    ids=str,
)
def test_torch_refuses_a_description_that_does_not_fit(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    module, description = tiny_bert()
    folder = tmp_path / "t"
    bundle, variant = torch_bundle(folder, description, module)
    path = folder / "model.onnx"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match="cannot be built") as caught:
        open_backend(bundle, variant, BackendOptions(threads=1))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99"])
def test_torch_without_a_gpu_names_the_way_out(tmp_path: Path, device: str) -> None:
    import torch

    if torch.cuda.is_available() and device != "cuda:99":
        pytest.skip("this machine has a GPU, so that the device is available")
    module, description = tiny_bert()
    bundle, variant = torch_bundle(tmp_path / "t", description, module)
    with pytest.raises(DeviceError, match=device) as caught:
        open_backend(bundle, variant, BackendOptions(device=device))
    assert "cpu" in (caught.value.hint or "")
