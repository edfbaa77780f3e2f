"""Products with 2:4 sparse weights by cuSPARSELt where that is faster, else dense.

Why it exists: 2:4 weights are 0.56 of the bytes and up to twice the rate of tensor cores, but
whether a GPU gets there depends on the shape: torch's cuSPARSELt is slower than the dense product
for some on an H100 (PyTorch 153825). So both are measured once for each number of rows, rounded up
to a power of two, and the faster one is kept to. ``explain`` says which, why, and the two times. On
a CPU the product is dense over the pruned weights.

Pruning is ``deepseek_kernels.ops.semi_structured``. One object is not for several threads: a
product may measure and remember.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from deepseek_kernels.errors import KernelArgumentError, KernelUnavailableError
from deepseek_kernels.ops.elementwise import check_float, check_like

__all__ = ["Choice", "CuSparseLt", "SemiStructuredWeight", "SparseProduct", "median_ms"]

Route = Literal["auto", "cusparselt", "dense"]
_MARGIN = 0.97
"""The part of the dense time that the sparse product may take at most to be chosen: noise between
two equal times must not choose it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How products with a number of rows are computed, and why."""

    route: Literal["cusparselt", "dense"]
    reason: str
    sparse_ms: float | None = None
    dense_ms: float | None = None


class SparseProduct(Protocol):
    """Compressed 2:4 weights ``[N, K]`` that can be multiplied with."""

    @property
    def nbytes(self) -> int:
        """Bytes of the compressed weights."""

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply ``x [M, K]``; gives ``[M, N]`` of the type of x."""

    def tune(self, x: Tensor) -> None:
        """Find the best way to multiply so many rows."""


class CuSparseLt:
    """Compressed weights and product of the cuSPARSELt that torch carries."""

    ROWS = 8
    """16-bit types take multiples of so many rows; x is padded to one."""
    MULTIPLE = 16
    """N and K must be multiples of it."""

    def __init__(self, pruned: Tensor) -> None:
        self._compressed = torch._cslt_compress(pruned)
        self._algorithms: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that stayed and of their positions."""
        return self._compressed.nbytes

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply ``x [M, K]``; gives ``[M, N]``."""
        padded = self._padded(x)
        product = torch._cslt_sparse_mm(
            self._compressed,
            padded.t(),
            bias=bias,
            transpose_result=True,
            alg_id=self._algorithms.get(_bucket(len(x)), 0),
        )
        return product[: len(x)]

    def tune(self, x: Tensor) -> None:
        """Let cuSPARSELt search its algorithms for this number of rows."""
        found = torch._cslt_sparse_mm_search(
            self._compressed, self._padded(x).t(), transpose_result=True
        )
        self._algorithms[_bucket(len(x))] = int(found)

    def _padded(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, -len(x) % self.ROWS)).contiguous()


def obstacle(weight: Tensor) -> str | None:
    """Why cuSPARSELt cannot take these weights here, or None if it can."""
    if weight.device.type != "cuda":
        return f"the weights are on {weight.device.type}; cuSPARSELt needs an NVIDIA GPU"
    if not torch.backends.cusparselt.is_available():
        return "this torch is built without cuSPARSELt"
    if torch.cuda.get_device_capability(weight.device) < (8, 0):
        return "the GPU has no sparse tensor cores; they came with compute capability 8.0"
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return f"the weights are {weight.dtype}; cuSPARSELt is used for float16 and bfloat16"
    if any(size % CuSparseLt.MULTIPLE for size in weight.shape):
        return (
            f"the weights are {list(weight.shape)}; N and K must be multiples of "
            f"{CuSparseLt.MULTIPLE}"
        )
    return None


