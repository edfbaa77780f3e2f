"""``deepseek_fuse``: convolution, batch normalization and ReLU of a plain function, folded.

Why it exists: models are written as functions of tensors, and at inference their normalizations are
only factors and offsets of the convolutions before them. The decorator captures the function with
torch.fx, folds what it recognizes and leaves the rest as it is written. Where folding would change
what the function means (training statistics, gradients, control flow on values) the function runs
unchanged and says why. Not for modules: `ops.folded_conv.fold_modules` folds those for good.

Folded weights are kept as long as the tensors they came from are the same objects in the same
version. Writes through ``tensor.data`` or a NumPy view do not raise the version; call ``refresh``
after such a write.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from deepseek_kernels.errors import KernelArgumentError
from deepseek_kernels.ops.folded_conv import fold_batch_norm, folded_conv2d

__all__ = ["FusedFunction", "deepseek_fuse"]

logger = logging.getLogger(__name__)

_TRACES = 16
"""Combinations of arguments that are no tensors for which a trace is kept."""
_FOLDED = 8
"""Sets of weights that one place of a function keeps folded."""
_PLAIN_TENSORS = (Tensor, nn.Parameter)
_CONVOLUTIONS = (torch.conv2d, nn.functional.conv2d)
_RELUS = (torch.relu, nn.functional.relu, torch.relu_)
_CONV_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_NORM_NAMES = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
)  # fmt: skip
_DEFAULT_CONV = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_DEFAULT_NORM = {"weight": None, "bias": None, "training": False, "eps": 1e-5}


def deepseek_fuse(function: Callable[..., Any]) -> FusedFunction:
    """Fold the batch normalizations of a function into its convolutions.

    The function takes tensors and is made of torch calls, for example::

        @deepseek_fuse
        def block(x, weight, bias, gamma, beta, running_mean, running_var):
            x = F.conv2d(x, weight, bias, padding=1)
            x = F.batch_norm(x, running_mean, running_var, gamma, beta)
            return F.relu(x)

    Results agree with the function's up to rounding (float32: relative 1e-5). Arguments that are no
    tensors are constants of a trace; each combination is traced once.
    """
    return FusedFunction(function)


class FusedFunction:
    """A function whose folded form runs where that means the same."""

    __name__: str

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = inspect.signature(function)
        self._traces: OrderedDict[Any, _Trace] = OrderedDict()
        self.reason = ""
        """Why the last call ran the function unchanged; empty when it was folded."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, folded where that means the same."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self.reason = self._refusal(bound.arguments)
        if self.reason:
            return self._function(*args, **kwargs)
        trace = self._trace(bound)
        self.reason = trace.reason
        if trace.module is None:
            return self._function(*args, **kwargs)
        tensors = [v for v in bound.arguments.values() if isinstance(v, Tensor)]
        try:
            return trace.module(*tensors)
        except KernelArgumentError as error:
            # Statistics that cannot be folded: the function itself says what it makes of them.
            self._tell(str(error))
            return self._function(*args, **kwargs)

    def refresh(self) -> None:
        """Fold anew at the next call; needed after a write that raises no tensor's version."""
        for trace in self._traces.values():
            for place in trace.places:
                place.forget()

    def _refusal(self, arguments: Mapping[str, Any]) -> str:
        tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
        if torch.compiler.is_compiling() or not all(type(t) in _PLAIN_TENSORS for t in tensors):
            return "its tensors are traced or wrapped"
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return "gradients are wanted"
        if torch.is_autocast_enabled() or torch.is_autocast_enabled("cpu"):
            return "autocast decides about types"
        return ""

    def _trace(self, bound: inspect.BoundArguments) -> _Trace:
        constants = {n: v for n, v in bound.arguments.items() if not isinstance(v, Tensor)}
        if not all(_is_constant(value) for value in constants.values()):
            return _Trace(reason="an argument is neither a tensor nor a plain value")
        key = tuple((name, type(value), value) for name, value in constants.items())
        found = self._traces.get(key)
        if found is None:
            found = self._traces[key] = _capture(self._function, bound)
            if len(self._traces) > _TRACES:
                self._traces.popitem(last=False)
            if found.reason:
                self._tell(found.reason)
        return found

    def _tell(self, reason: str) -> None:
        self.reason = reason
        name = getattr(self._function, "__name__", "the function")
        logger.info("%s runs as it is written: %s", name, reason)


@dataclass(slots=True)
class _Trace:
    """A captured function, or why there is none."""

    reason: str = ""
    module: fx.GraphModule | None = None
    places: Sequence[_Place] = ()


