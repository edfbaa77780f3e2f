"""Answers of an engine in this process as the SDK's values.

Why it exists: they are the same values that a server's answers become; no network is between.
"""

from __future__ import annotations

from typing import Any

from deepseek_engine.messages import InferenceResponse

from deepseek._calls import EMBEDDING_OUTPUT, LABEL_OUTPUT, SCORE_OUTPUT
from deepseek._tensors import decode
from deepseek._wire import Parameter, Result

__all__ = ["result_of", "rows_of"]


def result_of(response: InferenceResponse, model: str) -> Result:
    """The answer to a request for a model."""
    outputs = {t.name: decode(t.datatype, t.shape, memoryview(t.data)) for t in response.outputs}
    timing = response.timing
    parameters: dict[str, Parameter] = {
        "variant": response.variant,
        "precision": response.precision,
        "queue_ms": timing.queue_ms,
        "compute_ms": timing.compute_ms,
        "batch_rows": timing.batch_rows,
    }
    if response.random_weights:
        parameters["random_weights"] = True
    return Result(outputs, parameters | dict(response.parameters), model)


def rows_of(result: Result) -> list[Any]:
    """An answer, cut into the answers to its rows."""
    if EMBEDDING_OUTPUT in result.outputs:
        return list(result.outputs[EMBEDDING_OUTPUT])
    if LABEL_OUTPUT in result.outputs:
        rows = zip(result.outputs[LABEL_OUTPUT], result.outputs[SCORE_OUTPUT], strict=True)
        return [
            [
                (name.decode(errors="replace"), float(score))
                for name, score in zip(*row, strict=True)
            ]
            for row in rows
        ]
    count = len(next(iter(result.outputs.values())))
    return [{name: array[row] for name, array in result.outputs.items()} for row in range(count)]
