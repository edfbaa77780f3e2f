"""Four-bit values in words: nothing is lost, and checkpoints are read as others write them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.packing import pack_int4, tile_int4, unpack_int4, untile_int4
from hypothesis import given
from hypothesis import strategies as st

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 300))


def random_values(shape: tuple[int, int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 8, shape, generator=generator, dtype=torch.int8)


def turned(matrix: torch.Tensor) -> torch.Tensor:
    """The same values with the strides that a transposed matrix has."""
    return matrix.t().clone(memory_format=torch.contiguous_format).t()


@given(shape=SHAPES, seed=st.integers(0, 99))
def test_unpacking_gives_back_what_was_packed(shape: tuple[int, int], seed: int) -> None:
    values = random_values(shape, seed)
    packed = pack_int4(values)
    assert packed.shape == (shape[0], -(-shape[1] // 8))
    assert torch.equal(unpack_int4(packed, shape[1]), values)


@given(words=st.integers(0, 2**32 - 1))
def test_packing_gives_back_what_was_unpacked(words: int) -> None:
    packed = torch.tensor([[words - (words >> 31 << 32)]], dtype=torch.int32)
    assert torch.equal(pack_int4(unpack_int4(packed, 8)), packed)


@given(shape=SHAPES, seed=st.integers(0, 99))
def test_untiling_gives_back_what_was_tiled(shape: tuple[int, int], seed: int) -> None:
    packed = pack_int4(random_values(shape, seed))
    assert torch.equal(untile_int4(tile_int4(packed), shape[1]), packed)


@pytest.mark.parametrize("shape", [(1, 16), (1, 13), (16, 1), (3, 16)], ids=str)
def test_transposed_matrices_are_packed_as_others_are(shape: tuple[int, int]) -> None:
    values = random_values(shape, 0)
    transposed = turned(values)
    assert torch.equal(pack_int4(transposed), pack_int4(values))


@pytest.mark.parametrize("rows", [1, 5])
def test_transposed_words_are_unpacked_as_others_are(rows: int) -> None:
    packed = pack_int4(random_values((rows, 8), 0))
    transposed = turned(packed)
    assert torch.equal(unpack_int4(transposed, 8), unpack_int4(packed, 8))
    assert torch.equal(tile_int4(transposed), tile_int4(packed))


def test_the_first_value_is_in_the_lowest_bits_and_minus_eight_is_zero() -> None:
    values = torch.tensor([[-8, -7, 7, 0, 1, 2, 3, -1, 5]], dtype=torch.int8)
    assert [word & 0xFFFFFFFF for word in pack_int4(values)[0].tolist()] == [0x7BA98F10, 0x0000000D]


def test_in_a_tile_neighbouring_words_hold_neighbouring_values() -> None:
    values = (torch.arange(256) % 15 - 7).to(torch.int8)[None]
    tiled = tile_int4(pack_int4(values))[0]
    for block, plane, word in [(0, 0, 0), (0, 0, 1), (0, 7, 15), (1, 0, 0), (1, 3, 9)]:
        stored = (int(tiled[16 * block + word]) >> (4 * plane)) & 15
        assert stored - 8 == int(values[0, 128 * block + 16 * plane + word])


def compressed_tensors_helpers() -> Any:
    """The package's module alone: importing the whole package imports transformers too."""
    package = importlib.util.find_spec("compressed_tensors")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "compressors/pack_quantized/helpers.py")
    spec = importlib.util.spec_from_file_location("pack_quantized_helpers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 31, 32, 33, 64, 128, 300])
def test_compressed_tensors_packs_and_unpacks_the_same_words(columns: int) -> None:
    oracle = compressed_tensors_helpers()
    values = random_values((5, columns), columns)
    packed = pack_int4(values)
    assert torch.equal(packed, oracle.pack_to_int32(values, 4))
    unpacked = oracle.unpack_from_int32(packed, 4, values.shape)
    assert torch.equal(unpacked, unpack_int4(packed, columns))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_int4(torch.full((1, 8), 8, dtype=torch.int8)), "values: not all lie in"),
        (lambda: pack_int4(torch.full((1, 8), -9, dtype=torch.int8)), "values: not all lie in"),
        (lambda: pack_int4(torch.zeros(1, 8, dtype=torch.int32)), "values: is torch.int32"),
        (lambda: pack_int4(torch.zeros(8, dtype=torch.int8)), r"values: is torch.int8 \[8\]"),
        (lambda: pack_int4(torch.zeros(0, 8, dtype=torch.int8)), r"values: is torch.int8 \[0, 8\]"),
        (lambda: unpack_int4(torch.zeros(1, 2, dtype=torch.int32), 17), "K=17 makes 3"),
        (lambda: unpack_int4(torch.zeros(1, 2, dtype=torch.int8), 16), "packed: is torch.int8"),
        (lambda: untile_int4(torch.zeros(1, 15, dtype=torch.int32), 128), "K=128 makes 16"),
    ],
    ids=[
        "above",
        "below",
        "dtype",
        "vector",
        "empty",
        "too few words",
        "no words",
        "part of a tile",
    ],
)
def test_what_cannot_be_packed_is_named(call: Callable[[], torch.Tensor], message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        call()
