"""``deepseek quantize``: what it writes, prints and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.checkpoints import llama_tensors, write_checkpoint
from tests.support.command import invoke


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "llama", llama_tensors())


def quantize(llama: Path, *arguments: str, columns: int = 100) -> tuple[int, str, str]:
    target = str(llama.parent / "small")
    ran = invoke("quantize", str(llama), "-o", target, *arguments, columns=columns)
    return ran.code, ran.out, ran.err


def test_the_report_is_a_table_and_the_folder_a_checkpoint(llama: Path) -> None:
    code, out, err = quantize(llama, "--scheme", "int4-g128")
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "LAYERS SCHEME COUNT BEFORE AFTER ERROR WORST"
    rows = {tuple(line.split()[:3]) for line in lines[2:6]}
    assert rows == {
        ("embedding", "keep", "1"), ("head", "keep", "1"), ("ffn", "int4-g128", "6"),
        ("attention", "int4-g128", "8"),
    }  # fmt: skip
    assert any(line == "all 625 KiB 198 KiB" for line in lines), out
    assert f"Written to {llama.parent / 'small'}" in " ".join(out.split("\n"))
    found = load_file(llama.parent / "small" / "model.safetensors")
    assert found["model.layers.0.mlp.up_proj.weight_packed"].dtype == torch.int32
    assert err == "llama: quantizing\n"


def test_json_is_the_whole_report(llama: Path) -> None:
    code, out, _ = quantize(llama, "--scheme", "mixed", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["path"] == str(llama.parent / "small")
    assert {layer["type"]: layer["scheme"] for layer in report["layers"]} == {
        "attention": "fp16",
        "ffn": "int8",
        "embedding": "int8",
        "head": "bf16",
    }
    assert report["bytes_after"] < report["bytes_before"]


def test_rules_embeddings_and_head_override_the_scheme(llama: Path) -> None:
    code, out, err = quantize(
        llama, "--scheme", "int4-g128", "--rule", "*.down_proj=int8", "--rule", "re:\\.1\\.=keep",
        "--embeddings", "int8", "--head", "fp8", "--json",
    )  # fmt: skip
    assert code == 0, err
    schemes = {layer["name"]: layer["scheme"] for layer in json.loads(out)["layers"]}
    assert schemes["model.layers.1.mlp.down_proj"] == "int8"
    assert schemes["model.layers.1.mlp.up_proj"] == "keep"
    assert schemes["model.layers.0.mlp.up_proj"] == "int4-g128"
    assert (schemes["model.embed_tokens"], schemes["lm_head"]) == ("int8", "fp8")


def test_layers_that_fell_back_are_listed_with_the_reason(tmp_path: Path) -> None:
    tensors = {f"layers.{n}.mlp.fc1.weight": torch.randn(64, 192) for n in range(5)}
    source = write_checkpoint(tmp_path / "odd", tensors)
    _, out, _ = quantize(source, "--scheme", "int4-g128", columns=200)
    assert (
        "layers.0.mlp.fc1, layers.1.mlp.fc1, layers.2.mlp.fc1 and 2 more: int4-g64 instead of "
        "int4-g128: K = 192 is no multiple of 128." in out
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["--scheme", "int3"], 2, "There is no quantization scheme 'int3'.",
                     id="scheme"),
        pytest.param(["--rule", "down_proj"], 2, "'down_proj' is no rule.", id="rule"),
        pytest.param(["--rule", "*.x=int3"], 2, "There is no quantization scheme 'int3'.",
                     id="scheme of a rule"),
        pytest.param(["--rule", "*.porj=int8"], 2, "names '*.porj' matches no layer",
                     id="rule for nothing"),
        pytest.param(["--rule", "lm_head=fp8-block", "--rule", "model.embed_tokens=fp8"], 2,
                     "The layer 'model.embed_tokens' cannot have the scheme 'fp8'",
                     id="layer by name"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_a_sentence(
    arguments: list[str], code: int, message: str, llama: Path
) -> None:
    found, out, err = quantize(llama, *arguments, columns=200)
    assert (found, out) == (code, "")
    assert message in " ".join(err.split())
    assert not (llama.parent / "small").exists()


def test_a_path_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in quantize(tmp_path / "none")[2]
    (tmp_path / "empty").mkdir()
    code, _, err = quantize(tmp_path / "empty")
    assert (code, "no safetensors files" in err) == (1, True)


def test_other_commands_do_not_pay_for_torch() -> None:
    script = (
        "import sys; from deepseek.cli import _commands; "
        "print({'torch', 'transformers', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
