"""Records for the tests of the page, the bars and the files."""

from __future__ import annotations

from typing import Any

from benchmarks.record import Record, Spread


def record(**fields: Any) -> Record:
    """A record of the encoder bench; fields replace the usual ones."""
    usual: dict[str, Any] = {
        "bench": "encoder_cpu",
        "case": "int8 as served (int8-avx2)",
        "metric": "latency",
        "value": 80.0,
        "unit": "ms",
        "peer": "ONNX Runtime fp32",
        "peer_value": 160.0,
        "ratio": 2.0,
        "device": "Some CPU (x86_64, avx2, 2 threads)",
        "versions": {"python": "3.11.9", "onnxruntime": "1.31.1"},
        "n": 70,
        "spread": Spread(low=78.0, high=85.0, ratio_low=1.9, ratio_high=2.05),
        "commit": "0123456789ab",
        "date": "2026-01-02",
    }
    return Record(**(usual | fields))


def fact(**fields: Any) -> Record:
    """A record without peer and spread."""
    alone = {"peer": None, "peer_value": None, "ratio": None, "spread": None}
    return record(**(alone | fields))
