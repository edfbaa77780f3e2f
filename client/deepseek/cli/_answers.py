"""Answers of models as a person wants to read them, and as JSON.

Why it exists: ``deepseek infer``, ``deepseek-infer`` and the demo show vectors and labels alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from deepseek._calls import EMBEDDING_OUTPUT, LABEL_OUTPUT, Labels, labels_of
from deepseek._tensors import Array, datatype_of
from deepseek._wire import Result
from deepseek.cli._console import out, say, show, table, warn

SHOWN_VALUES = 4


def cosine(first: Array, second: Array) -> float:
    """Cosine similarity of two vectors; 0 if one of them is zero."""
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.dot(first, second)) / scale if scale else 0.0


def show_answer(
    result: Result, latency_ms: float, *, texts: Sequence[str], images: Sequence[str]
) -> None:
    """Print an answer: a table by task, then precision and latency."""
    if EMBEDDING_OUTPUT in result.outputs and texts:
        show_vectors(result.outputs[EMBEDDING_OUTPUT], texts)
    elif LABEL_OUTPUT in result.outputs and images:
        show_labels(images, labels_of([result]))
    else:
        _show_tensors(result)
    say(summary(result, latency_ms))
    if result.parameters.get("random_weights"):
        out().print(warn("The weights of this model are random: its answers mean nothing."))


def summary(result: Result, latency_ms: float) -> str:
    """One line on how the answer was made: precision, variant, latency."""
    parts = [f"{latency_ms:.1f} ms"]
    if precision := result.parameters.get("precision"):
        variant = result.parameters.get("variant")
        parts.insert(0, f"{precision} (variant {variant})" if variant else str(precision))
    return f"{result.model}: {', '.join(parts)}"


def show_vectors(vectors: Array, texts: Sequence[str]) -> None:
    """Print vectors ``[texts, dimensions]`` by their first values; two texts also compared."""
    rows = [
        (
            text,
            str(vector.size),
            " ".join(f"{value:+.3f}" for value in vector[:SHOWN_VALUES]) + " …",
        )
        for text, vector in zip(texts, vectors, strict=True)
    ]
    show(table(("TEXT", "DIMENSIONS", "VECTOR"), rows, right=["DIMENSIONS"], fixed=["VECTOR"]))
    if len(texts) == 2:
        say(f"cosine similarity: {cosine(vectors[0], vectors[1]):.4f}", style="bold")


def _first_values(vector: Array) -> str:
    shown = " ".join(f"{value:+.3f}" for value in vector[:SHOWN_VALUES])
    return f"{shown} …" if vector.size > SHOWN_VALUES else shown


def show_labels(images: Sequence[str], answers: Sequence[Labels]) -> None:
    """Print the labels of pictures, best first."""
    rows = [
        (PurePath(image).name if rank == 0 else "", label, f"{score:.1%}")
        for image, labels in zip(images, answers, strict=True)
        for rank, (label, score) in enumerate(labels)
    ]
    show(table(("PICTURE", "LABEL", "SCORE"), rows, right=["SCORE"]))


def show_masks(names: Sequence[str], masks: Sequence[Array]) -> None:
    """Print how much of each volume every class has, background included."""
    rows = [
        (name if rank == 0 else "", str(number), f"{count:,}", f"{count / mask.size:.1%}")
        for name, mask in zip(names, masks, strict=True)
        for rank, (number, count) in enumerate(
            zip(*np.unique(mask, return_counts=True), strict=True)
        )
    ]
    right = ("CLASS", "VOXELS", "SHARE")
    show(table(("VOLUME", *right), rows, right=right))


def _show_tensors(result: Result) -> None:
    rows = [
        (name, datatype_of(array), str(list(array.shape)), _preview(array))
        for name, array in result.outputs.items()
    ]
    show(table(("OUTPUT", "TYPE", "SHAPE", "FIRST VALUES"), rows, fixed=["TYPE", "SHAPE"]))


def _preview(array: Array) -> str:
    values = array.reshape(-1)[: SHOWN_VALUES * 2].tolist()
    shown = [f"{v:.4g}" if isinstance(v, float) else str(_plain(v)) for v in values]
    return " ".join(shown) + (" …" if array.size > len(values) else "")


def as_json(result: Result, latency_ms: float) -> dict[str, Any]:
    """The answer in the form of the v2 protocol's REST part, with the latency seen here."""
    vectors = result.outputs.get(EMBEDDING_OUTPUT)
    extra: dict[str, Any] = {"latency_ms": round(latency_ms, 3)}
    if vectors is not None and vectors.ndim == 2 and len(vectors) == 2:
        extra["cosine_similarity"] = cosine(vectors[0], vectors[1])
    outputs = [
        {
            "name": name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
            "data": [_plain(value) for value in array.reshape(-1).tolist()],
        }
        for name, array in result.outputs.items()
    ]
    return {
        "model_name": result.model,
        "parameters": result.parameters,
        "outputs": outputs,
        **extra,
    }


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
