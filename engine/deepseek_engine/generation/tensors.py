"""Generating in terms of tensors: what the Open Inference Protocol carries.

Why it exists: a model that generates is reached through the same calls as every other model, with
``text`` or ``input_ids`` in and ``text`` and ``token_ids`` out. Front ends and the engine read and
write these tensors with the same code. It must not import NumPy or a runtime.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

import msgspec
from deepseek_api.errors import ErrorCode, InferenceError

from deepseek_engine.generation.parameters import Value, sampling_parameters
from deepseek_engine.generation.requests import GenerationChunk, GenerationRequest
from deepseek_engine.messages import (
    GenerationInfo,
    InferenceRequest,
    Tensor,
    TensorSpec,
    WireTensor,
)
from deepseek_engine.validation import split_bytes

__all__ = [
    "DEFAULT_OUTPUTS",
    "OUTPUTS",
    "TEXT_INPUT",
    "TOKEN_INPUT",
    "generation_request",
    "merged",
    "outcome",
    "output_tensors",
    "probe",
]

TEXT_INPUT = TensorSpec("text", "BYTES", (1,))
TOKEN_INPUT = TensorSpec("input_ids", "INT64", (1, -1))
OUTPUTS = (
    TensorSpec("text", "BYTES", (1,)),
    TensorSpec("token_ids", "INT64", (1, -1)),
    TensorSpec("logprobs", "BYTES", (1,)),
)
"""``logprobs`` is JSON: for each token its number, its log probability and the likeliest ones."""
DEFAULT_OUTPUTS = ("text", "token_ids")


def probe(info: GenerationInfo) -> tuple[tuple[WireTensor, ...], dict[str, Value]]:
    """A request for one token, and its parameters."""
    token = next(t for t in range(len(info.end_tokens) + 1) if t not in info.end_tokens)
    data = struct.pack("<q", token)
    return (WireTensor("input_ids", "INT64", (1, 1), data),), {"max_tokens": 1, "temperature": 0.0}


def generation_request(request: InferenceRequest, info: GenerationInfo) -> GenerationRequest:
    """What a request, whose names, types and shapes were checked, asks to be generated.

    Raises:
        InferenceError: INVALID_ARGUMENT, naming the input or the parameter.
    """
    (tensor,) = request.inputs
    adapter = request.parameters.get("adapter", "")
    if not isinstance(adapter, str):
        raise _invalid("The parameter 'adapter' is not a string.", "It names a loaded adapter.")
    sampling = sampling_parameters(request.parameters)
    if sampling.logprobs is None and "logprobs" in request.outputs:
        sampling = msgspec.structs.replace(sampling, logprobs=0)
    return GenerationRequest(
        model=request.model,
        prompt=_prompt(tensor),
        sampling=sampling,
        id=request.id,
        deadline=request.deadline,
        priority=request.priority,
        adapter=adapter,
        text=info.text and "text" in (request.outputs or DEFAULT_OUTPUTS),
    )


def output_tensors(
    chunk: GenerationChunk, outputs: Sequence[str] = DEFAULT_OUTPUTS
) -> tuple[Tensor, ...]:
    """The tensors of a part of an answer, or of a whole one.

    Args:
        chunk: the part.
        outputs: their names; log probabilities that were asked for come besides.
    """
    more = ("logprobs",) if chunk.logprobs and "logprobs" not in outputs else ()
    return tuple(_OUTPUTS[name](chunk) for name in (*outputs, *more))


def outcome(chunk: GenerationChunk) -> dict[str, Value]:
    """What the last part says of the answer, as named values; empty for other parts."""
    values: dict[str, Value] = {}
    if chunk.finish_reason is not None:
        values["finish_reason"] = str(chunk.finish_reason)
    if chunk.matched_stop is not None:
        values["matched_stop"] = chunk.matched_stop
    if chunk.usage is not None:
        usage = chunk.usage
        values |= {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "first_token_ms": usage.first_token_ms,
            "total_ms": usage.total_ms,
        }
    return values


def merged(chunks: Sequence[GenerationChunk]) -> GenerationChunk:
    """The whole answer of its parts, of which there is at least one."""
    last = chunks[-1]
    return GenerationChunk(
        token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
        text="".join(chunk.text for chunk in chunks),
        logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs),
        finish_reason=last.finish_reason,
        matched_stop=last.matched_stop,
        usage=last.usage,
    )


def _prompt(tensor: Tensor) -> str | tuple[int, ...]:
    if tensor.name == TOKEN_INPUT.name:
        return struct.unpack(f"<{tensor.shape[1]}q", tensor.data)
    (text,) = split_bytes(tensor.data, name=tensor.name, expected=1)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(
            f"The input 'text' is not UTF-8: byte {error.start} is wrong.", "Send UTF-8 text."
        ) from None


def _bytes(name: str, content: bytes) -> Tensor:
    return Tensor(name, "BYTES", (1,), struct.pack("<I", len(content)) + content)


def _token_ids(chunk: GenerationChunk) -> Tensor:
    count = len(chunk.token_ids)
    return Tensor("token_ids", "INT64", (1, count), struct.pack(f"<{count}q", *chunk.token_ids))


_OUTPUTS: Mapping[str, Callable[[GenerationChunk], Tensor]] = {
    "text": lambda chunk: _bytes("text", chunk.text.encode()),
    "token_ids": _token_ids,
    "logprobs": lambda chunk: _bytes("logprobs", msgspec.json.encode(chunk.logprobs)),
}


def _invalid(message: str, hint: str) -> InferenceError:
    return InferenceError(
        message, code=ErrorCode.INVALID_ARGUMENT, hint=hint, reason="InvalidParameter"
    )
