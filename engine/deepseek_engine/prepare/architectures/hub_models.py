"""Building classes of transformers from a configuration, with given or random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from deepseek_api.errors import ErrorCode, SourceError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from deepseek_engine.prepare.architectures.base import Plan, config_of
from deepseek_engine.prepare.state_dicts import StateDict


def build_config(plan: Plan, classes: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of a plan: the source's own, or that of a known name.

    Args:
        plan: what to load.
        classes: values of ``model_type`` that the caller can build.

    Raises:
        SourceError: the architecture is not known or not supported, or a field is wrong.
    """
    fields = config_of(plan, classes)
    model_type = str(fields.get("model_type"))
    if model_type not in classes:
        raise SourceError(
            f"{plan.family.capitalize()}s of the type '{model_type}' cannot be prepared yet.",
            hint=f"Types that can: {', '.join(classes)}.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="UnsupportedArchitecture",
        )
    own = {key: value for key, value in fields.items() if key != "model_type"}
    try:
        # Eager attention is plain matrix products and a softmax: what ONNX can express and fuse.
        return AutoConfig.for_model(model_type, **own, attn_implementation="eager")
    except Exception as error:  # what a wrong field raises depends on the field
        raise _invalid_config(plan.family, error) from error


def random_module(
    kind: Any, config: PreTrainedConfig, seed: int, arguments: Mapping[str, Any]
) -> nn.Module:
    """A model whose weights are drawn as its authors draw them before training.

    Raises:
        SourceError: the configuration describes nothing that can be built.
    """
    torch.manual_seed(seed)
    try:
        module: nn.Module = kind(config, **arguments)
    except Exception as error:
        raise _invalid_config("model", error) from error
    return module.float()


def trained(
    kind: Any, config: PreTrainedConfig, weights: StateDict, arguments: Mapping[str, Any]
) -> nn.Module:
    """A model with these weights; tensors that it has no use for are left out.

    Raises:
        SourceError: a tensor is missing or has another shape.
    """
    module: nn.Module
    try:
        module, loading = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            dtype=torch.float32,
            **arguments,
        )
    except Exception as error:
        raise _invalid_config("model", error) from error
    wrong = sorted(loading["missing_keys"]) + sorted(str(k) for k in loading["mismatched_keys"])
    if wrong:
        raise SourceError(
            f"The weights do not fit the architecture: {len(wrong)} tensors are missing or have "
            f"another shape, first '{wrong[0]}'.",
            hint="Use the config.json that belongs to these weights.",
            reason="WeightsDoNotFit",
        )
    return module


def _invalid_config(what: str, error: Exception) -> SourceError:
    return SourceError(
        f"The config.json describes no {what} that can be built: {type(error).__name__}.",
        hint="Use the config.json that belongs to these weights.",
        reason="InvalidConfig",
    )
