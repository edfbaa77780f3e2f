"""One torch module, opened: graphs by shape on a GPU, plain calls on the processor.

Why it exists: it puts the parts together (description, weights, call, buckets, graphs) behind the
protocol of back ends. On the processor in fp32 it is the reference that others are compared with.

Settings of `EngineConfig.options`: ``torch_graphs`` (default true: capture CUDA graphs),
``torch_graph_capacity`` (default 64 graphs a model), ``torch_compile`` (default false).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from deepseek_api.errors import (
    ConfigurationError,
    DeviceError,
    ErrorCode,
    InferenceError,
    PrecisionError,
    SourceError,
)
from deepseek_api.manifest import Variant

from deepseek_engine.backends import BackendOptions
from deepseek_engine.backends.torch.buckets import Buckets, batch_sizes, lengths
from deepseek_engine.backends.torch.calling import ModuleCall
from deepseek_engine.backends.torch.cuda_graphs import CudaGraphs, Eager
from deepseek_engine.backends.torch.description import build_module, read_description, unfit
from deepseek_engine.backends.torch.graphs import GraphRunner, GraphRuntime
from deepseek_engine.backends.torch.importing import check_device, import_library
from deepseek_engine.backends.torch.weights import (
    arrange_for_gpu,
    check_gpu_memory,
    load_weights,
    no_room,
)
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.codec import Array

__all__ = ["TorchBackend"]

logger = logging.getLogger(__name__)

_CAPACITY = 64
_UNFIT = (KeyError, ValueError, TypeError, RuntimeError, AttributeError)


class TorchBackend:
    """One torch module, opened."""

    name = "torch"

    def __init__(self, bundle: OpenBundle, variant: Variant, options: BackendOptions) -> None:
        """Build the module of a variant, load its weights and capture its graphs.

        Raises:
            BundleError: the description or the weights do not fit.
            ConfigurationError: a setting is wrong.
            DeviceError: the device is not available or too small, or torch is not installed.
        """
        torch = import_library("torch")
        self.device = check_device(torch, options.device)
        graphs = _flag(options, "torch_graphs", default=self.device != "cpu")
        compile_it = _flag(options, "torch_compile", default=False)
        capacity = _count(options, "torch_graph_capacity", default=_CAPACITY)
        description = read_description(bundle, variant)
        self.inputs, self.outputs = description.inputs, description.outputs
        if self.device == "cpu":
            torch.set_num_threads(options.threads)
        else:
            check_gpu_memory(torch, variant, self.device)
        try:
            module = build_module(description)
            module = load_weights(module, description, bundle.path(description.weights))
        except DeviceError:
            raise
        except (*_UNFIT, SourceError, PrecisionError) as error:
            logger.warning("torch cannot open a variant", extra={"cause": str(error)[:500]})
            raise unfit(variant) from error
        if self.device != "cpu":
            arrange_for_gpu(module)
        try:
            module = module.to(self.device)
        except torch.cuda.OutOfMemoryError as error:  # somebody took it since it was looked at
            raise no_room(variant, self.device) from error
        call = ModuleCall(
            torch,
            module,
            description,
            compile_for=capacity if compile_it else 0,
        )
        self._call: ModuleCall | None = call
        buckets = Buckets(
            description.inputs,
            sizes=batch_sizes(options.max_batch_size),
            lengths=lengths(_longest(bundle)) if _longest(bundle) else (),
        )
        runtime: GraphRuntime = Eager(torch, call, self.device)
        if graphs and self.device != "cpu":
            runtime = CudaGraphs(torch, call, self.device)
        self._runner: GraphRunner | None = GraphRunner(
            runtime, buckets, description.outputs, capacity=capacity if graphs else 0
        )
        self._graphs = graphs
        self._runner.warm()

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """Batches that did not run the fast way, by reason; only what was asked for counts."""
        if self._runner is None or self._call is None:
            return {}
        found = dict(self._runner.fallbacks) if self._graphs else {}
        if self._call.failed:
            found["compile-failed"] = 1
        return found

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the module once; see `Backend.run`."""
        if self._runner is None:
            raise RuntimeError("the module is closed")
        try:
            found = self._runner.run(inputs)
        except (IndexError, RuntimeError, ValueError) as error:
            logger.warning("torch run failed", extra={"cause": str(error)[:500]})
            raise _failure(error) from error
        names = outputs if outputs is not None else [spec.name for spec in self.outputs]
        return {name: found[name] for name in names}

    def close(self) -> None:
        """Free the weights and the graphs."""
        if self._runner is not None:
            self._runner.close()
        self._runner = self._call = None


def _longest(bundle: OpenBundle) -> int:
    """Tokens of the longest text; 0 for models that take no texts."""
    return int(getattr(bundle.manifest.preprocessing, "max_length", 0))


def _failure(error: Exception) -> InferenceError:
    # Named by its class, so that torch is not imported here.
    if type(error).__name__ == "OutOfMemoryError":
        return InferenceError(
            "There is not enough memory on the GPU to compute this request.",
            code=ErrorCode.RESOURCE_EXHAUSTED,
            hint="Send fewer or smaller rows at once.",
            reason="OutOfMemory",
        )
    return InferenceError(
        "The model failed to compute this request.",
        code=ErrorCode.INTERNAL,
        hint="The log of the engine has the cause.",
    )


def _flag(options: BackendOptions, name: str, *, default: bool) -> bool:
    value = options.settings.get(name, default)
    if not isinstance(value, bool):
        raise ConfigurationError(f"The setting {name} is {value!r}.", hint="Use true or false.")
    return value


def _count(options: BackendOptions, name: str, *, default: int) -> int:
    value = options.settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(
            f"The setting {name} is {value!r}.", hint="Use a whole number, 0 or more."
        )
    return value
