"""Metadata of a pipeline's objects: names, labels and the owner.

Why it exists: every object is found, watched and deleted by these fields, so they are written in
one place.
"""

from __future__ import annotations

from typing import Any

from deepseek_api.v1alpha1.pipeline import API_VERSION, KIND

from deepseek_operator import labels
from deepseek_operator.drift import stamped
from deepseek_operator.observed import K8sObject
from deepseek_operator.plan import ResolvedModel

__all__ = ["child", "model_labels", "selector"]


def selector(pipeline: K8sObject, model: ResolvedModel) -> dict[str, str]:
    """Labels that choose the pods of a model; a Deployment can never change them."""
    return {labels.PIPELINE: pipeline["metadata"]["name"], labels.MODEL: model.name}


def model_labels(pipeline: K8sObject, model: ResolvedModel) -> dict[str, str]:
    """Labels of everything that belongs to a model, pods included."""
    return _common(pipeline, "worker") | {
        labels.NAME: "deepseek-worker",
        labels.MODEL: model.name,
    }


def child(
    pipeline: K8sObject,
    *,
    api_version: str,
    kind: str,
    name: str,
    model: ResolvedModel | None = None,
    annotations: dict[str, str] | None = None,
    **fields: Any,
) -> K8sObject:
    """An object that the pipeline owns."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": pipeline["metadata"]["namespace"],
        "labels": _common(pipeline, "pipeline"),
        "ownerReferences": [_owner(pipeline)],
    }
    if model is not None:
        metadata["labels"] = model_labels(pipeline, model)
        if model.type is not None:
            metadata["labels"][labels.MODEL_TYPE] = model.type
    if annotations:
        metadata["annotations"] = annotations
    return stamped({"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields})


def _common(pipeline: K8sObject, component: str) -> dict[str, str]:
    name = pipeline["metadata"]["name"]
    return {
        labels.NAME: "deepseek-pipeline",
        labels.INSTANCE: name,
        labels.COMPONENT: component,
        labels.MANAGED_BY: labels.OPERATOR_NAME,
        labels.PART_OF: "deepseek",
        labels.PIPELINE: name,
    }


def _owner(pipeline: K8sObject) -> dict[str, Any]:
    metadata = pipeline["metadata"]
    # Who deletes a pipeline in the foreground waits until its objects are gone; in the background,
    # which is the default, nobody waits. Clusters that enforce it ask for the permission to update
    # `modelpipelines/finalizers`.
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
