"""How the operator behaves with hundreds of pipelines: ``python -m benchmarks.scale``.

A real control plane with pretended nodes holds the objects (see `scale_cluster`), so the operator
and the API server are measured and no pod. Writes ``benchmarks/results/operator_scale.json``. Not
part of ``make bench``: operator and control plane share the cores of one machine here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.record import RESULTS
from benchmarks.scale_cluster import ScaleCluster
from tests.support.operator_process import OperatorProcess
from tests.support.pipelines_on_api import SOURCE, install_crd, operator_settings, pipeline

MODELS = 3
_PAUSE = threading.Event()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--pipelines", type=int, default=500, help="applied at once")
    parser.add_argument("--rate-s", type=int, default=60, help="seconds with one new a second")
    parser.add_argument("--idle-s", type=int, default=60, help="seconds without any change")
    parser.add_argument("--output", type=Path, default=RESULTS / "operator_scale.json")
    options = parser.parse_args(argv)
    # A terminated run must leave no control plane behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with ScaleCluster(folder) as api:
            install_crd(api)
            settings = operator_settings(folder)
            with OperatorProcess(api.operator_user(), folder, settings) as operator:
                operator.wait_healthy()
                report = _measure(api, operator, options)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


def _measure(
    api: ScaleCluster, operator: OperatorProcess, options: argparse.Namespace
) -> dict[str, Any]:
    count = options.pipelines
    namespaces = [f"scale-{number}" for number in range(10)]
    for name in namespaces:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    def put(number: int) -> float:
        name, namespace = f"p{number}", namespaces[number % len(namespaces)]
        path = f"/apis/deepseek.ai/v1alpha1/namespaces/{namespace}/modelpipelines/{name}"
        api.apply(path, pipeline(name, models=[_model(index) for index in range(MODELS)]))
        return time.monotonic()

    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(count)))
    applied = time.monotonic() - started
    _wait(lambda: _deployments(api) >= count * MODELS)
    children = time.monotonic() - started
    _wait(lambda: operator.metric("deepseek_operator_pipelines", ready="True") >= count)
    ready, rss_ready = time.monotonic() - started, _rss()
    latencies = [_latency(api, put, count + number, namespaces) for number in range(options.rate_s)]
    total = count + options.rate_s
    _wait(lambda: operator.metric("deepseek_operator_pipelines", ready="True") >= total)
    before, rss_before = api.operator_requests(), _rss()
    _PAUSE.wait(options.idle_s)
    idle = (api.operator_requests() - before) / options.idle_s
    ordered = sorted(latencies)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "pipelines": count,
        "deployments": count * MODELS,
        "applySeconds": round(applied, 1),
        "childrenSeconds": round(children, 1),
        "readySeconds": round(ready, 1),
        "onePerSecond": {
            "n": len(ordered),
            "p50Seconds": round(ordered[len(ordered) // 2], 3),
            "p99Seconds": round(ordered[-(-len(ordered) * 99 // 100) - 1], 3),
        },
        "idleRequestsPerSecond": round(idle, 2),
        "operatorRssMiB": {"afterReady": rss_ready, "beforeIdle": rss_before, "afterIdle": _rss()},
    }


def _model(index: int) -> dict[str, Any]:
    return {"name": f"m{index}", "type": "NLP", "task": "text-embedding", "source": SOURCE}


def _latency(
    api: ScaleCluster, put: Callable[[int], float], number: int, namespaces: Sequence[str]
) -> float:
    """Seconds from an applied pipeline to its last Deployment; takes a second at least."""
    started = time.monotonic()
    put(number)
    namespace = namespaces[number % len(namespaces)]
    paths = [
        f"/apis/apps/v1/namespaces/{namespace}/deployments/p{number}-m{index}"
        for index in range(MODELS)
    ]
    _wait(lambda: all(api.get(path) for path in paths), timeout_s=60)
    took = time.monotonic() - started
    _PAUSE.wait(max(0.0, 1 - took))
    return took


def _deployments(api: ScaleCluster) -> int:
    # The server counts for us: one object and the number of those that remain.
    found = api.request("GET", "/apis/apps/v1/deployments?limit=1")
    return len(found["items"]) + int(found["metadata"].get("remainingItemCount", 0))


def _rss() -> float:
    for process in psutil.Process().children(recursive=True):
        if "deepseek_operator" in process.cmdline():
            return round(process.memory_info().rss / 2**20, 1)
    return 0.0


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _wait(condition: Callable[[], bool], *, timeout_s: float = 900) -> None:
    limit = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"nothing came of it in {timeout_s:g} s")
        _PAUSE.wait(0.05)


if __name__ == "__main__":
    raise SystemExit(main())
