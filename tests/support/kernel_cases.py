"""Cases that every product of activations and quantized weights has to pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from deepseek_kernels.configuration import KernelConfig
from deepseek_kernels.quantize import quantize_weight
from deepseek_kernels.weights import QuantizedWeight

from tests.support.kernels import assert_near, random_matrix, strided

Product = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One product."""

    M: int
    N: int
    K: int
    dtype: torch.dtype = torch.float16
    bias: bool = False
    gelu: bool = False
    split_k: int = 1

    def __str__(self) -> str:
        extras = [str(self.dtype).removeprefix("torch.")]
        extras += ["bias"] * self.bias + ["gelu"] * self.gelu
        extras += [f"split {self.split_k}"] * (self.split_k > 1)
        return f"{self.M}x{self.N}x{self.K} {' '.join(extras)}"

    def x(self, seed: int = 1) -> torch.Tensor:
        """Activations ``[M, K]``."""
        return random_matrix(self.M, self.K, seed=seed, dtype=self.dtype)

    def weight(self, seed: int = 2, **options: Any) -> QuantizedWeight:
        """A quantized weight ``[N, K]`` of about unit products."""
        return quantize_weight(random_matrix(self.N, self.K, seed=seed) / self.K**0.5, **options)

    def ending(self) -> dict[str, Any]:
        """Bias and GELU as arguments."""
        bias = random_matrix(1, self.N, seed=3, dtype=self.dtype)[0] if self.bias else None
        return {"bias": bias, "gelu": self.gelu}


# Sizes around tiles and groups: one, one less, one more, primes, nothing that fits twice.
FEW_TOKENS = [
    Case(1, 1, 1),
    Case(1, 33, 70, bias=True),
    Case(2, 65, 128, gelu=True),
    Case(3, 33, 257, dtype=torch.float32, bias=True, gelu=True),
    Case(5, 31, 384, split_k=2, bias=True, gelu=True),
    Case(8, 17, 320, dtype=torch.float32, split_k=2),
]
MANY_TOKENS = [
    Case(9, 1, 1),
    Case(16, 64, 128, bias=True),
    Case(17, 65, 70, gelu=True),
    Case(33, 65, 257, bias=True, gelu=True),
    Case(33, 70, 384, dtype=torch.float32, split_k=2, bias=True, gelu=True),
    Case(64, 33, 320, split_k=3),
]
LARGE = [
    Case(1, 1, 1),
    Case(33, 65, 70, bias=True),
    Case(64, 64, 128, gelu=True),
    Case(65, 129, 257, dtype=torch.float32, bias=True, gelu=True),
    Case(3, 130, 384),
]
SMALL_TILES = KernelConfig(block_m=16, block_n=32, block_k=128, group_m=2)


def check(launch: Product, reference: Product, case: Case, weight: QuantizedWeight) -> None:
    """Hold a kernel to the float64 reference on the same quantized weight."""
    config = KernelConfig(block_m=16, block_n=32, block_k=128, split_k=case.split_k, group_m=2)
    actual = launch(case.x(), weight, **case.ending(), config=config)
    assert actual.dtype == case.dtype
    expected = reference(case.x(), weight, **case.ending(), accumulate=torch.float64)
    assert_near(actual, expected)


def check_strided(launch: Product, case: Case, weight: QuantizedWeight, **strides: int) -> None:
    """Rows that lie apart and start at odd addresses give the same bits as contiguous ones."""
    x = case.x()
    apart = strided(x, **strides)
    assert torch.equal(apart, x)
    expected = launch(x, weight, config=SMALL_TILES)
    assert torch.equal(launch(apart, weight, config=SMALL_TILES), expected)
    turned = x.T.contiguous().T
    assert torch.equal(launch(turned, weight, config=SMALL_TILES), expected)
