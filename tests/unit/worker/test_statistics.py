"""Counters of ModelStatistics only grow."""

from __future__ import annotations

from deepseek_engine.client import ModelInfo, ModelState, ModelStats
from deepseek_worker.statistics import Statistics

INFO = ModelInfo(name="m", state=ModelState.READY)


def test_batches_are_counted_over_all_engine_processes() -> None:
    statistics = Statistics()
    seen = []
    # The second process starts from zero; while none runs nothing is reported.
    for reported in ({"m": 3}, {"m": 9}, {}, {"m": 0}, {"m": 4}):
        statistics.reported({name: ModelStats(batches=count) for name, count in reported.items()})
        seen.append(statistics.message(INFO).execution_count)
    assert seen == [3, 9, 9, 9, 13]
