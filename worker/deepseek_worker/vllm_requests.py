"""From a request of VllmEngine to a checked request of the engine.

Why it exists: what the network sends is not trusted, and this protocol writes an absent number as
zero. What it can ask for and a worker here does not do is refused by name, never left out silently.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_engine.client import (
    Constraint,
    GenerationRequest,
    InferenceRequest,
    ModelInfo,
    SamplingParameters,
    Tensor,
)
from deepseek_protos import vllm_engine_pb2 as pb

from deepseek_worker.config import Limits
from deepseek_worker.decoding import invalid, quoted

__all__ = ["check_id", "embedding_request", "generation_request"]

_REFUSED = {
    "kv_transfer_params": "transfers of caches between workers",
    "kv_transfer_params_json": "transfers of caches between workers",
    "mm_inputs": "pictures and other media",
    "media_refs": "pictures and other media",
}
_REFUSED_SAMPLING = {
    "prompt_logprobs": "log probabilities of the prompt",
    "truncate_prompt_tokens": "shortened prompts",
    "grammar": "grammars",
    "structural_tag": "structural tags",
}
_MAX_CHOICES = 256


def generation_request(
    message: pb.GenerateRequest,
    *,
    model: str,
    deadline: float,
    limits: Limits,
    start_tokens: tuple[int, ...] = (),
) -> GenerationRequest:
    """Check a request and give it in the engine's terms.

    Args:
        message: as received.
        model: that it is for.
        deadline: monotonic time until which the caller waits.
        limits: what a request may ask for.
        start_tokens: what the model's tokenizer puts before every text.

    Raises:
        InferenceError: INVALID_ARGUMENT or UNIMPLEMENTED, naming the field.
    """
    check_id(message.request_id, limits)
    for field, what in _REFUSED.items():
        if message.HasField(field):
            raise _unimplemented(field, what)
    if message.extra_mm_inputs:
        raise _unimplemented("extra_mm_inputs", _REFUSED["mm_inputs"])
    if message.HasField("data_parallel_rank") and message.data_parallel_rank != 0:
        raise invalid(f"There is no data parallel rank {message.data_parallel_rank}.")
    kind = message.WhichOneof("input")
    if kind is None:
        raise invalid("The request has neither tokens nor text.", hint="Send 'tokenized'.")
    tokens = tuple(message.tokenized.input_ids)
    prompt = message.text if kind == "text" else _begun(tokens, start_tokens)
    return GenerationRequest(
        model=model,
        prompt=prompt,
        sampling=_sampling(message.sampling_params),
        id=message.request_id,
        deadline=deadline,
        text=False,
    )


def _begun(tokens: tuple[int, ...], start_tokens: tuple[int, ...]) -> tuple[int, ...]:
    """The prompt's tokens, begun as the model's own tokenizer begins every text.

    Gateways turn the text of a completion into tokens without the special ones and do not say so; a
    model that was trained with a start token answers nonsense where it is missing.
    """
    if not tokens or tokens[: len(start_tokens)] == start_tokens:
        return tokens
    return start_tokens + tokens


def embedding_request(
    message: pb.EmbedRequest, info: ModelInfo, *, deadline: float, limits: Limits
) -> InferenceRequest:
    """Check a request for a vector and give it in the engine's terms.

    Raises:
        InferenceError: INVALID_ARGUMENT, naming what is wrong.
    """
    check_id(message.request_id, limits)
    tokens = message.tokenized.input_ids
    if not tokens:
        raise invalid("The request has no tokens.", hint="Send 'tokenized'.", reason="EmptyPrompt")
    shape = (1, len(tokens))
    data = {
        "input_ids": struct.pack(f"<{len(tokens)}q", *tokens),
        "attention_mask": struct.pack(f"<{len(tokens)}q", *[1] * len(tokens)),
    }
    return InferenceRequest(
        model=info.name,
        inputs=tuple(Tensor(name, "INT64", shape, content) for name, content in data.items()),
        id=message.request_id,
        deadline=deadline,
    )


def check_id(request_id: str, limits: Limits) -> None:
    """Refuse an id that is too long to be kept."""
    if len(request_id) > limits.max_name_length:
        raise invalid(
            f"The request_id has {len(request_id)} characters; {limits.max_name_length} fit."
        )


def _sampling(message: pb.SamplingParams) -> SamplingParameters:
    for field, what in _REFUSED_SAMPLING.items():
        if message.HasField(field):
            raise _unimplemented(field, what)
    if message.logit_bias:
        raise _unimplemented("logit_bias", "biases of tokens")
    if message.n > 1:
        raise InferenceError(
            f"n is {message.n}: a request has one answer here.",
            code=ErrorCode.UNIMPLEMENTED,
            hint="Send the request several times, with different seeds.",
            reason="NotImplemented",
        )
    given: dict[str, Any] = {
        # In these fields zero is a value nobody can want, and means that none was set.
        "top_p": message.top_p or 1.0,
        "repetition_penalty": message.repetition_penalty or 1.0,
    }
    if message.HasField("temperature"):
        given["temperature"] = message.temperature
    if message.HasField("max_tokens"):
        given["max_tokens"] = message.max_tokens
    if message.HasField("logprobs"):
        given["logprobs"] = message.logprobs
    if message.HasField("seed"):
        # The protocol's seed has a sign, the engine's has none; 32 bits of it are kept.
        given["seed"] = message.seed & 0xFFFFFFFF
    return SamplingParameters(
        **given,
        top_k=message.top_k,
        min_p=message.min_p,
        min_tokens=message.min_tokens,
        frequency_penalty=message.frequency_penalty,
        presence_penalty=message.presence_penalty,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        constraint=_constraint(message),
    )


def _constraint(message: pb.SamplingParams) -> Constraint | None:
    kind = message.WhichOneof("constraint")
    if kind == "json_schema":
        return Constraint(kind="json_schema", definition=message.json_schema)
    if kind == "regex":
        return Constraint(kind="regex", definition=message.regex)
    if kind == "json_object":
        return Constraint(kind="json_object") if message.json_object else None
    if kind == "choice":
        choices = message.choice.choices
        if not 1 <= len(choices) <= _MAX_CHOICES:
            raise invalid(
                f"The choice has {len(choices)} entries.", hint=f"1 to {_MAX_CHOICES} are allowed."
            )
        pattern = "|".join(re.escape(choice) for choice in choices)
        return Constraint(kind="regex", definition=f"({pattern})")
    return None


def _unimplemented(field: str, what: str) -> InferenceError:
    return InferenceError(
        f"The request uses {quoted(field)}; {what} are not offered.",
        code=ErrorCode.UNIMPLEMENTED,
        hint="Leave the field out.",
        reason="NotImplemented",
    )
