"""Opens a model that generates over several processes.

Why it exists: the counterpart of loading a decoder into this process. A pipeline has as many
micro-batches as stages, which is the fewest that can keep all of them at work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deepseek_engine.generation.parallel.decoder_shard import LOADER
from deepseek_engine.generation.parallel.sharded_generator import ShardedGenerator
from deepseek_engine.generation.parallel.sharded_model import ShardedModel
from deepseek_engine.generation.settings import GenerationSettings
from deepseek_engine.messages import ParallelismConfig

__all__ = ["open_sharded"]


def open_sharded(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: str,
    threads: int,
    parallelism: ParallelismConfig,
    tokenizer: Any,
    settings: GenerationSettings,
    options: Mapping[str, Any] | None = None,
) -> tuple[ShardedModel, ShardedGenerator]:
    """Start the ranks, load each one's part and make the cache.

    Args:
        folder: of the checkpoint, in the hub's form.
        dtype: of what is not quantized.
        device: ``cpu``; of ``cuda`` rank n uses GPU n.
        threads: of all ranks together, on the processor.
        parallelism: how the model is divided.
        tokenizer: see `LocalGenerator`.
        settings: the model's.
        options: what else `load_decoder` takes, as plain values.

    Raises:
        ConfigurationError: the model cannot be divided so.
        DeepseekError: a rank cannot load its part, or the cache does not fit.
    """
    each = max(1, threads // parallelism.processes)
    torch.set_num_threads(each)
    model = ShardedModel(
        loader=LOADER,
        arguments={
            "folder": os.fspath(folder),
            "dtype": str(dtype).removeprefix("torch."),
            "micro_batches": parallelism.pipeline,
            **(options or {}),
        },
        tensor_size=parallelism.tensor,
        pipeline_size=parallelism.pipeline,
        device=device.partition(":")[0],
        threads=each,
    )
    try:
        return model, ShardedGenerator(model, tokenizer, settings)
    except BaseException:
        model.close()
        raise
