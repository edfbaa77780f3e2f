"""``InferenceEngine``, ``batch_infer`` and ``dynamic_batching`` as users write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deepseek import DeviceError, InferenceEngine, SourceError, dynamic_batching
from deepseek._here import nvidia_gpus

from tests.support import bundles

no_gpu_here = pytest.mark.skipif(
    bool(nvidia_gpus()), reason="asserts the error of a machine without an NVIDIA GPU"
)


@no_gpu_here
def test_a_cuda_device_without_gpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(DeviceError) as caught:
        InferenceEngine(model_path="deepseek_v3.bin", device="cuda:0", precision="fp16")
    assert str(caught.value) == (
        "The device 'cuda:0' is not available: this machine has no NVIDIA GPU, or this process "
        "cannot see one. Use the device 'cpu'."
    )


def test_a_bare_state_dict_asks_for_its_architecture(tmp_path: Path) -> None:
    path = tmp_path / "deepseek_v3.bin"
    path.touch()
    with pytest.raises(SourceError) as caught:
        InferenceEngine(model_path=str(path), device="cpu")
    assert caught.value.reason == "UnknownArchitecture"
    assert "architecture=" in str(caught.value)
    assert "catalog" in str(caught.value)


def test_batch_infer_takes_a_list_and_keeps_its_order(tmp_path: Path) -> None:
    bundle = bundles.write_embedding(tmp_path / "model")
    inputs = [f"the {word}" for word in bundles.WORDS[4:]] * 20
    with InferenceEngine(model_path=str(bundle), device="cpu", precision="fp32") as engine:
        answers = engine.batch_infer(inputs, batch_size=64)
        one_by_one = [engine.batch_infer([text])[0] for text in inputs[:8]]
    assert isinstance(answers, list)
    assert len(answers) == len(inputs)
    for answer, alone in zip(answers, one_by_one * 20, strict=True):
        np.testing.assert_allclose(answer, alone, atol=1e-6)


def test_dynamic_batching_gives_batches_in_order() -> None:
    batches = dynamic_batching(iter(range(70)), max_batch_size=32)
    assert next(batches) == list(range(32))
    assert [len(batch) for batch in batches] == [32, 6]


def test_the_default_maximum_of_a_batch_is_32() -> None:
    assert [len(batch) for batch in dynamic_batching(range(33))] == [32, 1]
