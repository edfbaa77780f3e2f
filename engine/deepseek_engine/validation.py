"""Does a request fit the model that it names?

Why it exists: a front end and an engine inside the caller's process must refuse the same requests
with the same sentences. Only names, datatypes, shapes and sizes are checked here; what the bytes
mean is the task's business. It must not import NumPy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from deepseek_api.errors import ErrorCode, InferenceError

from deepseek_engine.messages import (
    DATATYPE_BYTES,
    Buffer,
    InferenceRequest,
    ModelInfo,
    Tensor,
    TensorSpec,
)

__all__ = ["check_request", "invalid", "match_inputs", "split_bytes"]

_MAX_ELEMENTS = 1 << 40


def invalid(
    message: str, *, hint: str | None = None, reason: str = "InvalidInput"
) -> InferenceError:
    """An INVALID_ARGUMENT error."""
    return InferenceError(message, code=ErrorCode.INVALID_ARGUMENT, hint=hint, reason=reason)


def check_request(request: InferenceRequest, info: ModelInfo) -> int:
    """Check names, datatypes, shapes and sizes of a request against a model.

    Returns:
        The number of rows: dimension 0, which all inputs share.

    Raises:
        InferenceError: INVALID_ARGUMENT, with a sentence that names the tensor.
    """
    match_inputs(request.inputs, (info.inputs, *info.alternative_inputs))
    rows = request.inputs[0].shape[0]
    for tensor in request.inputs:
        if tensor.shape[0] != rows:
            raise invalid(
                f"The inputs '{request.inputs[0].name}' and '{tensor.name}' have different batch "
                f"sizes, {rows} and {tensor.shape[0]}."
            )
        _check_size(tensor)
    if info.max_batch_size and rows > info.max_batch_size:
        raise invalid(
            f"The request has {rows} rows; the model '{info.name}' takes at most "
            f"{info.max_batch_size}.",
            hint="Send it in parts.",
            reason="BatchTooLarge",
        )
    known = [spec.name for spec in info.outputs]
    for name in request.outputs:
        if name not in known:
            raise invalid(
                f"The model '{info.name}' has no output '{name}'.",
                hint=f"It has {', '.join(known)}.",
            )
    return rows


def match_inputs(
    tensors: Sequence[Tensor], accepted: Sequence[Sequence[TensorSpec]]
) -> Sequence[TensorSpec]:
    """Find the set of inputs that a request uses.

    Args:
        tensors: the request's inputs.
        accepted: complete sets of inputs, the preferred one first.

    Returns:
        The first set that fits.

    Raises:
        InferenceError: INVALID_ARGUMENT; it says what is wrong with regard to the closest set.
    """
    names = [tensor.name for tensor in tensors]
    for name in names:
        if names.count(name) > 1:
            raise invalid(f"The input '{name}' is given more than once.")
    problems = []
    for specs in accepted:
        problem = _mismatch(tensors, specs)
        if problem is None:
            return specs
        problems.append(problem)
    # The problem found latest in the order of the checks belongs to the closest set.
    raise max(problems, key=lambda item: item[0])[1]


def split_bytes(data: Buffer, *, name: str, expected: int) -> list[bytes]:
    """Split a BYTES tensor (4-byte little-endian length before each element) into its elements.

    Raises:
        InferenceError: INVALID_ARGUMENT; a length leaves the data, or the count is not expected.
    """
    view = memoryview(data).cast("B")
    elements: list[bytes] = []
    offset, total = 0, len(view)
    while offset < total:
        # Not walked further than it must be: millions of empty elements fit into one message.
        if len(elements) == expected:
            raise invalid(
                f"The BYTES input '{name}' has more elements than the {expected} of its shape."
            )
        if offset + 4 > total:
            raise invalid(
                f"The BYTES input '{name}' ends inside the length of element {len(elements)}."
            )
        (length,) = struct.unpack_from("<I", view, offset)
        offset += 4
        if length > total - offset:
            raise invalid(
                f"Element {len(elements)} of the BYTES input '{name}' says that it has {length} "
                f"bytes; {total - offset} are left."
            )
        elements.append(bytes(view[offset : offset + length]))
        offset += length
    if len(elements) != expected:
        raise invalid(
            f"The BYTES input '{name}' has {len(elements)} elements; its shape says {expected}."
        )
    return elements


def _mismatch(
    tensors: Sequence[Tensor], specs: Sequence[TensorSpec]
) -> tuple[int, InferenceError] | None:
    """What is wrong, and how far the checks came; a larger number is a closer set."""
    wanted = {spec.name: spec for spec in specs}
    expects = ", ".join(wanted)
    # A set that shares more names with the request is closer.
    shared = sum(tensor.name in wanted for tensor in tensors) * 4
    for tensor in tensors:
        if tensor.name not in wanted:
            return shared, invalid(
                f"The model has no input '{tensor.name}'.", hint=f"It takes {expects}."
            )
    missing = [name for name in wanted if name not in {tensor.name for tensor in tensors}]
    if missing:
        return shared + 1, invalid(
            f"The input '{missing[0]}' is missing.", hint=f"The model takes {expects}."
        )
    for tensor in tensors:
        spec = wanted[tensor.name]
        if tensor.datatype != spec.datatype:
            return shared + 2, invalid(
                f"The input '{tensor.name}' has datatype {tensor.datatype}; the model takes "
                f"{spec.datatype}."
            )
        if not _shape_fits(tensor.shape, spec.shape):
            return shared + 3, invalid(
                f"The input '{tensor.name}' has shape {list(tensor.shape)}; the model takes "
                f"{list(spec.shape)}.",
                hint="-1 stands for any size of at least 1.",
            )
    return None


def _shape_fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    # Zero rows are refused like any other wrong size: there is nothing to answer.
    return len(shape) == len(wanted) and all(
        size >= 1 and want in (-1, size) for size, want in zip(shape, wanted, strict=True)
    )


def _check_size(tensor: Tensor) -> None:
    count = 1
    for size in tensor.shape:
        count *= size
    if count > _MAX_ELEMENTS:
        raise invalid(f"The input '{tensor.name}' has shape {list(tensor.shape)}: too large.")
    width = DATATYPE_BYTES.get(tensor.datatype)
    if width is None:
        return  # BYTES: the task splits it, which checks it.
    given = memoryview(tensor.data).nbytes
    if given != count * width:
        raise invalid(
            f"The input '{tensor.name}' has {given} bytes; shape {list(tensor.shape)} of "
            f"{tensor.datatype} needs {count * width}."
        )
