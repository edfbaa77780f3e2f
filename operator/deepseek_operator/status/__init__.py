"""The status of a pipeline: what is true now, as `build` finds it in a snapshot.

Why it exists: people and scripts wait on what is written here, so it is one pure function of what
was decided and what was observed. It never invents: what the operator cannot know (the precision
that a worker chose) is absent. Writing the status is the reconciler's business.
"""

from __future__ import annotations

from deepseek_operator.status.build import Rendered, build, invalid

__all__ = ["Rendered", "build", "invalid"]
