"""What must hold of every moment that a sampler saw. Pure: samples in, complaints out.

Each check gives a list of sentences, empty when all is well, so that a failed run says what was
wrong and when. The rules about disturbed moments:

- **Ready.** Status is true when every model has its Deployment and as many ready pods as it was
  granted. An operator that is down or cut off cannot tell, so its last status may stand until it
  is ready and reaches the API server again. From then on it has `LIE_S` seconds. The same time
  passes at most between a pod's end and the status that tells of it.
- **Budget.** What may come to exist without another write of the operator (``spec.replicas``, or
  the maximum of a model's autoscaler) never exceeds the budget. Neither do the pods that exist,
  ending ones included, but for those that the test itself killed or orphaned by deleting their
  Deployment: their replacement starts beside them, which is the ReplicaSet's doing, and the
  operator has no say in it.
- **One writer.** A fixed model's replicas belong to the operator's manager alone. An autoscaled
  model's replicas change by a decision of its autoscaler only; the handover manager may write once
  before the first decision about a new Deployment, and is gone after it.
- **No orphan.** An object whose owner is gone is collected within `ORPHAN_S` seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Final

from tests.support.cluster_sampler import Census, Sample, Sampler

__all__ = [
    "AUTOSCALER", "HANDOVER", "LIE_S", "MANAGER", "ORPHAN_S", "autoscaler_complaints",
    "budget_complaints", "fixed_writer_complaints", "longest", "longest_lie", "longest_orphan",
    "median_gap", "most_possible", "rate_complaints", "required", "untruths",
]  # fmt: skip

LIE_S: Final = 10.0
"""A change is seen by the kubelet, the Deployment's controller and the operator within this time,
also after a cut watch."""
ORPHAN_S: Final = 30.0
"""The garbage collector looks again at what it missed within this time."""
MANAGER: Final = "deepseek-operator"
HANDOVER: Final = "deepseek-operator-handover"
AUTOSCALER: Final = "kube-controller-manager"
_DECIDED_S: Final = 3.0
"""An autoscaler writes replicas first and its own status right after."""
_MEDIAN_S: Final = 0.15
_MISSED: Final = 0.05
_ENOUGH: Final = 10


def longest(points: Iterable[tuple[float, bool, int]]) -> float:
    """The longest time for which something was so, seconds.

    Args:
        points: time, whether it was so, and an epoch; a new epoch begins to count anew.
    """
    most, since, epoch_since = 0.0, None, None
    for at, so, epoch in points:
        if not so:
            since = None
        elif since is None or epoch != epoch_since:
            since, epoch_since = at, epoch
        else:
            most = max(most, at - since)
    return most


def required(sample: Sample, model: str) -> int:
    """Ready replicas that Ready promises for a model: those granted.

    What is granted to an autoscaled model is room for its autoscaler, which decides inside it: its
    floor at least, and what the autoscaler has asked for.
    """
    granted = sample.granted.get(model, 0)
    scaler = sample.autoscalers.get(model)
    if scaler is None or granted == 0:
        return granted
    asked = max(sample.replicas.get(model, 0), sample.floors.get(model, 0))
    return max(scaler.minimum, min(asked, granted))


def untruths(sample: Sample) -> list[str]:
    """What a status that says Ready gets wrong."""
    if not sample.says_ready:
        return []
    found = [] if sample.granted else ["Ready without any grant"]
    for model in sample.granted:
        wanted, ready = required(sample, model), sample.ready.get(model, 0)
        if wanted and model not in sample.replicas:
            found.append(f"{model} has no Deployment")
        elif ready < wanted:
            found.append(f"{model} has {ready} of {wanted} ready")
    return found


def longest_lie(samples: Sequence[Sample]) -> float:
    """Longest time for which an operator that could tell said Ready and it was not so, seconds."""
    return longest(
        (s.at, bool(untruths(s)) and s.operators > 0 and not s.blind, s.epoch) for s in samples
    )


def most_possible(sample: Sample) -> int:
    """Replicas that may come to exist without another write of the operator."""
    return sum(
        max(count, sample.autoscalers[model].maximum if model in sample.autoscalers else 0)
        for model, count in sample.replicas.items()
    )


def budget_complaints(
    samples: Sequence[Sample], budget: int, *, killed: Collection[str] = ()
) -> list[str]:
    """Moments that hold more than the budget."""
    found = []
    for sample in samples:
        if (possible := most_possible(sample)) > budget:
            found.append(f"{_when(samples, sample)}: {possible} replicas may exist: {sample}")
        pods = sum(pod.uid not in killed for pod in sample.seen)
        if pods > budget:
            found.append(f"{_when(samples, sample)}: {pods} pods exist: {sample}")
    return found


def fixed_writer_complaints(samples: Sequence[Sample], model: str) -> list[str]:
    """Moments in which somebody else than the operator holds a fixed model's replicas."""
    return [
        f"{_when(samples, sample)}: {model} is written by {sample.writers.get(model)}"
        for sample in samples
        if model in sample.replicas and sample.writers.get(model) != (MANAGER,)
    ]