class _Place(nn.Module):
    """One convolution with the normalization after it, folded when its tensors are new."""

    def __init__(self, settings: Mapping[str, Any], *, eps: float, relu: bool) -> None:
        super().__init__()
        self._settings = dict(settings)
        self._eps = eps
        self._relu = relu
        self._kept: list[tuple[tuple[Any, ...], Tensor, Tensor]] = []

    def forward(self, x: Tensor, *parts: Tensor | None) -> Tensor:
        """Compute; ``parts`` are weight, bias, mean, variance, gamma and beta."""
        weight, bias = self._folded(parts)
        if x.is_cuda:
            return folded_conv2d(x, weight, bias, relu=self._relu, **self._settings)
        # On a processor the library adds the bias itself, and a second pass would cost more.
        result = nn.functional.conv2d(x, weight, bias, **self._settings)
        return result.relu_() if self._relu else result

    def forget(self) -> None:
        """Fold anew at the next call."""
        self._kept.clear()

    def _folded(self, parts: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        for index, (known, weight, bias) in enumerate(self._kept):
            if all(_same(mark, part) for mark, part in zip(known, parts, strict=True)):
                if index:
                    self._kept.insert(0, self._kept.pop(index))
                return weight, bias
        source, offset, mean, variance, gamma, beta = parts
        assert source is not None
        if mean is None or variance is None:
            raise KernelArgumentError("running_mean, running_var: give both; they are folded")
        folded = fold_batch_norm(source, offset, mean, variance, gamma, beta, self._eps)
        if not any(part is not None and part.is_inference() for part in parts):
            self._kept.insert(0, (tuple(map(_mark, parts)), *folded))
            del self._kept[_FOLDED:]
        return folded


def _mark(part: Tensor | None) -> Any:
    return None if part is None else (weakref.ref(part), part._version, part.data_ptr())


def _same(mark: Any, part: Tensor | None) -> bool:
    if mark is None or part is None:
        return mark is part
    known, version, place = mark
    # Tensors of inference mode count no versions, so that none of them is known.
    return bool(
        known() is part
        and not part.is_inference()
        and part._version == version
        and part.data_ptr() == place
    )


def _capture(function: Callable[..., Any], bound: inspect.BoundArguments) -> _Trace:
    tracer = fx.Tracer()
    tracer.root, tracer.graph, tracer.tensor_attrs = nn.Module(), fx.Graph(), {}
    given = copy.copy(bound)
    given.arguments = {
        name: tracer.create_proxy("placeholder", name, (), {}) if isinstance(v, Tensor) else v
        for name, v in bound.arguments.items()
    }
    try:
        output = function(*given.args, **given.kwargs)
        tracer.create_node("output", "output", (tracer.create_arg(output),), {})
    # The function raises whatever it does when values are asked for that are not there.
    except Exception as error:
        return _Trace(reason=f"it cannot be captured: {type(error).__name__}: {error}")
    places: list[_Place] = []
    refused = ""
    for node in list(tracer.graph.nodes):
        if node.op == "call_function" and node.target is nn.functional.batch_norm:
            found = _recognize(node)
            if isinstance(found, str):
                refused = refused or found
                continue
            name = f"place_{len(places)}"
            places.append(_replace(tracer.graph, node, found, name))
            tracer.root.add_module(name, places[-1])
    if not places:
        return _Trace(reason=refused or "no batch normalization follows a convolution in it")
    tracer.graph.lint()
    return _Trace(module=fx.GraphModule(tracer.root, tracer.graph), places=places)


@dataclass(frozen=True, slots=True)
class _Found:
    convolution: Mapping[str, Any]
    normalization: Mapping[str, Any]
    relu: fx.Node | None


def _recognize(norm: fx.Node) -> _Found | str:
    """The arguments around a normalization that can be folded, or why it cannot be."""
    arguments = _DEFAULT_NORM | dict(zip(_NORM_NAMES, norm.args, strict=False)) | norm.kwargs
    source = arguments["input"]
    if not isinstance(source, fx.Node) or source.target not in _CONVOLUTIONS:
        return "a batch normalization does not follow a convolution directly"
    if len(source.users) > 1:
        return "the result of a convolution is used besides its normalization"
    if arguments["training"] is not False:
        return "a batch normalization takes the statistics of the batch, or updates them"
    convolution = _DEFAULT_CONV | dict(zip(_CONV_NAMES, source.args, strict=False)) | source.kwargs
    relu = None
    if len(norm.users) == 1:
        (user,) = norm.users
        if user.target in _RELUS or (user.op == "call_method" and user.target in ("relu", "relu_")):
            relu = user
    return _Found(convolution, arguments, relu)


def _replace(graph: fx.Graph, norm: fx.Node, found: _Found, name: str) -> _Place:
    convolution, normalization = found.convolution, found.normalization
    settings = {key: convolution[key] for key in ("stride", "padding", "dilation", "groups")}
    place = _Place(settings, eps=normalization["eps"], relu=found.relu is not None)
    last = found.relu or norm
    with graph.inserting_before(last):
        parts = (
            *(convolution[key] for key in ("input", "weight", "bias")),
            *(normalization[key] for key in ("running_mean", "running_var", "weight", "bias")),
        )
        made = graph.call_module(name, parts)
    last.replace_all_uses_with(made)
    for node in (found.relu, norm, normalization["input"]):
        if node is not None:
            graph.erase_node(node)
    return place


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)
