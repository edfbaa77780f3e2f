"""Convolutions with int8 filters: memory is saved, arithmetic is that of the input's type.

Imports torch; import it only where a torch variant is opened or made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deepseek_engine.quant.blocks import LayerWeight
from deepseek_engine.quant.layers import QuantizedLayer
from deepseek_engine.quant.schemes import Scheme


class _QuantizedConv(QuantizedLayer):
    """A convolution of any number of dimensions with int8 filters, computed in the input's type."""

    def __init__(self, module: nn.Module, weight: LayerWeight, scheme: Scheme) -> None:
        """Take the settings of a module of torch and the weight of `weight_matrix`."""
        # Convolutions of torch have one set of attributes and no common public class.
        like: Any = module
        super().__init__(
            weight, scheme, shape=tuple(like.weight.shape), bias=like.bias, dtype=like.weight.dtype
        )
        self.stride, self.padding, self.dilation = like.stride, like.padding, like.dilation
        self.groups, self.padding_mode = like.groups, like.padding_mode
        self.in_channels, self.out_channels = like.in_channels, like.out_channels
        self.kernel_size = like.kernel_size
        self._pads: tuple[int, ...] = tuple(like._reversed_padding_repeated_twice)

    _convolve: Callable[..., torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[B, in, ...]`` to ``[B, out, ...]``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        padding = self.padding
        if self.padding_mode != "zeros":
            x = nn.functional.pad(x, self._pads, mode=self.padding_mode)
            padding = 0
        convolve = type(self)._convolve
        return convolve(
            x, self._float_weight(x.dtype), bias, self.stride, padding, self.dilation, self.groups
        )


class QuantizedConv1d(_QuantizedConv):
    """`torch.nn.Conv1d` with int8 filters."""

    _convolve = staticmethod(nn.functional.conv1d)


class QuantizedConv2d(_QuantizedConv):
    """`torch.nn.Conv2d` with int8 filters."""

    _convolve = staticmethod(nn.functional.conv2d)


class QuantizedConv3d(_QuantizedConv):
    """`torch.nn.Conv3d` with int8 filters."""

    _convolve = staticmethod(nn.functional.conv3d)


class _QuantizedConvTranspose(_QuantizedConv):
    """A transposed convolution; as its weight is stored, a scale belongs to an input channel."""

    def __init__(self, module: nn.Module, weight: LayerWeight, scheme: Scheme) -> None:
        """Take the settings of a module of torch and the weight of `weight_matrix`."""
        super().__init__(module, weight, scheme)
        like: Any = module
        self.output_padding = like.output_padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From ``[B, in, ...]`` to ``[B, out, ...]``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        convolve = type(self)._convolve
        return convolve(
            x, self._float_weight(x.dtype), bias, self.stride, self.padding, self.output_padding,
            self.groups, self.dilation,
        )  # fmt: skip


class QuantizedConvTranspose2d(_QuantizedConvTranspose):
    """`torch.nn.ConvTranspose2d` with int8 filters."""

    _convolve = staticmethod(nn.functional.conv_transpose2d)


class QuantizedConvTranspose3d(_QuantizedConvTranspose):
    """`torch.nn.ConvTranspose3d` with int8 filters."""

    _convolve = staticmethod(nn.functional.conv_transpose3d)


CONVOLUTIONS: dict[type[nn.Module], type[_QuantizedConv]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.ConvTranspose2d: QuantizedConvTranspose2d,
    nn.ConvTranspose3d: QuantizedConvTranspose3d,
}
"""The layer that stands for each class of torch."""
