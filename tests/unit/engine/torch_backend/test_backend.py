"""The torch back end: the reference that others are compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek_api.errors import BundleError, ConfigurationError, DeviceError
from deepseek_engine.backends import BackendOptions, open_backend
from deepseek_engine.codec import to_tensor
from deepseek_engine.engine import Engine
from deepseek_engine.messages import (
    AutoPrecision,
    EngineConfig,
    InferenceRequest,
    ModelConfig,
    ModelState,
)

from tests.support import bundles
from tests.support.torch_bundles import tiny_bert, torch_bundle

# Importing torch takes long on a busy machine.
pytestmark = pytest.mark.timeout(300)


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


def test_a_variant_in_bf16_computes_in_bf16_and_answers_in_fp32(tmp_path: Path) -> None:
    module, description = tiny_bert()
    bundle, variant = torch_bundle(
        tmp_path / "t", {**description, "dtype": "bfloat16"}, module.bfloat16()
    )
    ids = np.array([[1, 2, 3]])
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    answer = open_backend(bundle, variant, BackendOptions()).run(given)["last_hidden_state"]
    plain, _ = tiny_bert()
    plain_bundle, plain_variant = torch_bundle(tmp_path / "u", description, plain)
    wanted = open_backend(plain_bundle, plain_variant, BackendOptions()).run(given)
    assert answer.dtype == np.float32
    error = np.abs(answer - wanted["last_hidden_state"]).max()
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize(
    "settings",
    [
        {"torch_graphs": "yes"},
        {"torch_compile": 1},
        {"torch_graph_capacity": -1},
        {"torch_graph_capacity": True},
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, Any]) -> None:
    module, description = tiny_bert()
    bundle, variant = torch_bundle(tmp_path / "t", description, module)
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        open_backend(bundle, variant, BackendOptions(settings=settings))


async def test_the_precision_follows_the_load_on_this_back_end_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "m"
    folder.mkdir()
    module, description = tiny_bert()
    variants = []
    for name, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
        text = json.dumps({**description, "dtype": dtype, "weights": f"{name}.safetensors"})
        (folder / f"{name}.json").write_text(text)
        tensors = module.to(getattr(__import__("torch"), dtype)).state_dict()
        save_file(tensors, folder / f"{name}.safetensors")
        files = [bundles._file(f, (folder / f).read_bytes()) for f in sorted(
            (f"{name}.json", f"{name}.safetensors"))]  # fmt: skip
        variants.append(
            {"id": name, "backend": "torch", "precision": name, "instructionSet": "any",
             "files": files, "graph": f"{name}.json", "tensorBytes": 1, "memoryBytes": 1000}
        )  # fmt: skip
    specs = bundles._specs([(n, d, tuple(s)) for n, d, s in description["inputs"]])
    outputs = bundles._specs([(n, d, tuple(s)) for n, d, s in description["outputs"]])
    manifest = {
        "schemaVersion": 1, "name": "m", "modelType": "NLP", "task": "tensors",
        "signature": {"inputs": specs, "outputs": outputs},
        "preprocessing": {"kind": "none"}, "postprocessing": {"kind": "none"}, "files": [],
        "variants": variants, "selection": {name: {"any": name} for name in ("fp32", "bf16")},
        "source": {"uri": "random://test?seed=0"},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    ids = np.ones((2, 5), np.int64)
    request = InferenceRequest(
        "m", (to_tensor("input_ids", "INT64", ids), to_tensor("attention_mask", "INT64", ids))
    )
    policy = AutoPrecision(threshold=0.01, dwell_s=0.0)
    served = ModelConfig(name="m", bundle=str(folder), precision="fp32", auto_precision=policy)
    async with Engine(EngineConfig(models=(served,), threads=1)) as engine:
        assert engine.models()["m"].state is ModelState.READY, engine.models()["m"].message
        seen = [(await engine.infer(request)).precision for _ in range(100)]
    assert seen[0] == "fp32"
    assert seen[-1] == "bf16"


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "AutoConfig"},
        {"architecture": "NoSuchModel"},
        {"library": "os"},
        {"weights": "../elsewhere.safetensors"},
        {"config": {"model_type": "bert", "hidden_size": 4, "num_attention_heads": 2}},
        {"outputs": None},
        {"dtype": "float8"},
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


class _Full:
    """A module for which a GPU has no room."""

    def to(self, device: str) -> Any:
        import torch

        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def modules(self) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("free_mib", "figures"),
    [
        pytest.param(0, "of whose 81920 MiB 0 MiB are free", id="seen before it is loaded"),
        pytest.param(79 * 1024, "which it does not have", id="taken while it was loaded"),
    ],
)
def test_a_gpu_without_room_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int, figures: str
) -> None:
    from deepseek_engine.backends.torch import backend

    from tests.support.fake_cuda import MIB, FakeCuda, FakeTorch

    module, description = tiny_bert()
    bundle, variant = torch_bundle(tmp_path / "t", description, module)
    fake = FakeTorch(FakeCuda(free=free_mib * MIB))
    monkeypatch.setattr(backend, "import_library", lambda name: fake)
    monkeypatch.setattr(backend, "load_weights", lambda *_: _Full())
    with pytest.raises(DeviceError, match=figures) as caught:
        open_backend(bundle, variant, BackendOptions(device="cuda:0"))
    assert caught.value.reason == "InsufficientMemory"
    assert "smaller precision" in (caught.value.hint or "")
