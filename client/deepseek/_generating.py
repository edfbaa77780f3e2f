"""Prompts into requests, and parts of a streamed answer into plain values.

Why it exists: ``generate`` means the same in the synchronous client, the asynchronous client, the
engine in this process and the command line. It does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from deepseek_api.errors import (
    ConfigurationError,
    DeepseekError,
    EngineUnavailableError,
    ErrorCode,
    InferenceError,
)
from deepseek_protos import inference_pb2 as pb

from deepseek._calls import TEXT_INPUT
from deepseek._wire import Inputs, Parameter, infer_request, result_of

__all__ = ["TIMEOUT_S", "Chunk", "Sampling", "chunk_of", "parameters_of", "stream_request"]

TIMEOUT_S = 600.0
"""Seconds that an answer may take, unless the call says otherwise."""
_TOKENS_INPUT = "input_ids"
_TEXT_OUTPUT, _TOKENS_OUTPUT, _LOGPROBS_OUTPUT = "text", "token_ids", "logprobs"
_LAST = ("matched_stop", "prompt_tokens", "cached_tokens", "completion_tokens",
         "first_token_ms", "total_ms")  # fmt: skip


class Sampling(TypedDict, total=False):
    """How tokens are chosen, and when to stop; what is left out is the model's default."""

    max_tokens: int
    """Most tokens to generate."""
    min_tokens: int
    """Before so many tokens only ``max_tokens`` ends the answer."""
    temperature: float
    """0 always takes the likeliest token."""
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    """Makes the choice repeatable."""
    stop: str | Sequence[str]
    """Texts that end the answer; they are not part of it."""
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int
    """How many alternatives to report for each token."""
    json_schema: str | Mapping[str, Any]
    """The answer is JSON of this schema."""
    json_object: bool
    regex: str
    """The whole answer matches this expression."""
    adapter: str
    """Name of the LoRA adapter to use."""
    priority: int
    """1 is served first; 0, the default, last."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next part of an answer."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: str = ""
    """``stop`` or ``length`` on the last part, empty before."""
    logprobs: tuple[Any, ...] = ()
    """For each token its number, its log probability and the likeliest ones, when asked for."""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    """With the last part: counts of tokens, times in milliseconds, the stop that was met."""


def parameters_of(sampling: Mapping[str, Any]) -> dict[str, Parameter]:
    """Sampling settings as named values of a request.

    Raises:
        ConfigurationError: a name is unknown.
    """
    known = Sampling.__annotations__
    for name in sampling:
        if name not in known:
            raise ConfigurationError(
                f"'{name}' is no sampling setting.", hint=f"Settings are {', '.join(known)}."
            )
    return {name: _plain(value) for name, value in sampling.items() if value is not None}


def stream_request(
    model: str, prompt: str | Sequence[int], sampling: Mapping[str, Any], *, request_id: str = ""
) -> pb.ModelInferRequest:
    """The request for an answer in parts."""
    return infer_request(
        model, prompt_inputs(prompt), parameters=parameters_of(sampling), request_id=request_id
    )


def prompt_inputs(prompt: str | Sequence[int]) -> Inputs:
    """A prompt as inputs by name."""
    if isinstance(prompt, str):
        return {TEXT_INPUT: [prompt]}
    return {_TOKENS_INPUT: np.asarray([list(prompt)], dtype=np.int64).reshape(1, -1)}


def chunk_of(item: pb.ModelStreamInferResponse) -> Chunk:
    """A part of an answer.

    Raises:
        DeepseekError: the request failed; with the server's code and sentence.
    """
    if item.error_message:
        raise _error(item)
    result = result_of(item.infer_response)
    outputs, parameters = result.outputs, result.parameters
    logprobs = outputs[_LOGPROBS_OUTPUT][0] if _LOGPROBS_OUTPUT in outputs else b"[]"
    return Chunk(
        text=outputs[_TEXT_OUTPUT][0].decode() if _TEXT_OUTPUT in outputs else "",
        token_ids=tuple(outputs[_TOKENS_OUTPUT][0].tolist()) if _TOKENS_OUTPUT in outputs else (),
        finish_reason=str(parameters.get("finish_reason", "")),
        logprobs=tuple(json.loads(logprobs)),
        parameters={name: parameters[name] for name in _LAST if name in parameters},
    )


def _plain(value: Any) -> Parameter:
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping | Sequence):
        return json.dumps(value)
    raise ConfigurationError(f"{value!r} cannot be sent as a sampling setting.")


def _error(item: pb.ModelStreamInferResponse) -> DeepseekError:
    code = item.infer_response.parameters["error_code"].string_param
    known = ErrorCode.__members__.get(code, ErrorCode.INTERNAL)
    if known is ErrorCode.UNAVAILABLE:
        return EngineUnavailableError(item.error_message)
    return InferenceError(item.error_message, code=known)
