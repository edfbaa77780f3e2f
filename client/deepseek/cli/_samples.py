"""Samples of ``deepseek-infer``: read from files, made up for measuring, and their answers.

Why it exists: what a sample is depends on the model's task, and three modules need the same rule.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from deepseek_api.errors import ConfigurationError
from deepseek_engine.messages import ModelInfo, TensorSpec

from deepseek._calls import IMAGE_INPUT, MASK_OUTPUT, TEXT_INPUT, VOLUME_INPUT
from deepseek._files import read_file
from deepseek._tensors import DTYPES, Array
from deepseek.cli._answers import show_labels, show_masks, show_vectors
from deepseek.cli._console import say, show, table

_SENTENCE = "The quick answer is often right and the slow answer is sometimes better than that"
_FREE_DIMENSION = 16
_VOLUME = (32, 64, 64)
"""Voxels of a made-up volume: small, so that a look takes seconds on a processor."""


def read_samples(
    info: ModelInfo, texts: Sequence[str], files: Sequence[str]
) -> tuple[list[str], list[Any]]:
    """Samples and what to call them.

    A text model takes texts, or files with one text a line; an image model takes pictures; a
    model of volumes takes arrays ``[D, H, W]`` or ``[channels, D, H, W]`` as NumPy's ``.npy``.

    Raises:
        ConfigurationError: the model takes something else, or a file cannot be read.
    """
    takes = info.inputs[0].name if info.inputs else ""
    if takes == TEXT_INPUT:
        lines = [line for file in files for line in _lines(file)]
        found = [*texts, *lines]
        return found, list(found)
    if takes == IMAGE_INPUT and files:
        return [PurePath(file).name for file in files], [Path(file) for file in files]
    if takes == VOLUME_INPUT and files:
        return [PurePath(file).name for file in files], [_volume(file) for file in files]
    raise ConfigurationError(
        f"A model of task '{info.task}' cannot take this input.",
        hint="Give pictures with --input to an image model, texts with --text to a text model.",
    )


def _volume(file: str) -> dict[str, Array]:
    data = read_file(file, what="volume")
    try:
        voxels = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
    except (ValueError, EOFError, TypeError) as error:
        raise ConfigurationError(
            f"The volume '{file}' is not an array of numbers.",
            hint="Write it with numpy.save(path, voxels).",
        ) from error
    return {VOLUME_INPUT: voxels[None] if voxels.ndim == 3 else voxels}


def _lines(file: str) -> list[str]:
    text = read_file(file, what="text file").decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def synthetic(info: ModelInfo, count: int) -> list[Any]:
    """Made-up samples that fit a model's signature, always the same ones."""
    if info.inputs and info.inputs[0].name == TEXT_INPUT:
        return [f"{_SENTENCE} {number}." for number in range(count)]
    random = np.random.default_rng(0)
    specs = _numeric_inputs(info)
    return [{spec.name: _values(spec, random) for spec in specs} for _ in range(count)]


def _numeric_inputs(info: ModelInfo) -> Sequence[TensorSpec]:
    """The first complete set of inputs that holds no encoded files."""
    for specs in (info.inputs, *info.alternative_inputs):
        if all(spec.datatype in DTYPES for spec in specs):
            return specs
    raise ConfigurationError(
        f"Samples for the inputs of a '{info.task}' model cannot be made up.",
        hint="Give real ones with --input.",
    )


def _values(spec: TensorSpec, random: np.random.Generator) -> Array:
    shape = [size if size > 0 else _FREE_DIMENSION for size in spec.shape[1:]]
    if spec.name == VOLUME_INPUT:
        shape[-len(_VOLUME) :] = _VOLUME
    dtype = DTYPES[spec.datatype]
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    # Ones, because an integer may be an index or a mask, where one is always allowed.
    return np.ones(shape, dtype)


def show_answers(info: ModelInfo, names: Sequence[str], answers: Sequence[Any]) -> None:
    """Print answers as a table by task."""
    if info.inputs[0].name == TEXT_INPUT:
        show_vectors(np.stack(answers), names)
    elif info.inputs[0].name == IMAGE_INPUT:
        show_labels(names, answers)
    elif info.inputs[0].name == VOLUME_INPUT:
        show_masks(names, [answer[MASK_OUTPUT] for answer in answers])
    else:
        show(
            table(
                ("SAMPLE", "OUTPUTS"),
                [(n, ", ".join(a)) for n, a in zip(names, answers, strict=True)],
            )
        )
    say(f"{info.precision} (variant {info.variant})")


def answers_as_json(names: Sequence[str], answers: Sequence[Any]) -> list[dict[str, Any]]:
    """Answers for programs, one object a sample."""
    return [
        {"input": name, "output": _plain(answer)}
        for name, answer in zip(names, answers, strict=True)
    ]


def _plain(answer: Any) -> Any:
    if isinstance(answer, np.ndarray):
        return answer.tolist()
    if isinstance(answer, Mapping):
        return {name: array.tolist() for name, array in answer.items()}
    return [{"label": label, "score": score} for label, score in answer]
