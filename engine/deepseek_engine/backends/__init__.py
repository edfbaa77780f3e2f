"""Back ends: the libraries that execute a variant of a bundle.

Why it exists: the engine knows one small protocol and no runtime. A back end imports its runtime
when it opens a variant, never before, so that serving on a CPU does not import torch. Other
packages register theirs in the entry point group ``deepseek.backends``: a callable with the
signature of `BackendFactory`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from deepseek_api.errors import BundleError, ConfigurationError, ErrorCode
from deepseek_api.manifest import Variant

from deepseek_engine import registry
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.codec import Array
from deepseek_engine.messages import ParallelismConfig, TensorSpec

__all__ = ["GROUP", "Backend", "BackendFactory", "BackendOptions", "open_backend"]

GROUP = "deepseek.backends"
"""Entry point group of back ends."""

_BUILTIN = {
    "onnxruntime": "deepseek_engine.backends.onnxruntime:OnnxRuntimeBackend",
    "torch": "deepseek_engine.backends.torch:open_variant",
}

_DIVIDING = frozenset({"torch"})
"""Back ends that can divide a variant over processes."""


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """How a back end executes."""

    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:N``."""
    threads: int = 1
    """Threads of one inference."""
    max_batch_size: int = 32
    """Rows of the largest batch that will come, apart from single larger requests."""
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    """Over how many processes the variant is divided."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The engine's options; each back end reads those that begin with its name."""


class Backend(Protocol):
    """One opened variant. Calls come one at a time, from one thread per device."""

    @property
    def name(self) -> str:
        """Name of the back end."""
        ...

    @property
    def device(self) -> str:
        """The device that it runs on, for example ``cpu``."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs of the graph; -1 is a dimension that varies."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs of the graph."""
        ...

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the graph once.

        Args:
            inputs: an array for every input of the graph; BF16 as its bits in ``uint16``, BYTES
                as an object array of `bytes`.
            outputs: the outputs wanted; None means all.

        Raises:
            InferenceError: the runtime refused or failed.
        """
        ...

    def close(self) -> None:
        """Free the memory."""
        ...


BackendFactory = Callable[[OpenBundle, Variant, BackendOptions], Backend]
"""Opens a variant of a checked bundle; raises BundleError or DeviceError."""


def open_backend(bundle: OpenBundle, variant: Variant, options: BackendOptions) -> Backend:
    """Open a variant with the back end that it names.

    Raises:
        BundleError: no such back end is installed, or it cannot read the variant.
        ConfigurationError: the back end cannot divide a variant over processes.
        DeviceError: the back end has no such device here.
    """
    factory = registry.load(variant.backend, builtin=_BUILTIN, group=GROUP)
    if factory is None:
        names = ", ".join(registry.available(builtin=_BUILTIN, group=GROUP))
        raise BundleError(
            f"The bundle needs the back end '{variant.backend}', which is not installed.",
            hint=f"Installed are: {names}.",
            reason="UnknownBackend",
        )
    if options.parallelism.processes > 1 and variant.backend not in _DIVIDING:
        raise ConfigurationError(
            f"The variant '{variant.id}' runs in '{variant.backend}', which computes a whole graph "
            "in one process, so that it cannot be divided over several.",
            hint="Divide a variant of the back end 'torch' (models that generate have one, and so "
            "have bundles prepared for cuda); to use more of a processor, raise threads or "
            "replicas.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="NotDivisible",
        )
    return cast(BackendFactory, factory)(bundle, variant, options)
