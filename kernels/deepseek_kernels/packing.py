"""Eight 4-bit values in one int32 word: the layout of checkpoints and the layout of kernels.

Why it exists: a checkpoint keeps int4 weights as compressed-tensors' "pack-quantized" format does,
and every reader, writer and kernel of this project agrees on it through this module. Values are
stored as ``value + 8`` (offset binary), the first value of a word in its lowest four bits.

``tile_int4`` rearranges words for GPUs. In a checkpoint's row the eight values of a word are
neighbours along K, so that the lowest four bits of neighbouring words are eight apart. In a tiled
row, 128 values make 16 words, and the j-th four bits of word w hold value ``16 j + w``: what
neighbouring threads take out of neighbouring words is neighbouring along K, and activations are
read in runs of 16.

Not for speed: packing happens when a model is prepared or loaded, never for each request.
"""

from __future__ import annotations

import torch

from deepseek_kernels.errors import KernelArgumentError

__all__ = ["PER_WORD", "TILE", "pack_int4", "tile_int4", "unpack_int4", "untile_int4"]

PER_WORD = 8
"""Values in an int32."""
TILE = 128
"""Values along K that one tile rearranges among its 16 words."""
_WORDS = TILE // PER_WORD
_OFFSET = 8


def pack_int4(values: torch.Tensor) -> torch.Tensor:
    """Pack int8 ``[N, K]`` with values in [-8, 7] into int32 ``[N, ceil(K / 8)]``.

    What fills up the last word is 0 bits, as compressed-tensors has it.

    Raises:
        KernelArgumentError: not a matrix of int8, an empty one, or a value out of range.
    """
    _require_matrix("values", values, torch.int8)
    if not bool(((values >= -_OFFSET) & (values < _OFFSET)).all()):
        raise KernelArgumentError("values: not all lie in [-8, 7]; round and clamp them first")
    return _to_words(_pad((values + _OFFSET).view(torch.uint8), PER_WORD))


def unpack_int4(packed: torch.Tensor, K: int) -> torch.Tensor:
    """Return the int8 ``[N, K]`` that ``pack_int4`` packed into int32 ``[N, ceil(K / 8)]``.

    Raises:
        KernelArgumentError: not a matrix of int32, or another number of words than K needs.
    """
    _require_words("packed", packed, K, -(-K // PER_WORD))
    return _nibbles(packed)[:, :K].view(torch.int8) - _OFFSET


def tile_int4(packed: torch.Tensor) -> torch.Tensor:
    """Rearrange packed rows int32 ``[N, W]`` into tiles, int32 ``[N, 16 ceil(W / 16)]``.

    What fills up the last tile is 0 bits.

    Raises:
        KernelArgumentError: not a matrix of int32, or an empty one.
    """
    _require_matrix("packed", packed, torch.int32)
    nibbles = _nibbles(_pad(packed, _WORDS))
    by_plane = nibbles.view(len(packed), -1, PER_WORD, _WORDS)
    return _to_words(by_plane.transpose(2, 3).flatten(1))


def untile_int4(tiled: torch.Tensor, K: int) -> torch.Tensor:
    """Return the packed rows int32 ``[N, ceil(K / 8)]`` of which ``tile_int4`` made ``tiled``.

    Raises:
        KernelArgumentError: not a matrix of int32, or another number of words than K needs.
    """
    _require_words("tiled", tiled, K, -(-K // TILE) * _WORDS)
    by_word = _nibbles(tiled).view(len(tiled), -1, _WORDS, PER_WORD)
    return _to_words(by_word.transpose(2, 3).flatten(1))[:, : -(-K // PER_WORD)].contiguous()


def _require_matrix(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    if tensor.ndim != 2 or tensor.dtype != dtype or not tensor.numel():
        raise KernelArgumentError(
            f"{name}: is {tensor.dtype} {list(tensor.shape)}; give a matrix of {dtype}"
        )


def _require_words(name: str, words: torch.Tensor, K: int, needed: int) -> None:
    _require_matrix(name, words, torch.int32)
    if words.shape[1] != needed:
        raise KernelArgumentError(
            f"{name}: has {words.shape[1]} words a row, K={K} makes {needed}; "
            "give the K that was packed"
        )


def _pad(matrix: torch.Tensor, multiple: int) -> torch.Tensor:
    """Add columns of 0 up to a multiple."""
    return torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % multiple))


def _to_words(nibbles: torch.Tensor) -> torch.Tensor:
    """Uint8 ``[N, 8 W]`` in [0, 15] -> int32 ``[N, W]``, on hosts with little-endian words."""
    return _rows(nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).view(torch.int32)


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """Int32 ``[N, W]`` -> uint8 ``[N, 8 W]`` in [0, 15]."""
    octets = _rows(words).view(torch.uint8)
    return torch.stack((octets & 15, octets >> 4), dim=-1).flatten(1)


def _rows(matrix: torch.Tensor) -> torch.Tensor:
    """The same with the strides of rows, without which torch reads no other width.

    ``contiguous`` lets any stride of a dimension of one pass, as a transposed column has it.
    """
    return matrix.flatten().view(matrix.shape)
