"""The task ``segmentation``: volumes in, a class for each voxel out.

Why it exists: callers send voxels as the scanner gives them and want a mask. A mask has a byte a
voxel; scores have four for each class, so they are sent only to those who ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from deepseek_api.errors import BundleError
from deepseek_api.processing import SegmentationPostprocessing, VolumePreprocessing

from deepseek_engine.codec import Array, to_array, to_tensor
from deepseek_engine.messages import InferenceRequest, Tensor, TensorSpec, WireTensor
from deepseek_engine.tasks.base import Interface, Part, Prepared, TaskContext, stack
from deepseek_engine.validation import invalid

__all__ = ["Segmentation", "normalize_voxels"]

_INPUT, _MASK, _LOGITS = "volume", "mask", "logits"
_AXES = ("depth", "height", "width")
_HEAVY_BYTES = 1 << 20
_MOST_CLASSES = 256
"""What a mask of bytes can hold."""


class Segmentation:
    """Segmentation with a graph that gives one score a class and voxel."""

    def __init__(self, context: TaskContext) -> None:
        """Look at the graph.

        Raises:
            BundleError: the manifest or the graph does not fit this task.
        """
        manifest = context.bundle.manifest
        if not isinstance(manifest.preprocessing, VolumePreprocessing) or not isinstance(
            manifest.postprocessing, SegmentationPostprocessing
        ):
            raise _unfit("its pre- and post-processing are not 'volume' and 'segmentation'")
        for specs, what in ((context.graph_inputs, "take"), (context.graph_outputs, "give")):
            if len(specs) != 1 or len(specs[0].shape) != 5:
                raise _unfit(f"the graph does not {what} one tensor of five dimensions")
        self._pre = manifest.preprocessing
        self._graph_input = context.graph_inputs[0].name
        self._graph_output = context.graph_outputs[0].name
        self._channels = context.graph_inputs[0].shape[1]
        self._classes = context.graph_outputs[0].shape[1]
        if self._channels < 1 or not 1 <= self._classes <= _MOST_CLASSES:
            raise _unfit(f"it has {self._channels} channels and {self._classes} classes")
        self._single = context.row_batching == "single"
        self.interface = self._describe()

    def _describe(self) -> Interface:
        side = 2 * self._pre.multiple
        probe = np.zeros((1, self._channels, side, side, side), np.float32)
        return Interface(
            inputs=(TensorSpec(_INPUT, "FP32", (-1, self._channels, -1, -1, -1)),),
            outputs=(
                TensorSpec(_MASK, "UINT8", (-1, -1, -1, -1)),
                TensorSpec(_LOGITS, "FP32", (-1, self._classes, -1, -1, -1)),
            ),
            default_outputs=(_MASK,),
            probe=(WireTensor(_INPUT, "FP32", probe.shape, probe.tobytes()),),
        )

    def is_heavy(self, request: InferenceRequest) -> bool:
        """A volume of a megabyte takes a millisecond to check and normalize."""
        return len(request.inputs[0].data) > _HEAVY_BYTES

    def prepare(self, request: InferenceRequest) -> Prepared:
        """Check and normalize the voxels; volumes of one shape may share a batch."""
        volumes = to_array(request.inputs[0])
        for axis, size in zip(_AXES, volumes.shape[2:], strict=True):
            if size % self._pre.multiple:
                raise invalid(
                    f"The input '{_INPUT}' has a {axis} of {size} voxels; every side must be a "
                    f"multiple of {self._pre.multiple}.",
                    hint="Pad the volume, and cut the mask to the original size.",
                )
        if not np.isfinite(volumes).all():
            raise invalid(
                f"The input '{_INPUT}' holds values that are not finite numbers.",
                hint="Write the value of air into voxels that the scanner did not see.",
            )
        voxels = normalize_voxels(volumes, self._pre)
        rows = len(voxels)
        groups = [(row,) for row in range(rows)] if self._single else [tuple(range(rows))]
        return Prepared(
            rows=rows,
            parts=[
                Part(
                    bucket=voxels.shape[1:],
                    rows=group,
                    arrays={self._graph_input: voxels[group[0] : group[-1] + 1]},
                )
                for group in groups
            ],
            outputs=request.outputs or self.interface.default_outputs,
            graph_outputs=(self._graph_output,),
        )

    def collate(self, parts: Sequence[Part]) -> Mapping[str, Array]:
        """The volumes one after the other."""
        return stack(parts)

    def reduce(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """The graph's scores as they are."""
        return outputs

    def finish(self, prepared: Prepared, arrays: Mapping[str, Array]) -> tuple[Tensor, ...]:
        """The best class of each voxel; of equal scores the lower class."""
        logits = arrays[self._graph_output].astype(np.float32, copy=False)
        made = {
            _MASK: lambda: to_tensor(_MASK, "UINT8", logits.argmax(axis=1).astype(np.uint8)),
            _LOGITS: lambda: to_tensor(_LOGITS, "FP32", logits),
        }
        return tuple(made[name]() for name in prepared.outputs)


def normalize_voxels(volumes: Array, settings: VolumePreprocessing) -> Array:
    """Cut values ``[N, C, D, H, W]`` to the range of the settings and normalize them, FP32."""
    if settings.low is not None or settings.high is not None:
        volumes = np.clip(volumes, settings.low, settings.high)
    normal: Array = (volumes - np.float32(settings.mean)) / np.float32(settings.std)
    return normal.astype(np.float32, copy=False)


def _unfit(why: str) -> BundleError:
    return BundleError(
        f"The bundle does not fit the task 'segmentation': {why}.",
        hint="Prepare the bundle again.",
        reason="SignatureMismatch",
    )
