"""A quantized weight as the tensors of a checkpoint, and back.

Why it exists: the names and layouts are those of compressed-tensors (pack-quantized, int-, float-
and naive-quantized), which vLLM and transformers read. In memory a weight has the layout that
kernels take. Filters of convolutions, which that format does not know, are stored like its naive
format: int8 in their own shape and scales that broadcast to it.

Imports torch; import it only where a torch variant is opened or made.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from deepseek_api.errors import SourceError
from deepseek_kernels.packing import pack_int4, unpack_int4, untile_int4
from deepseek_kernels.weights import QuantizedWeight
from deepseek_kernels.weights import Scheme as KernelScheme

from deepseek_engine.quant.blocks import Int8BlockWeight, LayerWeight
from deepseek_engine.quant.schemes import Granularity, Scheme, WeightFormat
from deepseek_engine.quant.tensor_files import TensorSpec

PACKED, DATA = "weight_packed", "weight"
SCALE, ZERO, SHAPE = "weight_scale", "weight_zero_point", "weight_shape"
PARTS = (PACKED, SCALE, ZERO, SHAPE)
"""Names that only a quantized weight has."""


def encoded_specs(scheme: Scheme, shape: tuple[int, ...]) -> dict[str, TensorSpec]:
    """What `encode` gives for a weight of a shape (output features first), without its numbers."""
    rows = shape[0]
    if len(shape) > 2:
        scales = (rows, *[1] * (len(shape) - 1))
        return {
            DATA: TensorSpec(torch.int8, shape),
            SCALE: TensorSpec(torch.float32, scales),
        }
    columns = shape[1]
    if scheme.format is not WeightFormat.PACKED:
        dtype = torch.int8 if scheme.kind == "int" else torch.float8_e4m3fn
        found = {DATA: TensorSpec(dtype, shape)}
        if scheme.block is None:
            found[SCALE] = TensorSpec(torch.float32, (rows, 1))
        else:
            blocks = (-(-rows // scheme.block[0]), -(-columns // scheme.block[1]))
            found[SCALE] = TensorSpec(torch.float32, blocks)
        return found
    found = {
        PACKED: TensorSpec(torch.int32, (rows, -(-columns * scheme.bits // 32))),
        SHAPE: TensorSpec(torch.int64, (2,)),
    }
    if scheme.granularity is Granularity.ROW:
        found[SCALE] = TensorSpec(torch.float32, (rows, 1))
        return found
    groups = columns // scheme.group_size
    found[SCALE] = TensorSpec(torch.bfloat16, (rows, groups))
    if not scheme.symmetric:
        found[ZERO] = TensorSpec(torch.int32, (-(-rows // 8), groups))
    return found


def encode(
    weight: LayerWeight, scheme: Scheme, shape: tuple[int, ...] = ()
) -> dict[str, torch.Tensor]:
    """The tensors of a weight by their names behind the layer's.

    Args:
        weight: ``[N, K]``.
        scheme: its scheme.
        shape: of the layer's weight with output features first, if it has more dimensions.
    """
    if len(shape) > 2:
        scale = weight.scale.reshape(-1, *[1] * (len(shape) - 1))
        return {DATA: weight.data.reshape(shape), SCALE: scale.float()}
    if scheme.format is not WeightFormat.PACKED:
        return {DATA: weight.data, SCALE: weight.scale}
    found = {
        PACKED: _words(weight) if scheme.bits == 4 else pack_int8(weight.data),
        SCALE: _short(weight.scale) if scheme.bits == 4 else weight.scale,
        SHAPE: torch.tensor(weight.shape, dtype=torch.int64),
    }
    if weight.zero_point is not None:
        found[ZERO] = pack_int4(_turned(weight.zero_point)).t().contiguous()
    return found


def decode(parts: Mapping[str, torch.Tensor], scheme: Scheme, layer: str) -> LayerWeight:
    """The weight of a layer from its tensors; the inverse of `encode`.

    Raises:
        SourceError: a tensor is missing, of another type or of another shape than the scheme wants,
            or a scale is NaN or infinite.
    """
    if SCALE in parts and not bool(torch.isfinite(parts[SCALE]).all()):
        raise _wrong(layer, SCALE, "it holds NaN or infinity")
    if parts.get(DATA) is not None and parts[DATA].ndim > 2:
        return _decode_filters(parts, layer)
    packed = PACKED in parts
    shape = _matrix_shape(parts, scheme, layer, packed=packed)
    scale = _part(parts, SCALE, layer)
    zero_point = None
    if packed:
        words = _part(parts, PACKED, layer)
        _expect(words, torch.int32, (shape[0], -(-shape[1] * scheme.bits // 32)), PACKED, layer)
        data = words if scheme.bits == 4 else unpack_int8(words, shape[1])
    else:
        data = _part(parts, DATA, layer)
        _expect(
            data, torch.int8 if scheme.kind == "int" else torch.float8_e4m3fn, shape, DATA, layer
        )
    if scheme.granularity is Granularity.GROUP:
        grid = (shape[0], shape[1] // scheme.group_size)
        _expect(scale, None, grid, SCALE, layer)
        if not scheme.symmetric:
            zero_point = _unpacked_zero_point(_part(parts, ZERO, layer), grid, layer)
    elif scheme.block is not None:
        blocks = (-(-shape[0] // scheme.block[0]), -(-shape[1] // scheme.block[1]))
        _expect(scale, None, blocks, SCALE, layer)
    else:
        _expect(scale.reshape(-1, 1), None, (shape[0], 1), SCALE, layer)
        scale = scale.reshape(-1, 1)
    return _weight(scheme, data, scale, zero_point, shape)


def _weight(
    scheme: Scheme,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    shape: tuple[int, int],
) -> LayerWeight:
    if scheme.kind == "int" and scheme.block is not None:
        return Int8BlockWeight(data=data, scale=scale.float(), block=scheme.block)
    return QuantizedWeight(
        scheme=_kernel_scheme(scheme),
        data=data,
        scale=scale.float(),
        zero_point=zero_point,
        group_size=scheme.group_size,
        shape=shape,
    )


def _kernel_scheme(scheme: Scheme) -> KernelScheme:
    if scheme.kind == "int":
        return "int4" if scheme.bits == 4 else "int8"
    return "fp8-block" if scheme.block else "fp8"


def _decode_filters(parts: Mapping[str, torch.Tensor], layer: str) -> QuantizedWeight:
    """Filters in their own shape, with a scale for each index of the first dimension."""
    data, scale = parts[DATA], _part(parts, SCALE, layer)
    _expect(scale, None, (len(data), *[1] * (data.ndim - 1)), SCALE, layer)
    _expect(data, torch.int8, tuple(data.shape), DATA, layer)
    matrix = data.flatten(1)
    return QuantizedWeight(
        scheme="int8",
        data=matrix,
        scale=scale.reshape(-1, 1).float(),
        zero_point=None,
        group_size=0,
        shape=(matrix.shape[0], matrix.shape[1]),
    )


def _matrix_shape(
    parts: Mapping[str, torch.Tensor], scheme: Scheme, layer: str, *, packed: bool
) -> tuple[int, int]:
    shape = _part(parts, SHAPE, layer).tolist() if packed else _part(parts, DATA, layer).shape
    if len(shape) != 2 or min(shape) < 1:
        raise _wrong(layer, SHAPE if packed else DATA, f"{list(shape)} is not the shape [N, K]")
    if scheme.group_size and shape[1] % scheme.group_size:
        raise _wrong(layer, SHAPE, f"K = {shape[1]} is no multiple of {scheme.group_size}")
    return int(shape[0]), int(shape[1])


def _unpacked_zero_point(stored: torch.Tensor, grid: tuple[int, int], layer: str) -> torch.Tensor:
    _expect(stored, torch.int32, (-(-grid[0] // 8), grid[1]), ZERO, layer)
    return unpack_int4(_turned(stored), grid[0]).t().contiguous()


def _turned(matrix: torch.Tensor) -> torch.Tensor:
    # A copy: of a single column, `contiguous` keeps strides that cannot be viewed as words.
    return matrix.t().clone(memory_format=torch.contiguous_format)


def _words(weight: LayerWeight) -> torch.Tensor:
    """Packed int4 values in the order of checkpoints."""
    if isinstance(weight, QuantizedWeight) and weight.layout == "tiles":
        return untile_int4(weight.data, weight.shape[1])
    return weight.data


def _short(scale: torch.Tensor) -> torch.Tensor:
    """Scales in bf16 where that loses nothing, as it is for those that preparing chooses."""
    short = scale.to(torch.bfloat16)
    return short if torch.equal(short.float(), scale) else scale


def pack_int8(values: torch.Tensor) -> torch.Tensor:
    """int8 ``[N, K]`` as int32 ``[N, ceil(K / 4)]``: offset binary, lowest byte first."""
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % 4), value=-128)
    return (padded.view(torch.uint8) ^ 128).view(torch.int32)


def unpack_int8(words: torch.Tensor, columns: int) -> torch.Tensor:
    """The inverse of `pack_int8`."""
    values = (words.contiguous().view(torch.uint8) ^ 128).view(torch.int8)
    return values[:, :columns].contiguous()


def _part(parts: Mapping[str, torch.Tensor], name: str, layer: str) -> torch.Tensor:
    try:
        return parts[name]
    except KeyError:
        raise SourceError(
            f"The layer '{layer}' of this checkpoint has no tensor '{name}'.",
            hint="Fetch the checkpoint again, or quantize the original weights again.",
            reason="TensorMissing",
        ) from None


def _expect(
    tensor: torch.Tensor,
    dtype: torch.dtype | None,
    shape: tuple[int, ...],
    name: str,
    layer: str,
) -> None:
    if tuple(tensor.shape) != shape:
        raise _wrong(layer, name, f"the shape is {list(tensor.shape)}, not {list(shape)}")
    if tensor.dtype != dtype and not (dtype is None and tensor.dtype.is_floating_point):
        raise _wrong(layer, name, f"the type is {tensor.dtype}, not {dtype or 'floating point'}")


def _wrong(layer: str, name: str, what: str) -> SourceError:
    return SourceError(
        f"The tensor '{name}' of the layer '{layer}' does not fit its scheme: {what}.",
        hint="Fetch the checkpoint again, or quantize the original weights again.",
        reason="TensorShapeWrong",
    )
