"""The worker: answers the Open Inference Protocol and supervises the engine that computes.

Import :mod:`deepseek_worker.config` for settings and :mod:`deepseek_worker.worker` to run one.
Nothing in this package imports NumPy, torch or another runtime.
"""

from __future__ import annotations

__all__: list[str] = []
