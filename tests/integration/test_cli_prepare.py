"""Weights on disk become answers: ``deepseek prepare`` and the in-process engine, small and real.

The model is a BERT of one layer with random weights, so that every step is the real one and takes
seconds.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepseek import InferenceEngine
from deepseek_engine.prepare.messages import PrepareEvent

from tests.support.command import run

pytestmark = [pytest.mark.timeout(240)]

MAKE_MODEL = """
import json, sys, torch
from pathlib import Path
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

folder = Path(sys.argv[1])
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [chr(c) for c in range(33, 127)]
words += ["##" + chr(c) for c in range(97, 123)]
config = BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=1,
                    num_attention_heads=2, intermediate_size=64)
torch.manual_seed(0)
model = BertModel(config, add_pooling_layer=False)
torch.save(model.state_dict(), folder / "model.bin")
(folder / "config.json").write_text(json.dumps(config.to_dict()))
tokenizer = Tokenizer(WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.normalizer = BertNormalizer()
tokenizer.pre_tokenizer = BertPreTokenizer()
tokenizer.post_processor = TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
tokenizer.save(str(folder / "tokenizer.json"))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pickled state dict beside its ``config.json`` and tokenizer."""
    folder = tmp_path_factory.mktemp("weights")
    subprocess.run([sys.executable, "-c", MAKE_MODEL, str(folder)], check=True, timeout=120)
    return folder / "model.bin"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def report(weights: Path, cache: Path) -> dict[str, Any]:
    """What ``deepseek prepare --json`` prints; the bundle goes into the cache."""
    ran = run("prepare", str(weights), "--precision", "fp32", "--json", cache=cache, timeout_s=200)
    assert ran.code == 0, ran.err
    answer: dict[str, Any] = json.loads(ran.out)
    return answer


def test_prepare_writes_a_bundle_and_reports_it(report: dict[str, Any], cache: Path) -> None:
    path = Path(report["path"])
    assert path.is_relative_to(cache)
    assert (path / "manifest.json").is_file()
    assert not report["cached"]
    assert report["manifest"]["task"] == "text-embedding"
    assert report["manifest"]["source"]["uri"] == "file://model.bin"


def test_an_output_folder_that_exists_is_refused(weights: Path, tmp_path: Path) -> None:
    ran = run("prepare", str(weights), "-o", str(tmp_path))
    assert ran.code == 1
    assert "exists already" in ran.err


def test_a_state_dict_beside_its_config_is_converted_once(
    report: dict[str, Any], weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSEEK_CACHE", str(cache))
    events: list[PrepareEvent] = []
    engine = InferenceEngine(
        model_path=str(weights), device="cpu", precision="fp32", on_event=events.append
    )
    with engine:
        vectors = engine.batch_infer(["hello", "world"])
        assert engine.info.digest == report["digest"]
    assert events == []
    assert np.stack(vectors).shape == (2, 32)


def test_a_malicious_pickle_is_refused_and_not_executed(weights: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {canary}",)

    (tmp_path / "model.bin").write_bytes(pickle.dumps({"weight": Bomb()}))
    (tmp_path / "config.json").write_bytes((weights.parent / "config.json").read_bytes())
    ran = run("prepare", str(tmp_path / "model.bin"), cache=tmp_path / "cache", timeout_s=120)
    assert ran.code == 1
    assert ran.err.splitlines()[-2].startswith("Error: ")
    assert "Traceback" not in ran.err
    assert not canary.exists()
