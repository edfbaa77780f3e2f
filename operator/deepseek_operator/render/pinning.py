"""Keeps what runs as it was rendered until its own model changes.

Why it exists: a new version of the operator, other settings, another catalog, weight or type must
not restart a single worker. What the replicas of a model were rendered from is therefore kept on
their Deployment, and used again for as long as the model's own fields in the spec are the same and
nobody asked for a rollout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from deepseek_api.v1alpha1.conditions import ConditionType

from deepseek_operator import labels
from deepseek_operator.config import OperatorConfig
from deepseek_operator.hashing import canonical_json, short_hash
from deepseek_operator.observed import K8sObject, Observed
from deepseek_operator.plan import ResolvedModel
from deepseek_operator.render.pods import image_of, pod_template
from deepseek_operator.render.worker import prepare_request, worker_config

__all__ = ["Pinned", "kept", "pin"]

_NOT_POD_AFFECTING: Final = frozenset({"replicas", "autoscaling", "rollout", "type"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What the replicas of a model are rendered from."""

    spec_hash: str
    """Hash of the model's pod-affecting fields as the user wrote them."""
    rollout_at: str
    """The request for a rollout that was followed last; empty: none."""
    image: str
    """The worker image."""
    template: Mapping[str, Any]
    """The pod template, without the label of its hash."""
    worker: Mapping[str, Any]
    """``worker.json``."""
    prepare: Mapping[str, Any] | None
    """``prepare.json``; None: the source needs no preparation."""

    template_hash: str
    """Hash of everything that a replica starts from. Kept too: another release may hash in another
    way."""

    def to_annotation(self) -> str:
        """The value of the annotation."""
        return canonical_json(
            {
                "specHash": self.spec_hash,
                "rolloutAt": self.rollout_at,
                "image": self.image,
                "template": self.template,
                "config": self.worker,
                "prepare": self.prepare,
                "templateHash": self.template_hash,
            }
        )


def pin(model: ResolvedModel, *, observed: Observed, config: OperatorConfig) -> Pinned:
    """What to render the replicas of a servable model from.

    Raises:
        ConfigurationError: the user's ``podTemplate`` cannot be laid over the template.
    """
    live = observed.child("Deployment", model.deployment)
    before = _read(live)
    wanted = _spec_hash(model)
    asked = _rollout_asked(observed.pipeline, model, before)
    if before is not None and (before.spec_hash, before.rollout_at) == (wanted, asked):
        return before
    image = (_image_in_status(model, observed) if before is None else None) or model.image or ""
    template = pod_template(observed.pipeline, model, image=image, config=config, rollout_at=asked)
    worker = worker_config(model, image=image, config=config)
    prepare = prepare_request(model, image=image, config=config) if model.raw else None
    return Pinned(
        spec_hash=wanted,
        rollout_at=asked,
        image=image_of(template),
        template=template,
        worker=worker,
        prepare=prepare,
        template_hash=short_hash([template, worker, prepare]),
    )


def kept(model: ResolvedModel, *, observed: Observed) -> Pinned | None:
    """What the replicas of a model that cannot be served run from; None: it has no Deployment."""
    live = observed.child("Deployment", model.deployment)
    if live is None:
        return None
    before = _read(live)
    if before is not None:
        return before
    # Somebody edited the annotation: what runs is all that is known, and it stays. With an empty
    # hash of the spec it is rendered anew once it can be served.
    settings = (observed.child("ConfigMap", model.deployment) or {}).get("data") or {}
    running = live["spec"]["template"]
    found = running.get("metadata", {}).get("labels") or {}
    return Pinned(
        spec_hash="",
        rollout_at="",
        image=image_of(running),
        template=running,
        worker=_object(settings.get("worker.json")) or {},
        prepare=_object(settings.get("prepare.json")),
        template_hash=str(found.get(labels.TEMPLATE_HASH, "")),
    )


def _spec_hash(model: ResolvedModel) -> str:
    # Without defaults: a field that a later release adds must not change the hash.
    fields = model.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return short_hash(
        {name: value for name, value in fields.items() if name not in _NOT_POD_AFFECTING},
        length=16,
    )


def _rollout_asked(pipeline: K8sObject, model: ResolvedModel, before: Pinned | None) -> str:
    annotations = pipeline["metadata"].get("annotations") or {}
    time, _, only = str(annotations.get(labels.ROLLOUT_AT) or "").partition("/")
    if time and only in ("", model.name):
        return time
    # Nobody asks for this model, or no more: what was followed stays followed.
    return before.rollout_at if before is not None else ""


def _image_in_status(model: ResolvedModel, observed: Observed) -> str | None:
    """The image that a Deployment had which somebody deleted."""
    for row in (observed.pipeline.get("status") or {}).get("models") or ():
        if row.get("name") == model.name and row.get("source") == model.source_uri:
            # An image that the server refused was never used and must not stick.
            refused = any(
                one.get("type") == ConditionType.CHILD_REJECTED and one.get("status") == "True"
                for one in row.get("conditions") or ()
            )
            return None if refused else row.get("workerImage")
    return None


def _read(deployment: K8sObject | None) -> Pinned | None:
    annotations = (deployment or {"metadata": {}})["metadata"].get("annotations") or {}
    fields = _object(annotations.get(labels.PINNED)) or {}
    texts = [fields.get(name) for name in ("specHash", "rolloutAt", "image", "templateHash")]
    template, worker, prepare = (fields.get(name) for name in ("template", "config", "prepare"))
    if (
        not all(isinstance(text, str) for text in texts)
        or not isinstance(template, dict)
        or not isinstance(worker, dict)
        or not isinstance(prepare, dict | None)
    ):
        return None
    spec_hash, rollout_at, image, template_hash = map(str, texts)
    return Pinned(
        spec_hash=spec_hash,
        rollout_at=rollout_at,
        image=image,
        template=template,
        worker=worker,
        prepare=prepare,
        template_hash=template_hash,
    )


def _object(text: object) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
