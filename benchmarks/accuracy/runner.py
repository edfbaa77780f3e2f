"""Runs the accuracy bench: every subject and seed that is not known yet, some at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from benchmarks.accuracy import digits, real, texts, volumes
from benchmarks.accuracy.figures import SeedFigures, records_of
from benchmarks.accuracy.measuring import measure_seed
from benchmarks.accuracy.store import PACKAGES, Figures
from benchmarks.accuracy.subject import Effort, Subject
from benchmarks.machine import Stamp
from benchmarks.record import Record
from benchmarks.settings import Say

__all__ = ["SUBJECTS", "measure", "part_of", "records"]

SUBJECTS: tuple[Subject, ...] = (
    *digits.SUBJECTS,
    *texts.SUBJECTS,
    *volumes.SUBJECTS,
    *real.SUBJECTS,
)


def part_of(subject: Subject) -> str:
    """The name by which a command line knows a subject."""
    return subject.name.lower().replace(" ", "-")


def measure(subjects: Collection[Subject], effort: Effort, say: Say, *, processes: int) -> None:
    """Measure what is not kept yet; what is done stays when the rest is interrupted."""
    missing = [
        (subject.name, seed)
        for subject in subjects
        for seed in subject.seeds
        if Figures.of(subject, effort).read(seed) is None
    ]
    if not missing:
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(min(processes, len(missing)), mp_context=context) as pool:
        tasks = {pool.submit(_measure, *each, effort): each for each in missing}
        try:
            for number, task in enumerate(as_completed(tasks), start=1):
                task.result()
                name, seed = tasks[task]
                say(f"{number} of {len(missing)}: {name}, seed {seed}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _measure(name: str, seed: int, effort: Effort) -> None:
    measure_seed(next(s for s in SUBJECTS if s.name == name), seed, effort)


def records(effort: Effort) -> tuple[list[Record], list[str]]:
    """Records of all subjects whose figures are complete, and the names of the others."""
    stamp = Stamp.take("accuracy", PACKAGES)
    complete: list[Record] = []
    missing: list[str] = []
    for subject in SUBJECTS:
        found = [figures for figures in _kept(subject, effort) if figures is not None]
        if len(found) == len(subject.seeds):
            complete += records_of(stamp, subject, found)
        else:
            missing.append(part_of(subject))
    return complete, missing


def _kept(subject: Subject, effort: Effort) -> Iterator[SeedFigures | None]:
    kept = Figures.of(subject, effort)
    return (kept.read(seed) for seed in subject.seeds)
