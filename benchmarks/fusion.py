"""``deepseek_fuse`` beside the function that it folds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from deepseek_kernels.fusion import deepseek_fuse
from torch import Tensor

from benchmarks.driver import BenchError
from benchmarks.machine import Stamp
from benchmarks.record import Record
from benchmarks.settings import Run
from benchmarks.stats import Rounds

__all__ = ["run"]

STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))
"""Channels, and height and width, of the stages of a ResNet."""
BATCHES = (1, 8)
CALLS = 20
WARM_UPS = 2
PEER = "the function as it is written"


def block(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor,
          variance: Tensor) -> Tensor:  # fmt: skip
    x = F.conv2d(x, weight, bias, padding=1)
    return F.relu(F.batch_norm(x, mean, variance, gamma, beta))


def run(given: Run) -> list[Record]:
    """Time every stage and batch size, folded and not, in turns."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    stamp = Stamp.take("fusion", ("torch",))
    calls = given.effort.calls(CALLS)
    records = []
    with torch.no_grad():
        for batch in BATCHES:
            for channels, size in STAGES:
                case = f"{batch} x {channels} channels, {size} x {size}"
                given.say(case)
                arguments = _arguments(batch, channels, size)
                subjects: dict[str, Callable[..., Any]] = {"own": deepseek_fuse(block), PEER: block}
                times = _times(subjects, arguments, rounds=given.effort.rounds, calls=calls)
                records.append(
                    stamp.versus(
                        case,
                        "latency",
                        "ms",
                        subject=Rounds(tuple(times["own"]), n=len(times["own"]) * calls),
                        peer=PEER,
                        peer_rounds=Rounds(tuple(times[PEER]), n=len(times[PEER]) * calls),
                        better="lower",
                    )
                )
    return records


def _arguments(batch: int, channels: int, size: int) -> tuple[Tensor, ...]:
    vectors = [torch.randn(channels) for _ in range(4)]
    weight = torch.randn(channels, channels, 3, 3) / (3 * channels**0.5)
    return (
        torch.randn(batch, channels, size, size),
        weight,
        *vectors,
        torch.rand(channels) + 0.1,
    )


def _times(
    subjects: dict[str, Callable[..., Any]],
    arguments: tuple[Tensor, ...],
    *,
    rounds: int,
    calls: int,
) -> dict[str, list[float]]:
    """Median milliseconds of a call, by round."""
    answers = [function(*arguments) for function in subjects.values() for _ in range(WARM_UPS)]
    if not torch.allclose(answers[0], answers[-1], rtol=1e-3, atol=1e-4):
        raise BenchError("the folded function gives something else")
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        taken: dict[str, list[float]] = {name: [] for name in subjects}
        # By turns within a round too: a call takes milliseconds, and a stall of the machine tens.
        for _ in range(calls):
            for name, function in subjects.items():
                started = time.perf_counter()
                function(*arguments)
                taken[name].append((time.perf_counter() - started) * 1e3)
        for name, values in taken.items():
            times[name].append(statistics.median(values))
    return times
