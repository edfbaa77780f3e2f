"""Opens a model that generates with torch.

Why it exists: it is the one place where a bundle's files, the decoder and the generator meet. It is
loaded by name when such a model is opened, so that serving anything else imports no torch.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path, PurePosixPath
from typing import Any

from deepseek_api.errors import BundleError, DeepseekError, ErrorCode
from deepseek_api.manifest import Variant
from deepseek_api.vocabulary import Precision

from deepseek_engine.backends import BackendOptions
from deepseek_engine.backends.torch.importing import check_device, import_library
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.generation.interface import Generator
from deepseek_engine.generation.opened import OpenedGenerator
from deepseek_engine.generation.requests import (
    Constraint,
    GenerationRequest,
    SamplingParameters,
)
from deepseek_engine.messages import GenerationInfo, ModelConfig

__all__ = ["open_generator", "start_tokens"]

logger = logging.getLogger(__name__)

_TOKENIZER = "tokenizer.json"
_CHAT_TEMPLATE = "chat_template.jinja"
_TOKENIZER_SETTINGS = "tokenizer_config.json"


def open_generator(
    bundle: OpenBundle, variant: Variant, model: ModelConfig, options: BackendOptions
) -> OpenedGenerator:
    """Load weights, make the cache and read the tokenizer.

    Raises:
        BundleError: a file is not what it should be.
        DeviceError: torch or the device is not there, or the cache does not fit.
    """
    torch = import_library("torch")
    device = check_device(torch, options.device)
    torch.set_num_threads(options.threads)
    tokenizer, settings = _tokenizer(bundle), model.generation
    folder = bundle.path(str(PurePosixPath(variant.graph).parent))
    dtype = _dtype(torch, variant.precision, device)
    if model.parallelism.processes > 1:
        _refuse_adapters(model)
        decoder, generator = import_library(
            "deepseek_engine.generation.parallel.opening"
        ).open_sharded(
            folder,
            dtype=dtype,
            device=device,
            threads=options.threads,
            parallelism=model.parallelism,
            tokenizer=tokenizer,
            settings=settings,
        )
    else:
        generators = import_library("deepseek_engine.generation.generator")
        weights = import_library("deepseek_engine.generation.weights")
        adapters = {adapter.name: Path(adapter.path) for adapter in model.adapters}
        decoder = weights.load_decoder(folder, device=device, dtype=dtype, adapters=adapters)
        generator = generators.LocalGenerator(
            decoder,
            tokenizer,
            settings,
            adapters={name: number for number, name in enumerate(adapters)},
        )
    if tokenizer is not None:
        _prepare_constraints(generator)
    limits = decoder.limits
    blocks = generator.stats().blocks_total
    return OpenedGenerator(
        generator=generator,
        encode=None if tokenizer is None else lambda text: list(tokenizer.encode(text).ids),
        info=GenerationInfo(
            vocabulary=limits.vocabulary,
            context=limits.context,
            end_tokens=tuple(sorted(limits.end_tokens)),
            start_tokens=() if tokenizer is None else start_tokens(tokenizer),
            max_sequences=settings.max_sequences,
            max_tokens=settings.max_tokens,
            text=tokenizer is not None,
            chat=_has_template(bundle),
            adapters=tuple(adapter.name for adapter in model.adapters),
        ),
        cache_bytes=blocks * decoder.bytes_per_block(settings.block_size),
    )


def _prepare_constraints(generator: Generator) -> None:
    """Let the library of constraints read the tokenizer now.

    It takes a second for a vocabulary of 262 thousand tokens and holds the interpreter's lock: with
    the first request that has a constraint it would hold up every answer that is under way.
    """
    anything = SamplingParameters(constraint=Constraint(kind="json_object"))
    try:
        generator.prepare(GenerationRequest(model="", prompt="", sampling=anything))
    except DeepseekError as error:
        # Such requests are refused with the same words; all others are answered.
        logger.warning("no text can be made to match", extra={"cause": error.message})


def start_tokens(tokenizer: Any) -> tuple[int, ...]:
    """What a `tokenizers.Tokenizer` puts before every text, such as a token for its beginning."""
    whole = tokenizer.encode("a").ids
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    places = range(len(whole) - len(bare) + 1)
    return tuple(whole[: next((at for at in places if whole[at : at + len(bare)] == bare), 0)])


def _refuse_adapters(model: ModelConfig) -> None:
    if model.adapters:
        raise BundleError(
            f"The model '{model.name}' is divided over several processes and has adapters.",
            code=ErrorCode.UNIMPLEMENTED,
            hint="Leave 'parallelism' or 'adapters' out.",
            reason="Unsupported",
        )


def _dtype(torch: Any, precision: str, device: str) -> Any:
    # A processor computes 16 bits at half the speed of 32, so that only GPUs use them.
    if device == "cpu" or precision == Precision.FP32:
        return torch.float32
    return torch.float16 if precision == Precision.FP16 else torch.bfloat16


def _shared(bundle: OpenBundle, name: str) -> Path | None:
    return bundle.path(name) if any(f.path == name for f in bundle.manifest.files) else None


def _tokenizer(bundle: OpenBundle) -> Any:
    path = _shared(bundle, _TOKENIZER)
    if path is None:
        return None
    tokenizers = import_library("tokenizers")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(
            "The bundle's tokenizer.json cannot be read.",
            hint="Prepare the bundle again.",
            reason="InvalidTokenizer",
        ) from error


def _has_template(bundle: OpenBundle) -> bool:
    if _shared(bundle, _CHAT_TEMPLATE) is not None:
        return True
    path = _shared(bundle, _TOKENIZER_SETTINGS)
    if path is None:
        return False
    try:
        return bool(json.loads(path.read_bytes()).get("chat_template"))
    except (ValueError, AttributeError):
        return False
