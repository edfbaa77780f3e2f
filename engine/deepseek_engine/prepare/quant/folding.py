"""Moving a factor of each channel from one layer into the next without changing the answer.

Why it exists: SmoothQuant and AWQ multiply the columns of a weight and divide the inputs by the
same numbers. The division costs nothing if the layer before can do it: a norm's weight and bias, or
the rows of a linear layer with only linear or positively homogeneous steps between (values of
attention; ReLU). Which layers these are is not guessed from names: it is tried. Factors of two are
moved, and only where the module still gives the same answer the pair is used. Where the input also
feeds a residual, as after the norms of BERT, the answer changes and the pair is dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deepseek_engine.prepare.quant.calibration import call
from deepseek_engine.prepare.quant.kinds import is_norm_class
from deepseek_engine.quant.exchange import (
    is_conv1d_of_transformers,
    is_linear,
    weight_owners,
)

TOLERANCE = 1e-4
"""Relative difference of answers that are the same but for rounding."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A layer and the linear layers that read its output and nothing else does."""

    producer: nn.Module
    """A norm or a linear layer with K outputs."""
    consumers: tuple[nn.Module, ...]
    """Linear layers with K inputs."""

    @torch.no_grad()
    def move(self, factors: torch.Tensor) -> None:
        """Divide the output by ``factors [K]``, multiply the consumers' columns by them."""
        for part in ("weight", "bias"):
            tensor = self.producer._parameters.get(part)
            if tensor is not None:
                tensor.div_(_by_output(self.producer, tensor, factors).to(tensor.dtype))
        for consumer in self.consumers:
            weight = consumer.get_parameter("weight")
            by_input = factors[:, None] if is_conv1d_of_transformers(consumer) else factors
            weight.mul_(by_input.to(weight.dtype))


def find_folds(root: nn.Module, feed: Any) -> list[Fold]:
    """All pairs through which a factor can be moved, tried on one example."""
    with torch.inference_mode():
        expected = _tensors_of(call(root, feed))
    found: list[Fold] = []
    taken: set[int] = set()
    for fold in _candidates(root, feed):
        if any(id(consumer) in taken for consumer in fold.consumers):
            continue
        if _keeps_answers(root, feed, fold, expected):
            found.append(fold)
            taken |= {id(consumer) for consumer in fold.consumers}
    return found


def _keeps_answers(root: nn.Module, feed: Any, fold: Fold, expected: list[torch.Tensor]) -> bool:
    size = _inputs(fold.consumers[0])
    # Powers of two are undone without a trace; different ones tell channels apart.
    powers = torch.randint(-1, 2, (size,), generator=torch.Generator().manual_seed(0))
    factors = torch.pow(2.0, powers)
    fold.move(factors)
    try:
        with torch.inference_mode():
            given = _tensors_of(call(root, feed))
    finally:
        fold.move(1 / factors)
    return len(given) == len(expected) and all(
        a.shape == b.shape and float((a - b).norm()) <= TOLERANCE * float(b.norm())
        for a, b in zip(given, expected, strict=True)
    )


def _candidates(root: nn.Module, feed: Any) -> Iterator[Fold]:
    """Norms with the linear layers that read their output, and linear layers in a row."""
    unshared = {id(m) for _, m, others in weight_owners(root) if not others}
    outputs: list[tuple[torch.Tensor, nn.Module]] = []  # kept, so that none is found again
    readers: dict[int, list[nn.Module]] = {}
    order: list[nn.Module] = []

    def after(module: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append((output, module))

    def before(module: nn.Module, arguments: Any) -> None:
        order.append(module)
        for output, producer in reversed(outputs):
            if arguments and arguments[0] is output:
                readers.setdefault(id(producer), []).append(module)
                break

    _watch(root, feed, unshared, before, after)
    for _, producer in outputs:
        consumers = readers.pop(id(producer), [])
        if consumers:
            yield Fold(producer, tuple(consumers))
    for first, second in itertools.pairwise(order):
        if first is not second and _outputs(first) == _inputs(second):
            yield Fold(first, (second,))


def _watch(
    root: nn.Module,
    feed: Any,
    unshared: set[int],
    before: Callable[..., None],
    after: Callable[..., None],
) -> None:
    hooks = []
    for module in root.modules():
        if id(module) not in unshared:
            continue
        if is_linear(module):
            hooks.append(module.register_forward_pre_hook(before))
        elif is_norm_class(type(module).__name__) and module.get_parameter("weight").ndim == 1:
            hooks.append(module.register_forward_hook(after))
    try:
        with torch.inference_mode():
            call(root, feed)
    finally:
        for hook in hooks:
            hook.remove()


def _outputs(module: nn.Module) -> int:
    return module.get_parameter("weight").shape[1 if is_conv1d_of_transformers(module) else 0]


def _inputs(module: nn.Module) -> int:
    return module.get_parameter("weight").shape[0 if is_conv1d_of_transformers(module) else 1]


def _by_output(module: nn.Module, tensor: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    if tensor.ndim == 1 or is_conv1d_of_transformers(module):
        return factors
    return factors[:, None]


def _tensors_of(answer: Any) -> list[torch.Tensor]:
    """Floating point tensors of whatever a module returns, in order."""
    if isinstance(answer, torch.Tensor):
        return [answer.float()] if answer.is_floating_point() else []
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return [tensor for part in answer for tensor in _tensors_of(part)]
    return []