def median_ms(run: Callable[[], object]) -> float:
    """Milliseconds of one call on the current GPU: the median of 20, after 5 to warm up."""
    for _ in range(5):
        run()
    times = []
    for _ in range(20):
        start, end = _event(), _event()
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(float(start.elapsed_time(end)))
    return sorted(times)[len(times) // 2]


class SemiStructuredWeight:
    """2:4 sparse weights ``[N, K]``; called with x ``[..., K]`` they give ``[..., N]``.

    With the route ``auto`` on a GPU both forms are kept, which takes 1.56 times the bytes of dense
    weights: the faster one differs with the number of rows. The route ``cusparselt`` keeps the
    compressed form only.

    Args:
        weight: float32, float16 or bfloat16 with at most two numbers other than zero in every four
            along K.
        route: ``auto`` measures; the others decide.
        find_obstacle: says why the sparse product cannot be had for a weight.
        compress: makes the sparse product.
        time_ms: times a call.

    Raises:
        KernelArgumentError: the weights are no matrix, of another type, or not 2:4 sparse.
        KernelUnavailableError: ``cusparselt`` is asked for and cannot be had; it says why.
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        route: Route = "auto",
        find_obstacle: Callable[[Tensor], str | None] = obstacle,
        compress: Callable[[Tensor], SparseProduct] = CuSparseLt,
        time_ms: Callable[[Callable[[], object]], float] = median_ms,
    ) -> None:
        _check_pattern(weight)
        weight = weight.detach()
        if route not in ("auto", "cusparselt", "dense"):
            raise KernelArgumentError(f"route: {route!r}; write auto, cusparselt or dense")
        self._route, self._time_ms = route, time_ms
        self._obstacle = None if route == "dense" else find_obstacle(weight)
        if route == "cusparselt" and self._obstacle:
            raise KernelUnavailableError(f"cuSPARSELt cannot be used: {self._obstacle}")
        use_sparse = route != "dense" and self._obstacle is None
        self._sparse = compress(weight.contiguous()) if use_sparse else None
        self._dense = None if route == "cusparselt" else weight
        self._like = weight.new_empty((0,))
        self._choices: dict[int, Choice] = {}
        self.shape = (weight.shape[0], weight.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the forms that are kept."""
        return sum(0 if form is None else form.nbytes for form in (self._dense, self._sparse))

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply ``x [..., K]`` and add ``bias [N]``.

        Raises:
            KernelArgumentError: shapes, types or devices do not fit.
        """
        outputs, size = self.shape
        if x.dim() == 0:
            raise KernelArgumentError(f"x: is a single number; give [..., {size}]")
        check_like("x", x, (*x.shape[:-1], size), self._like)
        if x.dtype != self._like.dtype:
            raise KernelArgumentError(f"x: is {x.dtype}; convert it to {self._like.dtype}")
        if bias is not None:
            check_like("bias", bias, (outputs,), self._like)
        rows = x.reshape(-1, size)
        if len(rows) == 0:
            return x.new_empty((*x.shape[:-1], outputs))
        if self.explain(len(rows)).route == "cusparselt":
            assert self._sparse is not None
            product = self._sparse(rows, bias)
        else:
            assert self._dense is not None
            product = torch.nn.functional.linear(rows, self._dense, bias)
        return product.reshape(*x.shape[:-1], outputs)

    def explain(self, rows: int) -> Choice:
        """How x with so many rows is multiplied; measures when that is not known yet.

        While a CUDA graph is captured nothing can be measured: the answer is then ``dense``, and
        not remembered.
        """
        if self._sparse is None:
            return Choice("dense", self._obstacle or "the route dense was asked for")
        if self._dense is None:
            return Choice("cusparselt", "the route cusparselt was asked for")
        bucket = _bucket(rows)
        if bucket not in self._choices:
            if self._like.is_cuda and torch.cuda.is_current_stream_capturing():
                return Choice("dense", "not measured before a CUDA graph was captured")
            self._choices[bucket] = self._measure(bucket, self._sparse, self._dense)
        return self._choices[bucket]

    def _measure(self, rows: int, sparse: SparseProduct, dense: Tensor) -> Choice:
        # Zeros would flatter both: they switch fewer transistors.
        x = torch.randn((rows, self.shape[1]), dtype=dense.dtype, device=dense.device)
        try:
            sparse.tune(x)
            sparse_ms = self._time_ms(lambda: sparse(x, None))
        except RuntimeError as error:
            return Choice("dense", f"cuSPARSELt failed for {rows} rows: {error}")
        dense_ms = self._time_ms(lambda: torch.nn.functional.linear(x, dense))
        if sparse_ms <= _MARGIN * dense_ms:
            return Choice("cusparselt", f"faster for {rows} rows", sparse_ms, dense_ms)
        return Choice("dense", f"cuSPARSELt is not faster for {rows} rows", sparse_ms, dense_ms)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _check_pattern(weight: Tensor) -> None:
    check_float("weight", weight)
    if weight.dim() != 2 or weight.shape[1] % 4 or 0 in weight.shape:
        raise KernelArgumentError(
            f"weight: has the shape {list(weight.shape)}; give [N, K] with K a multiple of 4"
        )
    if bool(((weight.reshape(-1, 4) != 0).sum(dim=1) > 2).any()):
        raise KernelArgumentError(
            "weight: has more than two numbers other than zero in a group of four; use prune_2_4"
        )


def _bucket(rows: int) -> int:
    return 1 << max(0, math.ceil(math.log2(rows)))
