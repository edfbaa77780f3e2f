"""The in-process engine on small models."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek import InferenceEngine
from deepseek_api.errors import BundleError, ConfigurationError, DeepseekError, PrecisionError
from PIL import Image

from tests.support import bundles


def png(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20), colour).save(stream, "PNG")
    return stream.getvalue()


def test_texts_give_vectors_in_order_whatever_the_batch_size(tmp_path: Path) -> None:
    texts = [f"the {word} sat" for word in bundles.WORDS[4:]] * 11
    with InferenceEngine(bundles.write_embedding(tmp_path / "m"), threads=1) as engine:
        alone = engine.batch_infer(texts, batch_size=1)
        together = engine.batch_infer(texts, batch_size=64)
    assert len(alone) == len(together) == 88
    np.testing.assert_allclose(np.stack(alone), np.stack(together), atol=1e-6)


def test_pictures_give_labels(tmp_path: Path) -> None:
    path = tmp_path / "blue.png"
    path.write_bytes(png((10, 10, 230)))
    with InferenceEngine(bundles.write_classifier(tmp_path / "m"), threads=1) as engine:
        red, blue, same = engine.batch_infer([png((230, 10, 10)), path, str(path)])
    assert red[0][0] == "red"
    assert blue[0][0] == "blue"
    assert blue == same


def test_arrays_give_arrays_with_and_without_a_batch_dimension(tmp_path: Path) -> None:
    single = {"IN": np.arange(16, dtype=np.float32)}
    rows = {"IN": np.ones((3, 16), np.float32)}
    with InferenceEngine(bundles.write_echo(tmp_path / "m"), threads=1) as engine:
        first, second = engine.batch_infer([single, rows])
        result = engine.infer({"IN": single["IN"][None]})
    np.testing.assert_array_equal(first["OUT"], single["IN"])
    np.testing.assert_array_equal(second["OUT"], rows["IN"])
    assert result["OUT"].shape == (1, 16)
    assert result.parameters["precision"] == "fp32"


def test_samples_are_computed_together(tmp_path: Path) -> None:
    samples: list[Any] = [{"IN": np.zeros(16, np.float32)} for _ in range(40)]
    engine = InferenceEngine(bundles.write_echo(tmp_path / "m"), threads=1, max_batch_size=8)
    with engine:
        engine.batch_infer(samples)
        stats = engine._engine.stats()["model"]
    assert stats.rows == 40
    assert max(stats.batch_rows) == 8


def test_an_empty_list_gives_an_empty_list(tmp_path: Path) -> None:
    with InferenceEngine(bundles.write_echo(tmp_path / "m"), threads=1) as engine:
        assert engine.batch_infer([]) == []


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (["a text"], "takes arrays by name"),
        ([{"IN": np.zeros(3, np.float32)}], "IN"),
        ([{"OTHER": np.zeros(16, np.float32)}], "OTHER"),
    ],
    ids=["wrong kind", "wrong shape", "wrong name"],
)
def test_a_wrong_sample_fails_and_the_next_list_is_answered(
    tmp_path: Path, samples: list[Any], words: str
) -> None:
    good = {"IN": np.ones(16, np.float32)}
    with InferenceEngine(bundles.write_echo(tmp_path / "m"), threads=1) as engine:
        with pytest.raises(DeepseekError, match=words):
            engine.batch_infer([good, *samples] if isinstance(samples[0], dict) else samples)
        assert engine.batch_infer([good])[0]["OUT"].sum() == 16


def test_a_precision_that_the_bundle_lacks_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="auto, fp32"):
        InferenceEngine(bundles.write_echo(tmp_path / "m"), precision="int8")


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    folder = bundles.write_echo(tmp_path / "m")
    with (folder / "model.onnx").open("ab") as graph:
        graph.write(b"more")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        InferenceEngine(folder)


@pytest.mark.parametrize(
    "options", [{"max_batch_size": 0}, {"device": "gpu"}], ids=["batch size", "device"]
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DeepseekError):
        InferenceEngine(bundles.write_echo(tmp_path / "m"), **options)


def test_a_closed_engine_says_so_and_leaves_no_thread(tmp_path: Path) -> None:
    engine = InferenceEngine(bundles.write_echo(tmp_path / "m"), threads=1)
    engine.close()
    engine.close()
    with pytest.raises(ConfigurationError, match="closed"):
        engine.batch_infer([{"IN": np.ones(16, np.float32)}])
    assert "deepseek-engine" not in {thread.name for thread in threading.enumerate()}


def test_a_batch_size_below_one_is_refused(tmp_path: Path) -> None:
    made = InferenceEngine(bundles.write_echo(tmp_path / "m"), threads=1)
    with made as engine, pytest.raises(ConfigurationError, match="at least 1"):
        engine.batch_infer(["a"], batch_size=0)
