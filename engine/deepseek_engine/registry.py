"""Finding a back end or a task by its name.

Why it exists: both are open sets. What ships here is named in a table and imported when it is
first needed; other packages add theirs as entry points. A name that ships here cannot be taken
over by an installed package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

__all__ = ["available", "load"]


def load(name: str, *, builtin: Mapping[str, str], group: str) -> Any | None:
    """The object registered under a name; None when there is none.

    Args:
        name: for example ``onnxruntime``.
        builtin: what ships here, as ``module:attribute``.
        group: entry point group of the others.
    """
    target = builtin.get(name)
    if target is not None:
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in entry_points(group=group, name=name):
        return entry.load()
    return None


def available(*, builtin: Mapping[str, str], group: str) -> list[str]:
    """All registered names, sorted."""
    return sorted({*builtin, *(entry.name for entry in entry_points(group=group))})
