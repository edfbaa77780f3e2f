"""Sentence encoders of the BERT family, loaded with transformers."""

from __future__ import annotations

import json
from typing import Any

import torch
from deepseek_api.errors import ErrorCode, SourceError
from deepseek_api.manifest import Signature, TensorSpec
from deepseek_api.processing import EmbeddingPostprocessing, TextPreprocessing
from deepseek_api.vocabulary import Datatype
from torch import nn
from transformers import AutoConfig, BertModel, PreTrainedConfig

from deepseek_engine.prepare.architectures.base import LoadedModel, Plan, weights_of
from deepseek_engine.prepare.architectures.tokenizers import character_tokenizer, serving_tokenizer
from deepseek_engine.prepare.sources import Source

# The dimensions of published models, so that random weights need no download. Values left out are
# those of the BERT paper's base model, which transformers has as defaults.
KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {"model_type": "bert"},
    "bert-large-uncased": {
        "model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096,
    },
    "all-MiniLM-L6-v2": {
        "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 12, "intermediate_size": 1536,
    },
}  # fmt: skip
MODEL_CLASSES: dict[str, Any] = {"bert": BertModel}
"""Values of ``model_type`` that can be prepared, each with the class that implements it."""


def load_encoder(plan: Plan, source: Source) -> LoadedModel:
    """Load an encoder; the module returns token vectors ``[N, S, hidden]``.

    Raises:
        SourceError: the architecture is not supported, the weights do not fit it, or there is no
            tokenizer.
    """
    config = _config(plan)
    module = _random(config, plan.seed) if plan.random_weights else _trained(config, source)
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
        random_weights=plan.random_weights,
    )


def _config(plan: Plan) -> PreTrainedConfig:
    fields = plan.config or KNOWN_CONFIGS.get(plan.name)
    if fields is None:
        raise SourceError(
            f"The architecture '{plan.name}' is not known by name.",
            hint=f"Known: {', '.join(sorted(KNOWN_CONFIGS))}; others need a config.json beside "
            "the weights.",
            code=ErrorCode.NOT_FOUND,
            reason="UnknownArchitecture",
        )
    model_type = str(fields.get("model_type"))
    if model_type not in MODEL_CLASSES:
        raise SourceError(
            f"Encoders of the type '{model_type}' cannot be prepared yet.",
            hint=f"Types that can: {', '.join(MODEL_CLASSES)}.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="UnsupportedArchitecture",
        )
    own = {key: value for key, value in fields.items() if key != "model_type"}
    try:
        # Eager attention is plain matrix products and a softmax: what ONNX can express and fuse.
        return AutoConfig.for_model(model_type, **own, attn_implementation="eager")
    except Exception as error:  # what a wrong field raises depends on the field
        raise _invalid_config(error) from error


def _invalid_config(error: Exception) -> SourceError:
    return SourceError(
        f"The config.json describes no encoder that can be built: {type(error).__name__}.",
        hint="Use the config.json that belongs to these weights.",
        reason="InvalidConfig",
    )


def _random(config: PreTrainedConfig, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    try:
        module: nn.Module = MODEL_CLASSES[config.model_type](config, add_pooling_layer=False)
    except Exception as error:
        raise _invalid_config(error) from error
    return module.float()


def _trained(config: PreTrainedConfig, source: Source) -> nn.Module:
    module: nn.Module
    weights = weights_of(source)
    try:
        module, loading = MODEL_CLASSES[config.model_type].from_pretrained(
            None,
            config=config,
            state_dict=weights,
            add_pooling_layer=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            dtype=torch.float32,
        )
    except Exception as error:
        raise _invalid_config(error) from error
    wrong = sorted(loading["missing_keys"]) + sorted(str(k) for k in loading["mismatched_keys"])
    if wrong:
        raise SourceError(
            f"The weights do not fit the architecture: {len(wrong)} tensors are missing or have "
            f"another shape, first '{wrong[0]}'.",
            hint="Use the config.json that belongs to these weights.",
            reason="WeightsDoNotFit",
        )
    return module


def _preprocessing(plan: Plan, config: PreTrainedConfig) -> TextPreprocessing:
    positions = int(config.max_position_embeddings)
    if plan.entry and isinstance(plan.entry.preprocessing, TextPreprocessing):
        given = plan.entry.preprocessing
        return given.model_copy(update={"max_length": min(given.max_length, positions)})
    return TextPreprocessing(max_length=min(512, positions))


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
