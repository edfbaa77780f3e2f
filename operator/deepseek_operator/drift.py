"""Whether an object of the cluster still is what was applied.

Why it exists: applying everything on every look would work (the server ignores what is equal) and
would cost a request an object. The comparison asks only whether everything that is wanted is there
with that value: what the server or others added is theirs. A field that is no longer wanted is
found by the annotation with the hash of what was applied. Sending what differs is the business of
`applying`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepseek_operator.hashing import short_hash
from deepseek_operator.labels import APPLIED
from deepseek_operator.observed import K8sObject
from deepseek_operator.scaling.quantity import parse_quantity

__all__ = ["differs", "stamped"]

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "ownerReferences": ("uid",),
}
"""Lists that the server merges by a key; others may add items to them. Ports are compared in order:
their key has a default, the server keeps the order, and nobody adds ports to these objects."""
_ATOMIC: Final = frozenset({"selector", "podSelector", "matchLabels", "nodeSelector"})
"""Objects that the server replaces as a whole: one more label selects something else, so nobody
else's keys are allowed in them."""
_AMOUNTS: Final = frozenset({"requests", "limits", "overhead"})
"""Objects whose values are quantities."""
_QUANTITIES: Final = frozenset({"sizeLimit", "averageValue", "divisor"})
"""Fields that are quantities wherever they stand."""
_DROPPED_WHEN_FALSE: Final = frozenset(
    {"hostNetwork", "hostPID", "hostIPC", "readOnly", "stdin", "stdinOnce", "tty", "paused"}
    | {"publishNotReadyAddresses"}
)
"""Fields that the server leaves out when they are false; elsewhere absent means a default."""
_DROPPED_WHEN_ZERO: Final = frozenset({"initialDelaySeconds", "minReadySeconds"})
"""Fields that the server leaves out when they are 0."""


def stamped(body: K8sObject) -> K8sObject:
    """The object with the hash of itself in an annotation."""
    metadata = body["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: short_hash(body, length=16)}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def differs(desired: K8sObject, live: K8sObject) -> bool:
    """Whether something of ``desired`` is absent from ``live`` or has another value there.

    Args:
        desired: what `stamped` gave.
        live: the object as the server sent it.
    """
    return not _holds(desired, live, field="", parent="")


def _holds(want: Any, have: Any, *, field: str, parent: str) -> bool:
    if _is_left_out(want, field) and (have is None or _is_left_out(have, field)):
        return True
    if isinstance(want, Mapping):
        if not isinstance(have, Mapping) or (field in _ATOMIC and have.keys() - want.keys()):
            return False
        return all(
            _holds(value, have.get(name), field=name, parent=field) for name, value in want.items()
        )
    if isinstance(want, Sequence) and not isinstance(want, str):
        return _list_holds(want, have, field)
    if _is_quantity(field, parent):
        amount = parse_quantity(want)
        return amount == parse_quantity(have) if amount is not None else bool(want == have)
    # True equals 1 in Python and nowhere else.
    return type(want) is type(have) and bool(want == have)


def _is_left_out(value: Any, field: str) -> bool:
    if value is None or (isinstance(value, Mapping | Sequence) and len(value) == 0):
        return True
    return (value is False and field in _DROPPED_WHEN_FALSE) or (
        type(value) is int and value == 0 and field in _DROPPED_WHEN_ZERO
    )


def _is_quantity(field: str, parent: str) -> bool:
    # A `value` is one in the target of a metric and text in an environment variable.
    return parent in _AMOUNTS or field in _QUANTITIES or (parent, field) == ("target", "value")


def _list_holds(want: Sequence[Any], have: Any, field: str) -> bool:
    if not isinstance(have, Sequence) or isinstance(have, str):
        return False
    key = _KEYS.get(field)
    if key is not None and all(isinstance(item, Mapping) for item in (*want, *have)):
        by_key = {_identity(item, key): item for item in have}
        return all(
            _holds(item, by_key.get(_identity(item, key)), field="", parent=field) for item in want
        )
    # Nothing else owns a part of such a list, and an empty item means "anything".
    return len(want) == len(have) and all(
        _holds(one, other, field="", parent=field) and bool(one) == bool(other)
        for one, other in zip(want, have, strict=True)
    )


def _identity(item: Mapping[str, Any], key: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(item.get(part)) for part in key)
