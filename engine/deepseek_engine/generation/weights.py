"""Loading a decoder from a folder of the hub's files.

Why it exists: it is the one way from ``config.json`` and safetensors to a model that computes.
Tensors are read one by one, and of each only the part that this rank holds, so that memory holds
the model and the tensor that is being read. Imports torch; import it only where a model that
generates is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from deepseek_api.errors import PrecisionError

from deepseek_engine.generation.adapters import load_adapters
from deepseek_engine.generation.config import DecoderConfig
from deepseek_engine.generation.decoder.build import Builder
from deepseek_engine.generation.decoder.cache import CACHE_DTYPES
from deepseek_engine.generation.decoder.model import Decoder
from deepseek_engine.generation.parallel.context import SINGLE, ParallelContext
from deepseek_engine.quant.checkpoint import Checkpoint

__all__ = ["load_decoder"]


def load_decoder(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: str | None = None,
    parallel: ParallelContext = SINGLE,
    cache_dtype: str | None = None,
    adapters: Mapping[str, Path] | None = None,
) -> Decoder:
    """Load a decoder, or one rank's part of it.

    Args:
        folder: with ``config.json`` and one or more safetensors files, plain or quantized in the
            format of compressed-tensors.
        device: where it computes.
        dtype: of what is not quantized, and of the numbers between layers.
        quantization: ``int8`` rounds what the checkpoint holds in floating point, embedding and
            head included; None leaves it.
        parallel: this rank's place; by default there is one rank.
        cache_dtype: how keys and values are stored, of `CACHE_DTYPES`; None: as ``dtype``.
        adapters: folders of LoRA adapters by name; tokens choose them by their number here.

    Raises:
        BundleError: the configuration cannot be read, or describes what is not computed here.
        SourceError: the tensors are not exactly those of the model; it names one.
        PrecisionError: the precision is unknown or not possible here.
        ConfigurationError: the model cannot be divided so.
    """
    config = DecoderConfig.read(folder)
    if cache_dtype is not None and cache_dtype not in CACHE_DTYPES:
        raise PrecisionError(
            f"Keys and values cannot be stored as '{cache_dtype}'.",
            hint=f"Use one of {', '.join(CACHE_DTYPES)}.",
        )
    if quantization not in (None, "int8"):
        raise PrecisionError(
            f"Weights cannot be rounded to '{quantization}' while they are loaded.",
            hint="Use int8, or quantize the checkpoint beforehand and load the result.",
        )
    stored = dtype if cache_dtype is None else CACHE_DTYPES[cache_dtype]
    with Checkpoint(folder) as checkpoint:
        build = Builder(
            config,
            checkpoint,
            torch.device(device),
            dtype,
            parallel,
            int8=quantization == "int8",
        )
        decoder = Decoder(config, build, cache_dtype=stored)
        build.finish()
    if adapters:
        load_adapters(decoder, adapters)
    return decoder.eval()
