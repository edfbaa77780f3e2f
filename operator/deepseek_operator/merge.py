"""Lays a user's ``podTemplate`` over a rendered one, as the API server merges such objects.

Why it exists: the overlay must mean what people know from ``kubectl patch``: objects merge field by
field, lists of containers and the like merge by their key, ``null`` removes, an item with
``$patch: delete`` is removed, and every other list is replaced. It checks no field of Kubernetes;
the server does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepseek_api.errors import ConfigurationError

__all__ = ["overlay"]

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "claims": ("name",),
}
"""Merge keys of the lists in a pod template; lists that are not here are replaced."""
_DEFAULTS: Final = {"protocol": "TCP"}
"""Values of key fields that are left out."""
_ONE_OF: Final = frozenset({"env", "volumes"})
"""Lists whose items have one field that says what they are: another one takes its place."""
_DIRECTIVE: Final = "$patch"


def overlay(base: Mapping[str, Any], patch: Mapping[str, Any], *, path: str = "") -> dict[str, Any]:
    """``base`` with ``patch`` laid over it; neither is changed.

    Args:
        base: what is rendered.
        patch: what goes on top.
        path: where the patch stands, for messages.

    Raises:
        ConfigurationError: a list of the patch has no list's form, or an item lacks its key.
    """
    merged = dict(base)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif name != _DIRECTIVE:
            merged[name] = _merged(merged.get(name), value, field=name, path=f"{path}.{name}")
    return merged


def _merged(base: Any, patch: Any, *, field: str, path: str) -> Any:
    key = _KEYS.get(field)
    if key is not None:
        _check_list(patch, key, path)
        return _merged_lists(base or [], patch, field=field, path=path)
    if isinstance(base, Mapping) and not isinstance(patch, Mapping):
        raise ConfigurationError(
            f"podTemplate{path} is not an object.", hint="Write the fields that are to change."
        )
    if isinstance(patch, Mapping):
        replaced = patch.get(_DIRECTIVE) == "replace" or not isinstance(base, Mapping)
        return overlay({} if replaced else base, patch, path=path)
    return patch


def _merged_lists(
    base: Sequence[Mapping[str, Any]], patch: Sequence[Mapping[str, Any]], *, field: str, path: str
) -> list[Any]:
    merged = {_identity(item, field): item for item in base}
    for item in patch:
        identity = _identity(item, field)
        if item.get(_DIRECTIVE) == "delete":
            merged.pop(identity, None)
            continue
        below = merged.get(identity, {})
        if field in _ONE_OF and any(name not in below for name in item):
            below = {}
        merged[identity] = overlay(below, item, path=f"{path}[{identity[0]}]")
    return list(merged.values())


def _identity(item: Mapping[str, Any], field: str) -> tuple[Any, ...]:
    return tuple(item.get(part, _DEFAULTS.get(part)) for part in _KEYS[field])


def _check_list(patch: Any, key: tuple[str, ...], path: str) -> None:
    if not isinstance(patch, list):
        raise ConfigurationError(
            f"podTemplate{path} is not a list.", hint=f"Write a list of items with '{key[0]}'."
        )
    for place, item in enumerate(patch):
        if not isinstance(item, Mapping) or not isinstance(item.get(key[0]), str | int):
            raise ConfigurationError(
                f"podTemplate{path}[{place}] has no '{key[0]}', so nothing says what it changes.",
                hint=f"Write its '{key[0]}'.",
            )
