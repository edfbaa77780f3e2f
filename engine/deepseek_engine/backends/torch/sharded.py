"""A torch variant over several processes, as a back end.

Why it exists: the engine runs batches on a `Backend` and must not know how many processes answer.
The first rank is this process; the others are started, watched and replaced by a rank group, and a
batch during whose run one was lost fails with UNAVAILABLE. Importing this module imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from deepseek_api.manifest import Variant

from deepseek_engine.backends import BackendOptions
from deepseek_engine.backends.torch.backend import TorchBackend
from deepseek_engine.backends.torch.description import read_description
from deepseek_engine.backends.torch.importing import check_device, import_library
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.codec import Array

if TYPE_CHECKING:
    from deepseek_engine.backends import Backend

__all__ = ["ShardedBackend", "open_variant"]

_LOADER = "deepseek_engine.generation.parallel.stages:load_stage"


def open_variant(bundle: OpenBundle, variant: Variant, options: BackendOptions) -> Backend:
    """Open a torch variant in this process, or divided over several."""
    if options.parallelism.processes > 1:
        return ShardedBackend(bundle, variant, options)
    return TorchBackend(bundle, variant, options)


class ShardedBackend:
    """One torch module in several processes."""

    name = "torch"

    def __init__(self, bundle: OpenBundle, variant: Variant, options: BackendOptions) -> None:
        """Start the ranks and load each one's part.

        Raises:
            BundleError: the description or the weights do not fit.
            ConfigurationError: the model cannot be shared by so many.
            DeviceError: the device is not available, or torch is not installed.
            PrecisionError: this kind of variant cannot be divided.
        """
        torch = import_library("torch")
        self.device = check_device(torch, options.device)
        groups = import_library("deepseek_engine.generation.parallel.group")
        stages = import_library("deepseek_engine.generation.parallel.stages")
        description = read_description(bundle, variant)
        stages.check_divisible(description)
        self.inputs, self.outputs = description.inputs, description.outputs
        sizes = options.parallelism
        threads = max(1, options.threads // sizes.processes)
        if self.device == "cpu":
            torch.set_num_threads(threads)
        self._torch, self._command = torch, stages.RUN
        self.group = groups.RankGroup(
            loader=_LOADER,
            arguments={
                "folder": os.fspath(bundle.folder),
                "digest": bundle.digest,
                "variant": variant.id,
                "micro_batches": sizes.pipeline,
            },
            tensor_size=sizes.tensor,
            pipeline_size=sizes.pipeline,
            device=self.device.partition(":")[0],
            threads=threads,
        )
        """The ranks, and how they are."""

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the module once; see `Backend.run`.

        Raises:
            EngineUnavailableError: a rank was lost; the batch can be sent again.
        """
        names = list(outputs) if outputs is not None else [spec.name for spec in self.outputs]
        # torch takes no view of memory that may not be written, such as a request's.
        owned = {n: a if a.flags.writeable else a.copy() for n, a in inputs.items()}
        given = {name: self._torch.from_numpy(array) for name, array in owned.items()}
        fields = {"outputs": names}
        with self.group.step() as step, self._torch.inference_mode():
            step.command(self._command, fields, given)
            device = {name: tensor.to(self.device) for name, tensor in given.items()}
            found = step.shard.run(self._command, fields, device)
        return {name: found[name].cpu().numpy() for name in names}

    def close(self) -> None:
        """End the ranks."""
        self.group.close()
