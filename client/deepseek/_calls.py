"""Texts and pictures into requests, answers into vectors and labels.

Why it exists: ``embed`` and ``classify`` mean the same in the synchronous client, the asynchronous
client and the command line. Names of tensors are those of the tasks ``text-embedding`` and
``image-classification``; other models are called with ``infer``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from deepseek_api.errors import ConfigurationError, ErrorCode, InferenceError

from deepseek._files import read_file
from deepseek._tensors import Array
from deepseek._wire import Parameter, Result

TEXT_INPUT = "text"
EMBEDDING_OUTPUT = "embedding"
IMAGE_INPUT = "image"
LABEL_OUTPUT = "labels"
SCORE_OUTPUT = "scores"
VOLUME_INPUT = "volume"
MASK_OUTPUT = "mask"
TOP_K_PARAMETER = "top_k"

MAX_ROWS = 32
"""Rows that a client puts into one request; servers of this project accept as many by default."""

T = TypeVar("T")

Image = bytes | bytearray | memoryview | str | Path
"""An encoded picture (JPEG or PNG bytes) or the path of one."""

Labels = list[tuple[str, float]]
"""Labels with their scores, best first."""


def texts_of(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list.

    Raises:
        ConfigurationError: something in it is not a text.
    """
    if isinstance(texts, str):
        return [texts]
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise ConfigurationError(
            f"Texts must be str, but one is {type(wrong).__name__}.",
            hint="Decode bytes first, for example with .decode('utf-8').",
        )
    return list(texts)


def images_of(images: Image | Sequence[Image]) -> list[bytes]:
    """One picture or several as encoded bytes; paths are read.

    Raises:
        ConfigurationError: a file cannot be read, or something is neither bytes nor a path.
    """
    if isinstance(images, (bytes, bytearray, memoryview, str, Path)):
        images = [images]
    return [image_bytes(image) for image in images]


def image_bytes(image: Image) -> bytes:
    """The bytes of a picture; a path is read.

    Raises:
        ConfigurationError: the file cannot be read, or it is neither bytes nor a path.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if not isinstance(image, (str, Path)):
        raise ConfigurationError(
            f"A picture must be encoded bytes or a path, not {type(image).__name__}.",
            hint="Arrays of pixels go to 'infer' as the input 'pixel_values'.",
        )
    return read_file(image, what="picture")


def batches(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    """The items in runs of at most ``size``."""
    return (items[start : start + size] for start in range(0, len(items), size))


def top_k_parameters(top_k: int | None) -> dict[str, Parameter]:
    """The request parameters that ask for ``top_k`` labels; ``None`` leaves it to the model.

    Raises:
        ConfigurationError: it is below 1.
    """
    if top_k is None:
        return {}
    if top_k < 1:
        raise ConfigurationError(f"top_k is {top_k}; it must be at least 1.", hint="Try 5.")
    return {TOP_K_PARAMETER: top_k}


def embeddings_of(results: Sequence[Result]) -> Array:
    """Vectors of all batches, one row a text: ``[texts, dimensions]`` float32."""
    rows = [_output(result, EMBEDDING_OUTPUT, "text-embedding") for result in results]
    return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


def labels_of(results: Sequence[Result]) -> list[Labels]:
    """Labels of all batches, one list a picture."""
    answers: list[Labels] = []
    for result in results:
        labels = _output(result, LABEL_OUTPUT, "image-classification")
        scores = _output(result, SCORE_OUTPUT, "image-classification")
        answers += [
            [
                (label.decode(errors="replace"), float(score))
                for label, score in zip(row_labels, row_scores, strict=True)
            ]
            for row_labels, row_scores in zip(labels, scores, strict=True)
        ]
    return answers


def _output(result: Result, name: str, task: str) -> Array:
    if name not in result.outputs:
        raise InferenceError(
            f"The model '{result.model}' gave no output '{name}', so it is no {task} model.",
            code=ErrorCode.FAILED_PRECONDITION,
            hint="Call it with 'infer'; 'metadata' lists its inputs and outputs.",
            reason="UnexpectedOutputs",
        )
    return result.outputs[name]
