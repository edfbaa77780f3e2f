"""Layers whose weight is quantized: the same calls as the layers of torch that they stand for.

Why it exists: a module of transformers or timm is quantized by exchanging its layers, and a
checkpoint is loaded into it in the same way. The weight's tensors are buffers that keep their types
when the module is cast. On a CPU a layer computes what its kernel has to compute, without caching
anything; on CUDA linear layers go through `deepseek_kernels.dispatch`, which is imported then.

All layers are for inference. Inputs of any floating point type are taken, and the output has the
type of the input. Imports torch; import it only where a torch variant is opened or made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from deepseek_kernels.weights import Layout, QuantizedWeight
from deepseek_kernels.weights import Scheme as KernelScheme
from torch import nn

from deepseek_engine.quant.activations import multiply_fp8, multiply_int8
from deepseek_engine.quant.blocks import Int8BlockWeight, LayerWeight
from deepseek_engine.quant.schemes import Scheme, scheme_named


class QuantizedLayer(nn.Module):
    """What all quantized layers have in common: the weight, the bias and how they are moved."""

    STORED = frozenset({"data", "scale", "zero_point"})
    """Names of the buffers that hold the weight."""
    data: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(
        self,
        weight: LayerWeight,
        scheme: Scheme,
        *,
        shape: Sequence[int] = (),
        bias: torch.Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Hold a weight.

        Args:
            weight: ``[N, K]``.
            scheme: how it is quantized.
            shape: of the weight that `weight` gives back; default ``[N, K]``.
            bias: ``[N]`` in floating point.
            dtype: type that `weight` gives back, until the module is cast.
        """
        super().__init__()
        self.scheme = scheme.name
        self.register_buffer("data", weight.data)
        self.register_buffer("scale", weight.scale)
        self.register_buffer("zero_point", weight.zero_point)
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        self._like = torch.empty(0, dtype=dtype)
        self._matrix = tuple(weight.shape)
        self._shape = tuple(shape) or self._matrix
        self._group_size = weight.group_size
        self._kernel_scheme: KernelScheme | None = None
        self._layout: Layout = "rows"
        if isinstance(weight, QuantizedWeight):
            self._kernel_scheme, self._layout = weight.scheme, weight.layout

    @property
    def quantized(self) -> LayerWeight:
        """The weight ``[N, K]`` as kernels take it; shares memory with the layer."""
        if self._kernel_scheme is None:
            block = scheme_named(self.scheme).block
            assert block is not None  # what the scheme means
            return Int8BlockWeight(data=self.data, scale=self.scale, block=block)
        return QuantizedWeight(
            scheme=self._kernel_scheme,
            data=self.data,
            scale=self.scale,
            zero_point=self.zero_point,
            group_size=self._group_size,
            shape=(self._matrix[0], self._matrix[1]),
            layout=self._layout,
        )

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of `weight`."""
        return self._shape

    def use_tiles(self) -> None:
        """Rearrange int4 values once as GPU kernels read them best; other schemes stay."""
        weight = self.quantized
        if isinstance(weight, QuantizedWeight) and weight.scheme == "int4":
            tiled = weight.tiled()
            self.data, self._layout = tiled.data, tiled.layout

    @property
    def weight(self) -> torch.Tensor:
        """The weight in floating point, computed anew at every access.

        Models look at its ``dtype`` and ``shape``; what computes with it gets the right numbers.
        """
        return self._float_weight(self._like.dtype)

    def _float_weight(self, dtype: torch.dtype) -> torch.Tensor:
        return self.quantized.dequantize(dtype).reshape(self._shape)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move like any module, and be cast without touching stored values and scales."""
        kept = {name: self._buffers[name] for name in self.STORED}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._like = fn(self._like)
        for name, before in kept.items():
            after = self._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self

    def extra_repr(self) -> str:
        """Scheme and shape, for printing a module."""
        return f"{self.scheme}, shape={tuple(self._shape)}, bias={self.bias is not None}"


class QuantizedLinear(QuantizedLayer):
    """``y = x W^T + b`` for ``x [..., K]`` and a quantized ``W [N, K]``."""

    @property
    def in_features(self) -> int:
        """K."""
        return self._matrix[1]

    @property
    def out_features(self) -> int:
        """N."""
        return self._matrix[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[..., K]`` to ``[..., N]``."""
        weight = self.quantized
        scheme = scheme_named(self.scheme)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if isinstance(weight, Int8BlockWeight):
            return nn.functional.linear(x, weight.dequantize(x.dtype), bias)
        if x.is_cuda:
            # Imported here: it needs Triton, which machines without a GPU need not have.
            from deepseek_kernels.dispatch import linear

            return linear(x, weight, bias, activations=scheme.activations)
        if scheme.activations == "int8":
            return multiply_int8(x, weight, bias)
        if scheme.activations == "fp8":
            return multiply_fp8(x, weight, bias, group=scheme.activation_group)
        return nn.functional.linear(x, weight.dequantize(x.dtype), bias)


class QuantizedEmbedding(QuantizedLayer):
    """Rows of an int8 table; only the rows that are looked up become floating point."""

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self._matrix[0]

    @property
    def embedding_dim(self) -> int:
        """Numbers in a row."""
        return self._matrix[1]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """From numbers ``[...]`` to rows ``[..., K]`` in the type of the module."""
        rows = nn.functional.embedding(ids, self.data)
        scales = nn.functional.embedding(ids, self.scale)
        return (rows.float() * scales).to(self._like.dtype)


class CastLinear(nn.Linear):
    """A linear layer that keeps its own 16-bit type inside a module of another type.

    Inputs and outputs are rounded to the weight's type; sums are fp32, as tensor cores do it.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """Take ``weight [N, K]`` and ``bias [N]`` and round them to ``dtype``."""
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[..., K]`` to ``[..., N]`` in the type of ``x``."""
        rounded = x.to(self.weight.dtype)
        if x.is_cuda:
            return super().forward(rounded).to(x.dtype)
        # CPUs have no fast 16-bit products; their result is the same but for the order of sums.
        bias = None if self.bias is None else self.bias.float()
        product = nn.functional.linear(rounded.float(), self.weight.float(), bias)
        return product.to(self.weight.dtype).to(x.dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move like any module; casting does not change the layer's type."""
        kept = {name: tensor.data for name, tensor in self.named_parameters(recurse=False)}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            after = self.get_parameter(name)
            if after.dtype != before.dtype:
                after.data = before.to(after.device)
        return self
