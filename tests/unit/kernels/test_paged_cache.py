"""The layout of the paged cache: what it is made of, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.paged_cache import PagedCache

INT8, FP8 = torch.int8, torch.float8_e4m3fn


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, FP8, INT8], ids=str
)
def test_what_is_written_is_read_by_block(dtype: torch.dtype) -> None:
    cache = PagedCache.allocate(3, 2, 1, 4, dtype=dtype)
    assert (cache.blocks, cache.block_size, cache.kv_heads, cache.head_dim) == (3, 2, 1, 4)
    rows = torch.tensor([[[1.0, -2, 0.5, 0]], [[4.0, 0, 0, 0]]])
    cache.write(rows, -rows, torch.tensor([3, 4]))
    keys, values = cache.gather(torch.tensor([[2, 1]]), torch.float32)
    assert keys.shape == (1, 2, 2, 1, 4)
    expected = torch.zeros(1, 2, 2, 1, 4)
    expected[0, 1, 1], expected[0, 0, 0] = rows[0], rows[1]
    torch.testing.assert_close(keys, expected, rtol=0, atol=0.01)
    assert torch.equal(values, -keys)


def test_an_int8_position_has_a_scale_for_each_head() -> None:
    cache = PagedCache.allocate(1, 2, 2, 2, dtype=INT8)
    rows = torch.tensor([[[127.0, 1.0], [0.0, 254.0]]])
    cache.write(rows, rows * 2, torch.tensor([1]))
    assert cache.key_scale is not None
    assert cache.value_scale is not None
    assert cache.key_scale[0].tolist() == [[1, 1], [1, 2]]
    assert cache.value_scale[0].tolist() == [[1, 1], [2, 4]]
    assert cache.keys[0, 1].tolist() == [[127, 1], [0, 127]]


KEYS = torch.zeros(2, 4, 2, 8)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ((KEYS[0], KEYS[0]), r"keys: is torch.float32 \[4, 2, 8\]; give .* \[blocks, block_size"),
        ((KEYS.int(), KEYS.int()), "keys: is torch.int32"),
        ((KEYS, KEYS[:1]), r"values: is .* \[1, 4, 2, 8\] on cpu; give .* \[2, 4, 2, 8\] on cpu"),
        ((KEYS, KEYS.half()), "values: is torch.float16"),
        ((KEYS.transpose(1, 2), KEYS.transpose(1, 2)), "keys: is not contiguous"),
        ((KEYS, KEYS, torch.ones(1)), "key_scale: the cache is torch.float32; give none"),
        ((KEYS.to(INT8), KEYS.to(INT8)), "key_scale: the cache is torch.int8; give one"),
        (
            (KEYS.to(INT8), KEYS.to(INT8), torch.ones(2, 4, 2), torch.ones(1)),
            r"value_scale: is torch.float32 \[1\] on cpu; give torch.float32 \[2, 4, 2\]",
        ),
        (
            (KEYS.to(FP8), KEYS.to(FP8), torch.ones(()), torch.ones(1)),
            r"key_scale: .* give .*\[1\]",
        ),
    ],
    ids=["axes", "type", "shape", "types", "layout", "needless", "missing", "int8", "fp8"],
)
def test_what_does_not_fit_is_named(tensors: tuple[Any, ...], message: str) -> None:
    with pytest.raises(KernelArgumentError, match=message):
        PagedCache(*tensors)
