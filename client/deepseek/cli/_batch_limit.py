"""The limit of a batch as a number of samples or as a share of memory.

Why it exists: ``--max_batch_size 70%`` asks for as many samples as fit into 70 % of the memory that
is free. How much a sample takes depends on the model, so it is measured on the loaded model.
"""

from __future__ import annotations

import re
import resource
from typing import TYPE_CHECKING

from deepseek_api.errors import ConfigurationError
from deepseek_engine.hardware import detect_memory

from deepseek.cli import _samples

if TYPE_CHECKING:
    from deepseek import InferenceEngine

MOST_ROWS = 256
"""More rows than this gain nothing on a processor and make every request wait."""
_PROBE_ROWS = 16
_LEAST_BYTES = 64 * 1024
"""Taken for a sample when its growth is below what can be seen."""


def parse_limit(text: str) -> int | float:
    """A number of samples (int), or a share of memory between 0 and 1 (float).

    Raises:
        ConfigurationError: it is neither.
    """
    share = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%", text.strip())
    if share and 0 < float(share[1]) <= 100:
        return float(share[1]) / 100
    if text.strip().isdigit() and int(text) >= 1:
        return int(text)
    raise ConfigurationError(
        f"'{text}' is not a limit for batches.",
        hint="Write a number of samples such as 32, or a share of memory such as 70%.",
    )


def rows_for(limit: int | float, engine: InferenceEngine) -> int:
    """The samples that may be computed together under a limit."""
    if isinstance(limit, int):
        return limit
    free = detect_memory().usable
    return max(1, min(MOST_ROWS, int(limit * free / _bytes_per_row(engine))))


def _bytes_per_row(engine: InferenceEngine) -> float:
    """Growth of this process' largest memory from a batch of 1 to a larger one, per sample."""
    engine.batch_infer(_samples.synthetic(engine.info, 1), batch_size=1)
    before = _peak_bytes()
    engine.batch_infer(_samples.synthetic(engine.info, _PROBE_ROWS), batch_size=_PROBE_ROWS)
    return max(_LEAST_BYTES, (_peak_bytes() - before) / (_PROBE_ROWS - 1))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
