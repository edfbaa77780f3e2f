"""The task ``image-classification``: pictures in, labels and scores out.

Why it exists: callers send picture files and want names, not numbers. Pixel values are accepted
too, for callers that prepare pictures themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from deepseek_api.errors import BundleError
from deepseek_api.processing import ClassificationPostprocessing, ImagePreprocessing

from deepseek_engine.codec import Array, join_bytes, to_array, to_tensor
from deepseek_engine.messages import InferenceRequest, Tensor, TensorSpec, WireTensor
from deepseek_engine.tasks.base import Interface, Part, Prepared, TaskContext, stack
from deepseek_engine.tasks.parameters import integer
from deepseek_engine.tasks.pictures import (
    check_resized,
    decode_picture,
    fit_picture,
    normalize,
    tiny_png,
)

__all__ = ["ImageClassification", "softmax", "top_classes"]


class ImageClassification:
    """Classification with a vision graph that gives one score a class."""

    def __init__(self, context: TaskContext) -> None:
        """Read the labels.

        Raises:
            BundleError: the manifest, the labels or the graph do not fit this task.
        """
        manifest = context.bundle.manifest
        if not isinstance(manifest.preprocessing, ImagePreprocessing) or not isinstance(
            manifest.postprocessing, ClassificationPostprocessing
        ):
            raise _unfit("its pre- and post-processing are not 'image' and 'classification'")
        if len(context.graph_inputs) != 1 or len(context.graph_inputs[0].shape) != 4:
            raise _unfit("the graph does not take one tensor of four dimensions")
        self._pre = manifest.preprocessing
        self._top_k = manifest.postprocessing.top_k
        self._graph_input = context.graph_inputs[0].name
        self._graph_output = context.graph_outputs[0].name
        self._empty = context.empty
        self._single = context.row_batching == "single"
        self._labels = _read_labels(context, manifest.postprocessing.labels)
        self.interface = self._describe()

    def _describe(self) -> Interface:
        side, classes = self._pre.size, len(self._labels)
        return Interface(
            inputs=(TensorSpec("image", "BYTES", (-1,)),),
            alternative_inputs=(
                (TensorSpec("image", "BYTES", (-1, 1)),),
                (TensorSpec("pixel_values", "FP32", (-1, 3, side, side)),),
            ),
            outputs=(
                TensorSpec("labels", "BYTES", (-1, -1)),
                TensorSpec("scores", "FP32", (-1, -1)),
                TensorSpec("class_ids", "INT64", (-1, -1)),
                TensorSpec("logits", "FP32", (-1, classes)),
            ),
            default_outputs=("labels", "scores", "class_ids"),
            probe=(WireTensor("image", "BYTES", (1,), join_bytes([tiny_png()])),),
        )

    def is_heavy(self, request: InferenceRequest) -> bool:
        """Decoding a picture takes milliseconds; pixel values take nothing."""
        return request.inputs[0].name == "image"

    def prepare(self, request: InferenceRequest) -> Prepared:
        """Decode and fit every picture of the request."""
        # More classes than there are means all of them.
        wished = integer(request.parameters, "top_k", default=self._top_k, low=1)
        top_k = min(wished, len(self._labels))
        tensor = request.inputs[0]
        if tensor.name == "image":
            files = enumerate(to_array(tensor).ravel())
            pixels = np.stack([self._pixels(data, row) for row, data in files])
        else:
            pixels = to_array(tensor)
        rows = len(pixels)
        groups = [(row,) for row in range(rows)] if self._single else [tuple(range(rows))]
        return Prepared(
            rows=rows,
            parts=[
                Part(
                    bucket=pixels.shape[1:],
                    rows=group,
                    arrays={self._graph_input: pixels[group[0] : group[-1] + 1]},
                )
                for group in groups
            ],
            outputs=request.outputs or self.interface.default_outputs,
            graph_outputs=(self._graph_output,),
            options={"top_k": top_k},
        )

    def collate(self, parts: Sequence[Part]) -> Mapping[str, Array]:
        """The pictures one after the other."""
        return stack(parts, self._empty)

    def reduce(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> Mapping[str, Array]:
        """The graph's scores as they are."""
        return outputs

    def finish(self, prepared: Prepared, arrays: Mapping[str, Array]) -> tuple[Tensor, ...]:
        """The best classes of each row, best first."""
        logits = arrays[self._graph_output].astype(np.float32, copy=False)
        classes = top_classes(logits, int(prepared.options["top_k"]))
        made = {
            "logits": lambda: to_tensor("logits", "FP32", logits),
            "class_ids": lambda: to_tensor("class_ids", "INT64", classes),
            "scores": lambda: to_tensor(
                "scores", "FP32", np.take_along_axis(softmax(logits), classes, axis=1)
            ),
            "labels": lambda: to_tensor("labels", "BYTES", self._labels[classes]),
        }
        return tuple(made[name]() for name in prepared.outputs)

    def _pixels(self, data: bytes, row: int) -> Array:
        picture = decode_picture(data, row=row)
        check_resized(picture, self._pre, row=row)
        return normalize(fit_picture(picture, self._pre), self._pre)


def softmax(logits: Array) -> Array:
    """Probabilities ``[rows, classes]`` of scores; the largest score is taken off first."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def top_classes(logits: Array, count: int) -> Array:
    """The classes with the highest scores, best first, INT64 ``[rows, count]``.

    Equal scores are ordered by class number, so that answers do not depend on the batch.
    """
    return np.argsort(-logits, axis=1, kind="stable")[:, :count].astype(np.int64)


def _read_labels(context: TaskContext, path: str | None) -> Array:
    classes = context.graph_outputs[0].shape[-1]
    if path is None:
        if classes < 1:
            raise _unfit("it has no labels and the graph does not say how many classes it has")
        return np.array([str(number) for number in range(classes)], dtype=object)
    lines = context.bundle.shared_bytes(path).decode("utf-8").splitlines()
    if classes not in (-1, len(lines)):
        raise _unfit(f"it has {len(lines)} labels and the graph has {classes} classes")
    return np.array(lines, dtype=object)


def _unfit(why: str) -> BundleError:
    return BundleError(
        f"The bundle does not fit the task 'image-classification': {why}.",
        hint="Prepare the bundle again.",
        reason="SignatureMismatch",
    )
