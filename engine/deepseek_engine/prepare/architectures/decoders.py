"""Decoders of the GPT-2 family, loaded with transformers, as encoders of given tokens.

Why it exists: scoring and probing texts needs what a decoder thinks of tokens that are already
there. Token numbers go in, scores of the next token and token vectors come out; making new tokens
one by one is not this module's business.
"""

from __future__ import annotations

import json
from typing import Any

from deepseek_api.manifest import Signature, TensorSpec
from deepseek_api.processing import NoPostprocessing, NoPreprocessing
from deepseek_api.vocabulary import Datatype
from transformers import GPT2LMHeadModel, PreTrainedConfig

from deepseek_engine.prepare.architectures.base import LoadedModel, Plan, weights_of
from deepseek_engine.prepare.architectures.hub_models import build_config, random_module, trained
from deepseek_engine.prepare.sources import Source

MODEL_CLASSES: dict[str, Any] = {"gpt2": GPT2LMHeadModel}
"""Values of ``model_type`` that can be prepared, each with the class that implements it."""
TOKENIZER = "tokenizer.json"


def load_decoder(plan: Plan, source: Source) -> LoadedModel:
    """Load a decoder; the module maps ``input_ids [N, S]`` to scores ``[N, S, vocabulary]``.

    Rows are of equal length, or padded on the right: a token sees only those before it.

    Raises:
        SourceError: the architecture is not supported, or the weights do not fit it.
    """
    config = build_config(plan, MODEL_CLASSES)
    kind = MODEL_CLASSES[config.model_type]
    if plan.random_weights:
        module = random_module(kind, config, plan.seed, {})
    else:
        module = trained(kind, config, weights_of(source), {})
    # The torch back end reads the last of all hidden states.
    stored = json.loads(config.to_json_string(use_diff=False))
    return LoadedModel(
        family="decoder",
        module=module.eval(),
        architecture=f"transformers/{plan.name or config.model_type}",
        task=plan.task,
        model_type=plan.entry.type if plan.entry else "LLM",
        signature=_signature(config),
        preprocessing=NoPreprocessing(),
        postprocessing=NoPostprocessing(),
        shared_files=_tokenizer(source),
        torch_class=type(module).__name__,
        torch_config=stored | {"output_hidden_states": True, "use_cache": False},
        torch_library="transformers",
        random_weights=plan.random_weights,
    )


def _signature(config: PreTrainedConfig) -> Signature:
    return Signature(
        inputs=(TensorSpec(name="input_ids", datatype=Datatype.INT64, shape=(-1, -1)),),
        outputs=(
            TensorSpec(
                name="logits", datatype=Datatype.FP32, shape=(-1, -1, int(config.vocab_size))
            ),
            TensorSpec(
                name="last_hidden_state",
                datatype=Datatype.FP32,
                shape=(-1, -1, int(config.hidden_size)),
            ),
        ),
    )


def _tokenizer(source: Source) -> dict[str, bytes]:
    """The model's own tokenizer for those who make the tokens; the worker does not need it."""
    file = source.folder / TOKENIZER if source.folder else None
    return {TOKENIZER: file.read_bytes()} if file is not None and file.is_file() else {}
