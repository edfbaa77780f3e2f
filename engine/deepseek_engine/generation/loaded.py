"""From a bundle whose task is to generate to a model that can answer.

Why it exists: the counterpart of `deepseek_engine.loading` for such bundles, which have no task of
arrays and no back end that runs a graph. The engine opens it away from the event loop.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from deepseek_api.manifest import Variant

from deepseek_engine.backends import BackendOptions
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.describing import described
from deepseek_engine.generation import tensors
from deepseek_engine.generation.opened import OpenedGenerator, open_generator
from deepseek_engine.generation.requests import GenerationRequest, SamplingParameters
from deepseek_engine.messages import ModelConfig, ModelInfo

__all__ = ["LoadedGenerator", "load_generator", "warm_generator"]


@dataclass(frozen=True, kw_only=True)
class LoadedGenerator:
    """A model that generates and can run."""

    info: ModelInfo
    opened: OpenedGenerator


def load_generator(
    model: ModelConfig, bundle: OpenBundle, variant: Variant, options: BackendOptions
) -> LoadedGenerator:
    """Open a verified variant.

    Raises:
        BundleError: it cannot be generated with, or its files are wrong.
        DeviceError: the device is not available, or weights and cache do not fit.
    """
    opened = open_generator(bundle, variant, model, options)
    info = opened.info
    accepted = (tensors.TEXT_INPUT, tensors.TOKEN_INPUT) if info.text else (tensors.TOKEN_INPUT,)
    request, parameters = tensors.probe(info)
    common = described(model, bundle, variant)
    return LoadedGenerator(
        info=msgspec.structs.replace(
            common,
            memory_bytes=common.memory_bytes + opened.cache_bytes,
            inputs=accepted[:1],
            alternative_inputs=tuple((spec,) for spec in accepted[1:]),
            outputs=tensors.OUTPUTS if info.text else tensors.OUTPUTS[1:],
            default_outputs=tensors.DEFAULT_OUTPUTS if info.text else ("token_ids",),
            probe=request,
            probe_parameters=parameters,
            generation=info,
        ),
        opened=opened,
    )


async def warm_generator(
    loaded: LoadedGenerator, call: Callable[[Callable[[], Any]], Awaitable[Any]]
) -> None:
    """Generate two tokens, as a request does: a prompt's step and an answer's.

    Args:
        loaded: a model that nobody else uses yet.
        call: runs a function on the device's thread.

    Raises:
        Exception: a step failed.
    """
    generator = loaded.opened.generator
    sampling = SamplingParameters(max_tokens=2, temperature=0.0, ignore_eos=True)
    prompt = (0,)
    request = GenerationRequest(
        model=loaded.info.name, prompt=prompt, sampling=sampling, text=loaded.opened.info.text
    )
    generator.add(0, request, prompt)
    while generator.has_work() and (plan := generator.plan()) is not None:
        result = await call(functools.partial(generator.run, plan))
        for update in generator.commit(plan, result):
            if update.error is not None:
                raise update.error
