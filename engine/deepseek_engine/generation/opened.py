"""A model that generates and is open: what the engine needs of it besides the generator.

Why it exists: the engine must know how to turn text into tokens and what to tell callers of the
model, and it must import no runtime for that. Openers register by the variant's back end, as back
ends do; other packages add theirs in the entry point group ``deepseek.generators``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from deepseek_api.errors import BundleError
from deepseek_api.manifest import Variant

from deepseek_engine import registry
from deepseek_engine.backends import BackendOptions
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.generation.interface import Generator
from deepseek_engine.messages import GenerationInfo, ModelConfig

__all__ = ["GROUP", "TASK", "OpenedGenerator", "Opener", "open_generator"]

GROUP = "deepseek.generators"
"""Entry point group of openers."""
TASK = "generate"
"""Task of bundles whose models generate."""

_BUILTIN = {"torch": "deepseek_engine.generation.opening:open_generator"}


@dataclass(frozen=True, kw_only=True)
class OpenedGenerator:
    """An open model."""

    generator: Generator
    encode: Callable[[str], Sequence[int]] | None
    """Text to tokens, with the start token where the model has one; None without a tokenizer."""
    info: GenerationInfo
    cache_bytes: int = 0
    """Memory of the cache."""


Opener = Callable[[OpenBundle, Variant, ModelConfig, BackendOptions], OpenedGenerator]
"""Opens a variant of a checked bundle; raises BundleError or DeviceError."""


def open_generator(
    bundle: OpenBundle, variant: Variant, model: ModelConfig, options: BackendOptions
) -> OpenedGenerator:
    """Open a variant with the opener of its back end.

    Raises:
        BundleError: nothing here generates with that back end, or the files are wrong.
        DeviceError: there is no such device here, or the cache does not fit.
    """
    opener = registry.load(variant.backend, builtin=_BUILTIN, group=GROUP)
    if opener is None:
        names = ", ".join(registry.available(builtin=_BUILTIN, group=GROUP))
        raise BundleError(
            f"The bundle generates with the back end '{variant.backend}', which does not generate "
            "here.",
            hint=f"These do: {names}.",
            reason="UnknownBackend",
        )
    return cast(Opener, opener)(bundle, variant, model, options)
