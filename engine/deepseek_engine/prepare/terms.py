"""What the license of a model's weights asks for, told to people and kept with the bundle.

Why it exists: some licenses bind everybody who uses the weights or passes them on. Such a catalog
entry has ``terms``: they are shown before anything is read, and travel in every bundle as its
``NOTICE``.
"""

from __future__ import annotations

from deepseek_api.catalog import CatalogEntry

from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.messages import PrepareRequest

__all__ = ["NOTICE", "notice_of", "tell_terms"]

NOTICE = "NOTICE"
"""Name of the file in a bundle."""


def tell_terms(request: PrepareRequest, report: Reporter) -> None:
    """Show the terms of a request's model, if its license has some."""
    terms = request.entry.get("terms")
    if terms and not request.random_weights:
        report.warning(f"License: {request.entry.get('license')}. {terms}")


def notice_of(entry: CatalogEntry | None) -> dict[str, bytes]:
    """The file that keeps license and terms in a bundle; nothing if there are none."""
    if entry is None or entry.terms is None:
        return {}
    return {NOTICE: f"License of the weights: {entry.license}\n\n{entry.terms}\n".encode()}
