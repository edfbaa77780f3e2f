"""Tasks: what a model's tensors mean to a caller.

Other packages register theirs in the entry point group ``deepseek.tasks``: a callable with the
signature of `TaskFactory`.
"""

from __future__ import annotations

from typing import cast

from deepseek_api.errors import BundleError

from deepseek_engine import registry
from deepseek_engine.tasks.base import Interface, Part, Prepared, Task, TaskContext, TaskFactory

__all__ = [
    "GROUP",
    "Interface",
    "Part",
    "Prepared",
    "Task",
    "TaskContext",
    "TaskFactory",
    "create_task",
]

GROUP = "deepseek.tasks"
"""Entry point group of tasks."""

_BUILTIN = {
    "image-classification": "deepseek_engine.tasks.image:ImageClassification",
    "segmentation": "deepseek_engine.tasks.segmentation:Segmentation",
    "tensors": "deepseek_engine.tasks.tensors:Tensors",
    "text-embedding": "deepseek_engine.tasks.text:TextEmbedding",
}


def create_task(name: str, context: TaskContext) -> Task:
    """The task of a model.

    Raises:
        BundleError: no such task is installed, or the bundle does not fit it.
    """
    factory = registry.load(name, builtin=_BUILTIN, group=GROUP)
    if factory is None:
        names = ", ".join(registry.available(builtin=_BUILTIN, group=GROUP))
        raise BundleError(
            f"The bundle is made for the task '{name}', which is not installed.",
            hint=f"Installed are: {names}.",
            reason="UnknownTask",
        )
    return cast(TaskFactory, factory)(context)
