"""``deepseek-infer``: a model in the caller's process, by flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support import bundles
from tests.support.command import invoke


def infer(*arguments: str) -> tuple[int, str, str]:
    ran = invoke(*arguments, program="deepseek-infer")
    return ran.code, ran.out, ran.err


@pytest.mark.parametrize("kind", ["embedding", "classifier", "echo"])
def test_without_inputs_it_measures_throughput(tmp_path: Path, kind: str) -> None:
    bundle = getattr(bundles, f"write_{kind}")(tmp_path / kind)
    code, out, _ = infer(
        "--model", str(bundle), "--batch_size", "4", "--seconds", "0.1", "-o", "json"
    )
    measured = json.loads(out)
    assert code == 0
    assert measured["batch_size"] == 4
    assert measured["samples_per_second"] > 0
    assert 0 < measured["median_ms"] <= measured["p90_ms"]


def test_the_measurement_is_a_table_for_people(tmp_path: Path) -> None:
    bundle = str(bundles.write_echo(tmp_path / "m"))
    _, out, _ = infer("--model", bundle, "--seconds", "0.1")
    assert f"{bundle} on cpu, fp32 (variant fp32)" in out
    assert "SAMPLES/S" in out


def test_texts_and_files_of_texts_give_vectors(tmp_path: Path) -> None:
    bundle = str(bundles.write_embedding(tmp_path / "m"))
    lines = tmp_path / "texts.txt"
    lines.write_text("the cat\n\na dog\n")
    _, out, _ = infer("--model", bundle, "--input", str(lines), "-o", "json")
    assert [answer["input"] for answer in json.loads(out)] == ["the cat", "a dog"]
    assert "cosine similarity" in infer("--model", bundle, "--text", "the cat", "a dog")[1]


def test_pictures_give_labels(tmp_path: Path) -> None:
    bundle = str(bundles.write_classifier(tmp_path / "m"))
    Image.new("RGB", (20, 20), (10, 240, 10)).save(tmp_path / "green.png")
    _, out, _ = infer("--model", bundle, "--input", str(tmp_path / "green.png"), "-o", "json")
    assert json.loads(out)[0]["output"][0]["label"] == "green"


@pytest.mark.parametrize("limit", ["8", "70%"])
def test_a_limit_caps_the_batch(tmp_path: Path, limit: str) -> None:
    bundle = str(bundles.write_echo(tmp_path / "m"))
    code, out, err = infer(
        "--model", bundle, "--batch_size", "300", "--max_batch_size", limit, "--seconds", "0.1",
        "-o", "json",
    )  # fmt: skip
    used = json.loads(out)["batch_size"]
    assert code == 0
    assert f"{used} is used" in err
    assert used == 8 if limit == "8" else 8 < used <= 256


def test_tensor_cores_are_a_note_on_a_processor(tmp_path: Path) -> None:
    bundle = str(bundles.write_echo(tmp_path / "m"))
    code, _, err = infer("--model", bundle, "--enable_tensor_core", "--seconds", "0.1")
    assert code == 0
    assert "has no effect on 'cpu'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--model NAME"),
        (["--model", "minilmm"], 2, "Did you mean 'minilm'?"),
        (["--model", "minilm", "--device", "gpu"], 1, "is not a device"),
        (["--model", "minilm", "--max_batch_size", "lots"], 2, "such as 70%"),
        (["--model", "minilm", "--text", "a", "--input", "b"], 2, "Both"),
        (["--model", "minilm", "--precision", "fp8"], 2, "precision 'fp8'"),
    ],
    ids=["no model", "misspelt", "device", "limit", "two inputs", "precision"],
)
def test_wrong_usage_is_a_sentence(arguments: list[str], code: int, words: str) -> None:
    ran = infer(*arguments)
    assert ran[0] == code
    assert words in ran[2]
