"""Words that the operator writes into the cluster: labels, annotations, field managers.

Why it exists: they are API. Users select by them, other releases read them, and a renamed one
would orphan objects, so each is written once and never changed.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADAPTER_MOUNT",
    "APPLIED",
    "BUNDLE_MOUNT",
    "COMPONENT",
    "CONFIG_MOUNT",
    "HANDOVER_MANAGER",
    "INSTANCE",
    "MANAGED_BY",
    "MANAGER",
    "MODEL",
    "MODEL_TYPE",
    "NAME",
    "OPERATOR_NAME",
    "PART_OF",
    "PINNED",
    "PIPELINE",
    "PREPARE_CONTAINER",
    "ROLLOUT_AT",
    "TEMPLATE_HASH",
    "WORKER_CONTAINER",
]

OPERATOR_NAME: Final = "deepseek-operator"
"""Value of ``app.kubernetes.io/managed-by``; the watches on children select by it."""
MANAGER: Final = "deepseek-operator"
"""Field manager of everything that the operator applies."""
HANDOVER_MANAGER: Final = "deepseek-operator-handover"
"""Field manager that holds ``spec.replicas`` until an autoscaler writes it for the first time."""

NAME: Final = "app.kubernetes.io/name"
"""Always ``deepseek-worker`` on what belongs to a model."""
INSTANCE: Final = "app.kubernetes.io/instance"
"""Name of the pipeline."""
COMPONENT: Final = "app.kubernetes.io/component"
"""``worker`` for a model's objects, ``pipeline`` for shared ones."""
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
"""Always `OPERATOR_NAME`."""
PART_OF: Final = "app.kubernetes.io/part-of"
"""Always ``deepseek``."""
PIPELINE: Final = "deepseek.ai/pipeline"
"""Name of the pipeline."""
MODEL: Final = "deepseek.ai/model"
"""Name of the model."""
MODEL_TYPE: Final = "deepseek.ai/model-type"
"""Type of the model; not on pods, so that a new type restarts nothing."""
TEMPLATE_HASH: Final = "deepseek.ai/template-hash"
"""Label on pods: hash of the template and the worker's settings; ready replicas are counted by
it."""
ROLLOUT_AT: Final = "deepseek.ai/rollout-at"
"""Annotation on a pipeline: a new value (a time) asks for new replicas of every model. A value
``TIME/MODEL`` asks for one model."""
PINNED: Final = "deepseek.ai/pinned"
"""Annotation on a Deployment: JSON of what its replicas were rendered from, so that another
version of the operator restarts nothing."""
APPLIED: Final = "deepseek.ai/applied"
"""Annotation on every object of the operator: hash of the object as it was applied, so that a
field which is no longer wanted shows as a difference."""

PREPARE_CONTAINER: Final = "prepare"
"""Name of the init container that turns a raw source into a bundle."""
WORKER_CONTAINER: Final = "worker"
"""Name of the container that serves."""
BUNDLE_MOUNT: Final = "/models"
"""Folder of bundles in a worker; a model's bundle lies in the subfolder of its name."""
ADAPTER_MOUNT: Final = "/adapters"
"""Folder of LoRA adapters in a worker; each lies in the subfolder of its name."""
CONFIG_MOUNT: Final = "/etc/deepseek"
"""Folder of ``worker.json`` in a worker."""
