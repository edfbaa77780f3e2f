"""How the replicas of one model are written: by the operator, by an autoscaler, or by a handover.

Why it exists: ``spec.replicas`` must have one writer. Under an autoscaler the operator leaves the
field out and acts through the bounds only. Leaving out a field that one owns resets it to 1, so
another field manager holds the value until the autoscaler writes it for the first time.
"""

from __future__ import annotations

from deepseek_api.v1alpha1.autoscaling import Autoscaling

from deepseek_operator.plan import AutoscalerBounds, ModelScale
from deepseek_operator.scaling.live import LiveModel

__all__ = ["may_grow", "scale_of"]


def may_grow(live: LiveModel, *, conflicted: bool) -> bool:
    """Whether the operator may raise the replicas of a model.

    Args:
        live: the model and its objects.
        conflicted: whether somebody else's autoscaler writes the replicas.
    """
    if _untouchable(live):
        return False
    if conflicted and live.deployment is not None:
        # Only what the operator itself has set to 0 is its to start again.
        return live.replicas == 0 and not live.released
    return True


def scale_of(
    live: LiveModel, *, granted: int, ceiling: int | None, conflicted: bool, max_surge: int
) -> ModelScale:
    """How the replicas of a model are written.

    Args:
        live: the model and its objects.
        granted: replicas that it gets in the end.
        ceiling: replicas that it may have now, None if it lies outside a budget.
        conflicted: whether somebody else's autoscaler writes the replicas.
        max_surge: replicas that a rollout may start first.
    """
    now = granted if ceiling is None else min(granted, ceiling)
    scaling = live.model.spec.autoscaling
    replicas: int | None = None
    handover: int | None = None
    bounds: AutoscalerBounds | None = None
    if _untouchable(live):
        # A stranger's Deployment may go at any time; what takes its place must fit the budget.
        replicas = 0 if live.taken else None
    elif conflicted:
        replicas = 0 if live.deployment is None and now == 0 else None
        handover = None if live.released else live.replicas or now
    elif scaling is None or now == 0:
        replicas = now
    else:
        bounds = _bounds(scaling, ceiling)
        handover = _handover(live, start=now)
    return ModelScale(
        model=live.model.name,
        replicas=replicas,
        handover=handover,
        autoscaler=bounds,
        max_surge=max_surge,
        target=granted,
    )


def _untouchable(live: LiveModel) -> bool:
    """Whether there is no Deployment to scale and none can be created."""
    return live.deployment is None and (live.taken or not live.model.servable)


def _bounds(scaling: Autoscaling, ceiling: int | None) -> AutoscalerBounds:
    most = scaling.max_replicas if ceiling is None else min(scaling.max_replicas, ceiling)
    return AutoscalerBounds(minimum=min(scaling.min_replicas, most), maximum=most)


def _handover(live: LiveModel, *, start: int) -> int | None:
    """What the handover manager writes, None if it has nothing to do.

    Args:
        live: the model and its objects.
        start: replicas that the model begins with, at least 1.
    """
    if live.deployment is not None and live.replicas == 0:
        # An autoscaler is switched off while there are no replicas.
        return start
    if not live.released:
        return live.replicas
    # The API server gives a new Deployment one replica.
    present = live.replicas or 1
    return start if live.untouched and start > present else None
