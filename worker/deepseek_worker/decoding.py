"""From a ModelInferRequest to a checked InferenceRequest.

Why it exists: what the network sends is not trusted, so every size is computed with Python's
integers and compared before anything is allocated, and every refusal is a sentence that names the
tensor or parameter. Whether the request fits the model is decided by the engine's own check, which
the in-process client uses too; here only the protocol's rules live.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_engine.client import DATATYPE_BYTES, InferenceRequest, Tensor
from deepseek_protos import inference_pb2 as pb

from deepseek_worker.config import Limits
from deepseek_worker.elements import (
    DATATYPES,
    BadElements,
    raw_from_contents,
)

__all__ = ["Parameter", "decode_request", "invalid", "is_typed", "quoted"]

Parameter = bool | int | float | str

_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
_MAX_INT64 = (1 << 63) - 1


def invalid(
    message: str, *, hint: str | None = None, reason: str = "InvalidInput"
) -> InferenceError:
    """An INVALID_ARGUMENT error."""
    return InferenceError(message, code=ErrorCode.INVALID_ARGUMENT, hint=hint, reason=reason)


def quoted(name: str, limit: int = 80) -> str:
    """A name from the network as it may appear in a sentence: escaped and shortened."""
    shown = name if len(name) <= limit else name[:limit] + "…"
    if shown.isprintable():
        return f"'{shown}'"
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown) + "'"


def is_typed(message: pb.ModelInferRequest) -> bool:
    """Whether the data travel in typed lists; such requests are answered the same way."""
    return bool(message.inputs) and not message.raw_input_contents


def decode_request(
    message: pb.ModelInferRequest, *, limits: Limits, now: float, deadline: float
) -> InferenceRequest:
    """Check a request by the rules of the protocol and give its tensors as raw bytes.

    Args:
        message: the request as received.
        limits: what a request may ask for.
        now: monotonic time, seconds.
        deadline: monotonic time until which the caller waits; the parameter ``timeout`` can only
            bring it forward.

    Raises:
        InferenceError: INVALID_ARGUMENT, with a sentence that names what is wrong.
    """
    if len(message.id) > limits.max_name_length:
        raise invalid(f"The id has {len(message.id)} characters; {limits.max_name_length} fit.")
    parameters = _parameters(message.parameters, owner="The request", limits=limits)
    priority = _whole_number(parameters.pop("priority", 0), name="priority")
    timeout_us = _whole_number(parameters.pop("timeout", 0), name="timeout")
    if timeout_us:
        deadline = min(deadline, now + timeout_us / 1e6)
    return InferenceRequest(
        model=message.model_name,
        inputs=_inputs(message, limits),
        outputs=_outputs(message, limits),
        id=message.id,
        deadline=deadline,
        priority=priority,
        parameters=parameters,
    )


def _parameters(
    source: Mapping[str, pb.InferParameter], *, owner: str, limits: Limits
) -> dict[str, Parameter]:
    if len(source) > limits.max_parameters:
        raise invalid(f"{owner} has {len(source)} parameters; {limits.max_parameters} are allowed.")
    values: dict[str, Parameter] = {}
    for name, parameter in source.items():
        if len(name) > limits.max_name_length:
            raise invalid(f"{owner} has a parameter whose name has {len(name)} characters.")
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise invalid(f"{owner} has a parameter {quoted(name)} without a value.")
        values[name] = getattr(parameter, kind)
    for name in _SHARED_MEMORY:
        if name in values:
            raise invalid(
                f"{owner} uses the parameter '{name}'; shared memory is not offered.",
                hint="Send the data in the message.",
                reason="SharedMemory",
            )
    return values


def _whole_number(value: Parameter, *, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"The parameter '{name}' is not a whole number.", hint="Use int64_param.")
    if not 0 <= value <= _MAX_INT64:
        raise invalid(f"The parameter '{name}' is {value}.", hint="It must be 0 or more.")
    return value


def _inputs(message: pb.ModelInferRequest, limits: Limits) -> tuple[Tensor, ...]:
    inputs = list(message.inputs)
    if not inputs:
        raise invalid("The request has no inputs.")
    _check_names((item.name for item in inputs), kind="input", limits=limits)
    raw = list(message.raw_input_contents)
    if raw:
        for item in inputs:
            if item.HasField("contents"):
                raise invalid(
                    f"The input {quoted(item.name)} has contents, and the request has "
                    "raw_input_contents.",
                    hint="Use one of the two for all inputs.",
                )
        if len(raw) != len(inputs):
            raise invalid(
                f"The request has {len(inputs)} inputs and {len(raw)} raw_input_contents.",
                hint="Send one entry for each input, in the same order.",
            )
    return tuple(
        _tensor(item, raw[index] if raw else None, limits) for index, item in enumerate(inputs)
    )


def _outputs(message: pb.ModelInferRequest, limits: Limits) -> tuple[str, ...]:
    names = tuple(item.name for item in message.outputs)
    _check_names(names, kind="output", limits=limits)
    for item in message.outputs:
        owner = f"The output {quoted(item.name)}"
        if "classification" in _parameters(item.parameters, owner=owner, limits=limits):
            raise invalid(
                f"{owner} asks for 'classification', which is not offered.",
                hint="Ask for the label and score outputs of the model instead.",
            )
    return names


def _check_names(names: Iterable[str], *, kind: str, limits: Limits) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise invalid(f"An {kind} has no name.")
        if len(name) > limits.max_name_length:
            raise invalid(
                f"An {kind} has a name of {len(name)} characters; {limits.max_name_length} fit."
            )
        if name in seen:
            raise invalid(f"The {kind} {quoted(name)} is given more than once.")
        seen.add(name)
        if len(seen) > limits.max_tensors:
            raise invalid(f"The request has more than {limits.max_tensors} {kind}s.")


def _tensor(
    item: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, limits: Limits
) -> Tensor:
    owner = f"The input {quoted(item.name)}"
    _parameters(item.parameters, owner=owner, limits=limits)
    if item.datatype not in DATATYPES:
        raise invalid(
            f"{owner} has the unknown datatype {quoted(item.datatype)}.",
            hint=f"Datatypes are {', '.join(sorted(DATATYPES))}.",
        )
    shape = _shape(item, owner, limits)
    expected = math.prod(shape)
    try:
        data = _data(item, raw, expected)
    except BadElements as problem:
        raise invalid(f"{owner} {problem}.") from None
    return Tensor(name=item.name, datatype=item.datatype, shape=shape, data=data)


def _shape(
    item: pb.ModelInferRequest.InferInputTensor, owner: str, limits: Limits
) -> tuple[int, ...]:
    if not 1 <= len(item.shape) <= limits.max_rank:
        raise invalid(
            f"{owner} has {len(item.shape)} dimensions.",
            hint=f"1 to {limits.max_rank} are allowed.",
        )
    shape = tuple(item.shape)
    if min(shape) < 1:
        raise invalid(
            f"{owner} has shape {list(shape)}.", hint="Every dimension must be at least 1."
        )
    if math.prod(shape) > limits.max_elements:
        raise invalid(f"{owner} has shape {list(shape)}, which is too large.")
    return shape


def _data(item: pb.ModelInferRequest.InferInputTensor, raw: bytes | None, expected: int) -> bytes:
    if raw is None:
        if not item.HasField("contents"):
            raise BadElements("has no data: fill raw_input_contents or its contents")
        return raw_from_contents(item.datatype, item.contents, expected=expected)
    # The elements of a BYTES tensor are walked once, by the engine, after its shape was found to
    # fit the model: 64 MiB of empty elements would hold up this process for seconds.
    if item.datatype != "BYTES":
        needed = expected * DATATYPE_BYTES[item.datatype]
        if len(raw) != needed:
            raise BadElements(
                f"has {len(raw)} bytes of data; shape {list(item.shape)} of {item.datatype} "
                f"needs {needed}"
            )
    return raw
