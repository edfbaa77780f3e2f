"""Where weights come from. Every source ends as a local folder or file and a digest over it."""

from __future__ import annotations

from deepseek_engine.prepare.sources.base import Source, open_source

__all__ = ["Source", "open_source"]
