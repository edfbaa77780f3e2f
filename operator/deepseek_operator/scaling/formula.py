"""The replicas that an autoscaler would ask for without its upper bound.

Why it exists: an autoscaler at its bound reports the bound, and a model that is held down by a
grant could never show that it needs more. The numbers behind the decision are in its status.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from deepseek_operator.observed import K8sObject
from deepseek_operator.scaling.live import mapping
from deepseek_operator.scaling.quantity import parse_quantity

__all__ = ["wished_replicas"]

_SOURCES: Final = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
}
_VALUES: Final = ("averageUtilization", "averageValue", "value")


def wished_replicas(autoscaler: K8sObject) -> int | None:
    """The largest of what the metrics ask for, None if no metric can be computed.

    Metrics of spec and status belong together by index; their names are not unique.
    """
    status = mapping(autoscaler.get("status"))
    replicas = int(status.get("currentReplicas") or 0)
    wanted = mapping(autoscaler.get("spec")).get("metrics") or ()
    current = status.get("currentMetrics") or ()
    ratios = [_ratio(*pair) for pair in zip(wanted, current, strict=False)]
    return max((math.ceil(replicas * ratio) for ratio in ratios if ratio is not None), default=None)


def _ratio(wanted: Mapping[str, Any], current: Mapping[str, Any]) -> Fraction | None:
    """Current value over target."""
    field = _SOURCES.get(str(wanted.get("type")))
    if field is None or current.get("type") != wanted.get("type"):
        return None
    target = mapping(mapping(wanted.get(field)).get("target"))
    reported = mapping(mapping(current.get(field)).get("current"))
    for name in _VALUES:
        if target.get(name) is None or reported.get(name) is None:
            continue
        goal, value = parse_quantity(target[name]), parse_quantity(reported[name])
        if goal and value is not None:
            return value / goal
    return None
