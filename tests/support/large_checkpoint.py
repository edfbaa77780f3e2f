"""A checkpoint with the shapes of a 7B decoder, written without holding it in memory.

Run as a program, it quantizes such a checkpoint in this process and prints how much memory that
took beyond the libraries: ``python -m tests.support.large_checkpoint FOLDER SCHEME SCALE`` with
SCALE 1 for the full size (13.5 GB on disk), 8 for an eighth of every width.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import torch
from deepseek_engine.prepare.quant.policy import policy_named
from deepseek_engine.prepare.quant.stream import quantize_checkpoint
from deepseek_engine.quant.tensor_files import TensorSpec, TensorWriter

HIDDEN, INNER, WORDS, LAYERS, SHARDS = 4096, 11008, 32000, 32, 2
MATRICES = {
    **{f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
    "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}  # fmt: skip


def specs(scale: int) -> list[dict[str, TensorSpec]]:
    """The tensors of every shard."""

    def spec(*shape: int) -> TensorSpec:
        return TensorSpec(torch.bfloat16, tuple(size // scale for size in shape))

    found: list[dict[str, TensorSpec]] = [{} for _ in range(SHARDS)]
    found[0]["model.embed_tokens.weight"] = spec(WORDS, HIDDEN)
    for number in range(LAYERS):
        shard, prefix = found[number * SHARDS // LAYERS], f"model.layers.{number}"
        for name, shape in MATRICES.items():
            shard[f"{prefix}.{name}.weight"] = spec(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shard[f"{prefix}.{name}.weight"] = spec(HIDDEN)
    found[-1] |= {"model.norm.weight": spec(HIDDEN), "lm_head.weight": spec(WORDS, HIDDEN)}
    return found


def write(folder: Path, scale: int) -> int:
    """Write it; every tensor repeats one block of random numbers. Returns its bytes."""
    folder.mkdir()
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    total = 0
    where: dict[str, str] = {}
    for number, shard in enumerate(specs(scale)):
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        with TensorWriter(folder / file, shard, {"format": "pt"}) as writer:
            for name, spec in shard.items():
                columns = max(spec.row_bytes // 2, 1)
                rows = max(len(block) // columns, 1)
                for first in range(0, spec.shape[0], rows):
                    count = min(rows, spec.shape[0] - first)
                    values = block[: count * columns].reshape(count, *spec.shape[1:])
                    writer.write(name, values * 0.02, first=first)
        where |= dict.fromkeys(shard, file)
        total += sum(spec.nbytes for spec in shard.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return total


def peak_bytes() -> int:
    """The most memory that this program has ever had resident.

    Not ``ru_maxrss``: a new program keeps what its parent had when it was started.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not tell the peak of a process")


def main() -> None:
    """Write, quantize, print bytes and peak memory as JSON, remove."""
    folder, scheme, scale = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    checkpoint = write(folder / "source", scale)
    before, started = peak_bytes(), time.monotonic()
    report = quantize_checkpoint(folder / "source", folder / "small", policy_named(scheme))
    found = {
        "checkpoint_bytes": checkpoint,
        "quantized_bytes": report.bytes_after,
        "linear_share_of_fp32": round(report.share(kind="linear", quantized_only=True), 5),
        "peak_bytes": peak_bytes(),
        "grown_bytes": peak_bytes() - before,
        "seconds": round(time.monotonic() - started, 1),
    }
    shutil.rmtree(folder / "source")
    shutil.rmtree(folder / "small")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
