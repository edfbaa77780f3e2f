"""Inputs that all subjects of a bench share: arrays in a file, or texts."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from deepseek_engine.codec import Array, to_tensor
from deepseek_engine.messages import Tensor

__all__ = ["BenchInput", "read_inputs", "tokenize", "write_arrays"]

_DATATYPES = {"int64": "INT64", "float32": "FP32"}
_SEPARATOR = "/"


@dataclass(frozen=True, slots=True)
class BenchInput:
    """What one call gets: arrays by name, or texts."""

    arrays: dict[str, Array] = field(default_factory=dict)
    texts: tuple[str, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """The input as a request carries it."""
        if self.texts:
            encoded = [text.encode() for text in self.texts]
            data = b"".join(struct.pack("<I", len(text)) + text for text in encoded)
            return (Tensor("text", "BYTES", (len(encoded),), data),)
        return tuple(
            to_tensor(name, _DATATYPES[array.dtype.name], array)
            for name, array in self.arrays.items()
        )


def write_arrays(path: Path, inputs: Sequence[Mapping[str, Array]]) -> str:
    """Write inputs for child processes; return the path as text."""
    named = {
        f"{number}{_SEPARATOR}{name}": array
        for number, arrays in enumerate(inputs)
        for name, array in arrays.items()
    }
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **named)
    return str(path)


def read_inputs(spec: Mapping[str, Any]) -> list[BenchInput]:
    """The inputs of a specification: ``texts`` (one list a call) or ``arrays`` (a file)."""
    if "texts" in spec:
        return [BenchInput(texts=tuple(texts)) for texts in spec["texts"]]
    inputs: dict[int, dict[str, Array]] = {}
    with np.load(spec["arrays"]) as stored:
        for key in stored.files:
            number, name = key.split(_SEPARATOR, 1)
            inputs.setdefault(int(number), {})[name] = stored[key]
    return [BenchInput(arrays=inputs[number]) for number in sorted(inputs)]


def tokenize(tokenizer: Any, texts: Sequence[str]) -> dict[str, Array]:
    """Token ids and mask of texts ``[texts, longest]``, as the tokenizer's file wants it."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
