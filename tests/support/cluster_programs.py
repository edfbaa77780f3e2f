"""The command line tools that tests of a cluster use."""

from __future__ import annotations

import shutil

__all__ = ["program"]


def program(name: str) -> str:
    """Path of ``kubectl`` or ``helm``: from PATH, otherwise built from its pinned module."""
    if found := shutil.which(name):
        return found
    from deploy.cluster.binaries import binary

    return str(binary(name))
