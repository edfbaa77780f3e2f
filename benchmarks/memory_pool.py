"""What a memory pool saves when batches are put together: time and page faults."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from deepseek_engine.pools import BufferPool, Buffers
from deepseek_engine.tasks.base import Part, stack

from benchmarks.machine import Stamp
from benchmarks.record import Record
from benchmarks.settings import Run
from benchmarks.stats import Rounds

__all__ = ["run"]

PICTURE = (3, 224, 224)
BATCHES = (16, 64)
CALLS = 20
WARM_UPS = 3
POOL_BYTES = 128 * 1024 * 1024
SYSTEM = "memory from the system"


def run(given: Run) -> list[Record]:
    """Put batches of pictures together with and without a pool, in turns."""
    stamp = Stamp.take("memory_pool", ("numpy",))
    records = []
    pooled, plain = Buffers(), Buffers()
    pooled.pool = BufferPool(POOL_BYTES)
    # Batches are put together on a device's thread, whose memory the C library keeps apart.
    with ThreadPoolExecutor(1) as thread:
        for batch in BATCHES:
            given.say(f"batches of {batch}")
            parts = [Part(0, (0,), {"x": np.ones((1, *PICTURE), np.float32)}) for _ in range(batch)]
            calls = given.effort.calls(CALLS)
            times: dict[bool, list[float]] = {True: [], False: []}
            faults: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(given.effort.rounds):
                for with_pool, buffers in ((True, pooled), (False, plain)):
                    call = _staging(parts, buffers)
                    seconds, count = thread.submit(_measure, call, calls).result()
                    times[with_pool].append(seconds * 1e3)
                    faults[with_pool].append(count)
            size = batch * 4 * int(np.prod(PICTURE)) / 2**20
            for metric, unit, found in (("time", "ms", times), ("page faults", "", faults)):
                records.append(
                    _record(stamp, f"{batch} pictures ({size:.0f} MiB)", metric, unit, found, calls)
                )
    return records


def _record(
    stamp: Stamp, case: str, metric: str, unit: str, found: dict[bool, list[float]], calls: int
) -> Record:
    own, other = (Rounds(tuple(found[key]), n=len(found[key]) * calls) for key in (True, False))
    if metric == "time":
        return stamp.versus(
            case, metric, unit, subject=own, peer=SYSTEM, peer_rounds=other, better="lower"
        )
    return stamp.alone(f"{case}, saved by the pool", metric, unit, subject=_minus(other, own))


def _minus(first: Rounds, second: Rounds) -> Rounds:
    pairs = zip(first.values, second.values, strict=True)
    return Rounds(tuple(a - b for a, b in pairs), n=first.n)


def _staging(parts: list[Part], buffers: Buffers) -> Callable[[], object]:
    return lambda: stack(parts, buffers.empty)


def _measure(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Median seconds, and mean page faults, of a call."""
    for _ in range(WARM_UPS):
        call()
    taken = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return float(np.median(taken)), faults / calls
