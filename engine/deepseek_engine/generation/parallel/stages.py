"""One rank's part of a module of transformers that answers whole requests: a stage, cut or not.

Why it exists: encoders run in stages as decoders do. A stage is built with its own blocks only;
what comes before them is exchanged for what another stage sends, and what comes after them is left
out. Every stage is given the inputs, from which the library makes its masks. Rows are cut into
micro-batches, so that stages work at the same time.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepseek_api.errors import ErrorCode, PrecisionError
from safetensors import safe_open
from torch import nn

from deepseek_engine.backends.torch.calling import ModuleCall
from deepseek_engine.backends.torch.description import (
    Description,
    build_module,
    read_description,
    unfit,
)
from deepseek_engine.bundles import open_bundle
from deepseek_engine.generation.parallel.collectives import receive, send
from deepseek_engine.generation.parallel.context import ParallelContext
from deepseek_engine.generation.parallel.modules import shard_module
from deepseek_engine.generation.parallel.splits import stage_layers

__all__ = ["RUN", "ModuleStage", "build_stage", "check_divisible", "load_stage"]

logger = logging.getLogger(__name__)

RUN = "run"
"""Name of the command."""


@dataclass(frozen=True, slots=True)
class _Family:
    """Where a class of transformers can be cut."""

    layers: str
    """Field of the configuration with the number of blocks."""
    blocks: str
    entry: tuple[str, ...]
    """Modules that turn tokens into the first block's input; the first gives its value."""
    exit: tuple[str, ...]
    """Modules after the last block."""
    body: str = ""
    """The part that stages before the last run; empty: the module itself."""
    tied: tuple[str, str] = ("", "")
    """Two tensors that are one, of which a file may hold either."""


_FAMILIES = {
    "BertModel": _Family("num_hidden_layers", "encoder.layer", ("embeddings",), ("pooler",)),
    "T5EncoderModel": _Family(
        "num_layers",
        "encoder.block",
        ("encoder.embed_tokens", "shared"),
        ("encoder.final_layer_norm",),
        tied=("shared.weight", "encoder.embed_tokens.weight"),
    ),
    "GPT2LMHeadModel": _Family(
        "n_layer",
        "transformer.h",
        ("transformer.wte", "transformer.wpe"),
        ("transformer.ln_f", "lm_head"),
        body="transformer",
        tied=("transformer.wte.weight", "lm_head.weight"),
    ),
}
# T5 keeps the bias of distances with its first block, and every stage needs it.
_WITH_FIRST_BLOCK = "relative_attention_bias"