def autoscaler_complaints(samples: Sequence[Sample], model: str) -> list[str]:
    """Changes of an autoscaled model's replicas that its autoscaler did not decide, and writers."""
    seen = [sample for sample in samples if model in sample.replicas]
    found: list[str] = []
    scaled: dict[str, bool] = {}
    for sample in seen:
        uid, writers = sample.uids.get(model, ""), set(sample.writers.get(model, ()))
        scaled[uid] = scaled.get(uid, False) or AUTOSCALER in writers
        if wrong := {w for w in writers if w.startswith(MANAGER)} - {HANDOVER}:
            found.append(f"{_when(samples, sample)}: {model} is written by {sorted(wrong)}")
        if scaled[uid] and HANDOVER in writers:
            found.append(f"{_when(samples, sample)}: the handover of {model} outlives its end")
    handed: set[str] = set()
    for place, (before, after) in enumerate(pairwise(seen), start=1):
        uid = after.uids.get(model, "")
        if before.uids.get(model, "") != uid or before.replicas[model] == after.replicas[model]:
            continue
        first = uid not in handed and AUTOSCALER not in before.writers.get(model, ())
        if first and HANDOVER in after.writers.get(model, ()):
            handed.add(uid)
        elif not _decided(seen, place, model):
            change = f"{before.replicas[model]} -> {after.replicas[model]}"
            found.append(
                f"{_when(samples, after)}: {model} {change} without a decision of its autoscaler: "
                f"{after.autoscalers.get(model)}, written by {after.writers.get(model)}"
            )
    return found


def _decided(seen: Sequence[Sample], place: int, model: str) -> bool:
    """Whether the autoscaler says soon after the change to a sample that it made it."""
    changed = seen[place]
    # The one right before may show the decision already: autoscalers are read last.
    before = seen[max(0, place - 2)]
    earlier = before.autoscalers.get(model)
    for sample in seen[place:]:
        if sample.at - changed.at > _DECIDED_S:
            break
        scaler = sample.autoscalers.get(model)
        if scaler is None or scaler.desired != changed.replicas[model]:
            continue
        # Between the two writes the API server may have been killed; then only the wish is left.
        cut = sample.epoch != before.epoch
        if cut or earlier is None or scaler.last_scale != earlier.last_scale:
            return True
    return False


def longest_orphan(census: Sequence[Census]) -> tuple[float, str]:
    """How long an object existed without a living owner, seconds, and which one longest."""
    every = sorted(frozenset[str]().union(*(one.ownerless for one in census)))
    times = [
        (longest((one.at, name in one.ownerless, one.epoch) for one in census), name)
        for name in every
    ]
    return max(times, default=(0.0, ""))


def median_gap(sampler: Sampler) -> float:
    """Median time between two samples, but for when the API server was kept away, seconds.

    Raises:
        statistics.StatisticsError: there are less than two samples.
    """
    return statistics.median(
        after.at - before.at
        for before, after in pairwise(sampler.samples)
        if before.epoch == after.epoch
    )


def rate_complaints(sampler: Sampler) -> list[str]:
    """Whether the sampler really looked every 100 ms, but for when the API server was kept away."""
    if len(sampler.samples) < _ENOUGH:
        return [f"there are only {len(sampler.samples)} samples"]
    found = []
    if (gap := median_gap(sampler)) > _MEDIAN_S:
        found.append(f"half of the samples are more than {gap:.3f} s apart")
    share = sampler.missed / (sampler.missed + len(sampler.samples))
    if share > _MISSED:
        found.append(f"{share:.0%} of the samples were missed")
    return found


def _when(samples: Sequence[Sample], sample: Sample) -> str:
    return f"at {sample.at - samples[0].at:.1f} s"
