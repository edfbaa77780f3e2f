"""Sentence encoders, BERT and the encoder of T5, loaded with transformers."""

from __future__ import annotations

import json
from typing import Any

from deepseek_api.errors import ErrorCode, SourceError
from deepseek_api.manifest import Signature, TensorSpec
from deepseek_api.processing import EmbeddingPostprocessing, TextPreprocessing
from deepseek_api.vocabulary import Datatype
from transformers import BertModel, PreTrainedConfig, T5EncoderModel

from deepseek_engine.prepare.architectures.base import LoadedModel, Plan, weights_of
from deepseek_engine.prepare.architectures.hub_models import build_config, random_module, trained
from deepseek_engine.prepare.architectures.tokenizers import character_tokenizer, serving_tokenizer
from deepseek_engine.prepare.sources import Source

MODEL_CLASSES: dict[str, Any] = {"bert": BertModel, "t5": T5EncoderModel}
"""Values of ``model_type`` that can be prepared, each with the class that implements it."""
# No pooler: the weights have none, and the class would make one of random numbers.
CLASS_ARGUMENTS: dict[str, dict[str, Any]] = {"bert": {"add_pooling_layer": False}}
"""What a class takes beside its configuration."""
UNLIMITED = 1 << 20
USUAL_LENGTH = 512
"""Tokens after which a text is cut, where neither catalog nor architecture says it."""


def load_encoder(plan: Plan, source: Source) -> LoadedModel:
    """Load an encoder; the module returns token vectors ``[N, S, hidden]``.

    Raises:
        SourceError: the architecture is not supported, the weights do not fit it, or there is no
            tokenizer.
    """
    config = build_config(plan, MODEL_CLASSES)
    kind, arguments = MODEL_CLASSES[config.model_type], CLASS_ARGUMENTS.get(config.model_type, {})
    if plan.random_weights:
        module = random_module(kind, config, plan.seed, arguments)
    else:
        module = trained(kind, config, weights_of(source), arguments)
    preprocessing = _preprocessing(plan, config)
    return LoadedModel(
        family="encoder",
        module=module.eval(),
        architecture=f"transformers/{plan.name or config.model_type}",
        task=plan.task,
        model_type=plan.entry.type if plan.entry else "NLP",
        signature=_signature(config.hidden_size),
        preprocessing=preprocessing,
        postprocessing=_postprocessing(plan, source),
        shared_files={preprocessing.tokenizer: _tokenizer(plan, source, config, preprocessing)},
        torch_class=type(module).__name__,
        torch_config=json.loads(config.to_json_string(use_diff=False)),
        torch_library="transformers",
        torch_arguments=arguments,
        torch_outputs=(_token_vectors(config.hidden_size),),
        random_weights=plan.random_weights,
    )


def _preprocessing(plan: Plan, config: PreTrainedConfig) -> TextPreprocessing:
    # T5 knows distances between tokens instead of a table of positions: any length will do.
    positions = int(getattr(config, "max_position_embeddings", UNLIMITED))
    if plan.entry and isinstance(plan.entry.preprocessing, TextPreprocessing):
        given = plan.entry.preprocessing
        return given.model_copy(update={"max_length": min(given.max_length, positions)})
    return TextPreprocessing(max_length=min(USUAL_LENGTH, positions))


def _postprocessing(plan: Plan, source: Source) -> EmbeddingPostprocessing:
    if plan.entry and isinstance(plan.entry.postprocessing, EmbeddingPostprocessing):
        return plan.entry.postprocessing
    pooling_file = source.folder / "1_Pooling" / "config.json" if source.folder else None
    if pooling_file is not None and pooling_file.is_file():
        fields = json.loads(pooling_file.read_bytes())
        if fields.get("pooling_mode_cls_token"):
            return EmbeddingPostprocessing(pooling="cls")
    return EmbeddingPostprocessing(pooling="mean")


def _signature(hidden: int) -> Signature:
    def tokens(name: str) -> TensorSpec:
        return TensorSpec(name=name, datatype=Datatype.INT64, shape=(-1, -1))

    return Signature(
        inputs=(tokens("input_ids"), tokens("attention_mask")),
        outputs=(
            TensorSpec(name="sentence_embedding", datatype=Datatype.FP32, shape=(-1, hidden)),
        ),
    )


def _token_vectors(hidden: int) -> TensorSpec:
    """What the class returns: vectors of tokens."""
    return TensorSpec(name="last_hidden_state", datatype=Datatype.FP32, shape=(-1, -1, hidden))


def _tokenizer(
    plan: Plan, source: Source, config: PreTrainedConfig, preprocessing: TextPreprocessing
) -> bytes:
    file = source.folder / "tokenizer.json" if source.folder else None
    if file is not None and file.is_file():
        return serving_tokenizer(file.read_bytes(), preprocessing.max_length)
    if plan.random_weights:
        return character_tokenizer(config.vocab_size, preprocessing.max_length)
    raise SourceError(
        "There is no tokenizer.json beside the weights.",
        hint="Put the model's tokenizer.json into the same folder.",
        code=ErrorCode.NOT_FOUND,
        reason="TokenizerNotFound",
    )