class _Received(nn.Module):
    """Stands where tokens became vectors: gives what the stage before has sent."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.empty(0)

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.hidden


class _Nothing(nn.Module):
    """Adds nothing."""

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(())


def check_divisible(description: Description) -> None:
    """Refuse a variant that cannot be divided over processes.

    Raises:
        PrecisionError: UNIMPLEMENTED, saying what can be.
    """
    if description.library == "transformers" and description.architecture in _FAMILIES:
        if not description.quantized:
            return
        what, hint = "has quantized layers", "Choose a variant of fp32, bf16 or fp16."
    else:
        what = f"is of the architecture '{description.architecture}'"
        hint = f"Architectures that can: {', '.join(_FAMILIES)}, and models that generate."
    raise PrecisionError(
        f"A model that {what} cannot be divided over processes.",
        hint=hint,
        code=ErrorCode.UNIMPLEMENTED,
        reason="NotDivisible",
    )


def load_stage(
    arguments: Mapping[str, Any], context: ParallelContext, device: torch.device
) -> ModuleStage:
    """Load a rank's part of a torch variant: the loader of a rank group.

    Args:
        arguments: ``folder``, ``digest`` and ``variant`` of a bundle; ``micro_batches``.
        context: the rank's place.
        device: where it computes.

    Raises:
        DeepseekError: the bundle cannot be read, or cannot be divided so.
    """
    bundle = open_bundle(arguments["folder"], arguments["digest"])
    variant = next(v for v in bundle.manifest.variants if v.id == arguments["variant"])
    description = read_description(bundle, variant)
    try:
        module = build_stage(description, bundle.path(description.weights), context)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        logger.warning("torch cannot open a variant", extra={"cause": str(error)[:500]})
        raise unfit(variant) from error
    return ModuleStage(
        module.to(device), description, context, micro_batches=arguments["micro_batches"]
    )


def build_stage(description: Description, path: Path, context: ParallelContext) -> nn.Module:
    """The module of a rank: its blocks, and the ends that belong to its stage.

    Raises:
        ConfigurationError: ``InvalidParallelism``; it cannot be shared by so many.
        PrecisionError: see `check_divisible`.
        KeyError: the file lacks a tensor.
    """
    check_divisible(description)
    family = _FAMILIES[description.architecture]
    own = stage_layers(int(description.config[family.layers]), context)
    config = {**description.config, family.layers: len(own)}
    module: nn.Module = build_module(dataclasses.replace(description, config=config))
    if not context.first_stage:
        for place, name in enumerate(family.entry):
            _exchange(module, name, _Nothing() if place else _Received())
    if not context.last_stage:
        for name in family.exit:
            _exchange(module, name, nn.Identity())
    module = module.to(dtype=getattr(torch, description.dtype)).eval()
    _load(module, family, own.start, path)
    alone = dataclasses.replace(context, pipeline_rank=0, pipeline_size=1)
    return shard_module(module, alone)


class ModuleStage:
    """A `Shard` that answers batches of rows."""

    def __init__(
        self,
        module: nn.Module,
        description: Description,
        context: ParallelContext,
        *,
        micro_batches: int,
    ) -> None:
        """Take a rank's module."""
        self._module, self._context = module, context
        self._description, self._micro_batches = description, micro_batches
        self._family = _FAMILIES[description.architecture]
        self._call = ModuleCall(torch, module, description)
        self._dtype = getattr(torch, description.dtype)

    @property
    def facts(self) -> Mapping[str, int]:
        """Nothing that the leader must know."""
        return {}

    def run(self, name: str, fields: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """Answer a batch: outputs by name, fp32, on rank 0; ``fields`` has the ``outputs`` wanted.

        Raises:
            ValueError: the command is unknown.
        """
        if name != RUN:
            raise ValueError(f"a stage of a module cannot do {name!r}")
        wanted, context = list(fields["outputs"]), self._context
        if context.pipeline_size == 1:
            return self._last(tensors, wanted)
        rows = len(next(iter(tensors.values())))
        size = -(-rows // self._micro_batches)
        answers, sent = [], []
        for first in range(0, rows, size):
            part = {key: value[first : first + size] for key, value in tensors.items()}
            if not context.first_stage:
                self._receive(part)
            if context.last_stage:
                answers.append(self._last(part, wanted))
            else:
                hidden = self._body(part).contiguous()
                sent.append((send(hidden, context.pipeline_rank + 1, context), hidden))
        for work, _ in sent:
            work.wait()
        whole = {key: torch.cat([answer[key] for answer in answers]) for key in wanted if answers}
        return self._to_leader(whole, tensors, wanted)

    def _body(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        body = self._module.get_submodule(self._family.body)
        hidden: torch.Tensor = body(**tensors).last_hidden_state
        return hidden

    def _last(
        self, tensors: Mapping[str, torch.Tensor], wanted: list[str]
    ) -> dict[str, torch.Tensor]:
        outputs = self._call(tensors)
        return {name: outputs[name].float() for name in wanted}

    def _receive(self, tensors: Mapping[str, torch.Tensor]) -> None:
        width: Any = self._module.config.hidden_size  # type: ignore[union-attr]
        tokens = next(iter(tensors.values()))
        entry: Any = self._module.get_submodule(self._family.entry[0])
        entry.hidden = receive(
            (*tokens.shape, int(width)),
            self._context.pipeline_rank - 1,
            self._context,
            dtype=self._dtype,
            device=tokens.device,
        )

    def _to_leader(
        self,
        answers: Mapping[str, torch.Tensor],
        tensors: Mapping[str, torch.Tensor],
        wanted: list[str],
    ) -> dict[str, torch.Tensor]:
        """Outputs from the last stage to rank 0."""
        context, found = self._context, {}
        tokens = next(iter(tensors.values()))
        shapes = {spec.name: spec.shape for spec in self._description.outputs}
        for name in wanted if context.tensor_rank == 0 else []:
            if context.last_stage:
                send(answers[name].contiguous(), 0, context).wait()
            elif context.first_stage:
                shape = (*tokens.shape, *shapes[name][2:])
                last = context.pipeline_size - 1
                kind = torch.float32
                found[name] = receive(shape, last, context, dtype=kind, device=tokens.device)
        return found


def _exchange(module: nn.Module, name: str, other: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    if getattr(module.get_submodule(parent), attribute, None) is not None:
        setattr(module.get_submodule(parent), attribute, other)


def _load(module: nn.Module, family: _Family, first: int, path: Path) -> None:
    """Fill a stage from the file of the whole module, tensor by tensor."""
    begin = f"{family.blocks}."
    with safe_open(str(path), framework="pt") as file:
        stored = set(file.keys())
        for name, tensor in module.state_dict(keep_vars=True).items():
            source = name
            if name.startswith(begin) and _WITH_FIRST_BLOCK not in name:
                number, _, rest = name.removeprefix(begin).partition(".")
                source = f"{begin}{int(number) + first}.{rest}"
            if source not in stored and source in family.tied:
                source = family.tied[1 - family.tied.index(source)]
            if source not in stored:
                raise KeyError(f"the file has no tensor {source!r}")
            with torch.no_grad():
                tensor.copy_(file.get_tensor(source))
