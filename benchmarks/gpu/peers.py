"""Peers that may or may not be there: carried as wheels, or installed.

Why it exists: the machine with the GPU has no network. Wheels are brought along in one folder that
git ignores; a peer that is absent or does not load is told with its reason, and the rest goes on.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SITE", "Peer", "find", "use_carried"]

SITE = Path(__file__).resolve().parent.parent.parent / ".cache" / "gpu-peers"
"""Where `benchmarks.gpu.carrying` unpacks what it fetched; git ignores it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A library, or why it is not used."""

    name: str
    version: str = ""
    reason: str = ""

    @property
    def there(self) -> bool:
        """Whether it can be used."""
        return not self.reason


def use_carried(site: Path = SITE) -> None:
    """Let carried packages be imported, after those that are installed."""
    if site.is_dir() and str(site) not in sys.path:
        sys.path.append(str(site))


def find(name: str, *, distribution: str = "") -> tuple[Peer, Any]:
    """Import a peer; gives it and its module, or None for a module that is not there."""
    try:
        module = importlib.import_module(name)
        version = importlib.metadata.version(distribution or name)
    except importlib.metadata.PackageNotFoundError:
        return Peer(name, version="unknown"), module
    except ModuleNotFoundError as error:
        missing = "not installed and not carried" if error.name == name else f"needs {error.name}"
        return Peer(name, reason=missing), None
    # Compiled parts fail in many ways on a torch that they were not built for.
    except Exception as error:
        return Peer(name, reason=f"does not load: {type(error).__name__}: {error}"[:300]), None
    return Peer(name, version=version), module
