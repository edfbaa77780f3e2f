"""Settings of a worker, and of the preparation of a raw source, as a ConfigMap holds them.

Why it exists: the operator must not import the worker (its image has none of its packages), so the
file is written here as data; a test reads it with the worker's own types.
"""

from __future__ import annotations

from typing import Any, Final

from deepseek_api.vocabulary import DeviceKind, TaskName

from deepseek_operator import labels
from deepseek_operator.config import OperatorConfig
from deepseek_operator.plan import ResolvedModel

__all__ = ["GRPC_PORT", "HTTP_PORT", "prepare_request", "worker_config"]

GRPC_PORT: Final = 8001
"""Port of gRPC."""
HTTP_PORT: Final = 8080
"""Port of probes and metrics."""


def worker_config(model: ResolvedModel, *, image: str, config: OperatorConfig) -> dict[str, Any]:
    """``worker.json`` of the workers of a model.

    Args:
        model: the model.
        image: the worker image that will read it.
        config: settings of the installation.
    """
    settings: dict[str, Any] = {
        "name": model.name,
        "bundle": f"{labels.BUNDLE_MOUNT}/{model.name}",
        "precision": model.spec.precision.value,
        "device": _device(model, image, config).value,
    }
    if model.digest is not None:
        settings["digest"] = model.digest
    if (batching := model.spec.batching) is not None:
        given = {
            "max_batch_size": batching.max_batch_size,
            "latency_target_ms": batching.latency_target_ms,
            "max_queue_size": batching.max_queue_size,
        }
        settings |= {name: value for name, value in given.items() if value is not None}
    settings |= _generation(model)
    return {
        "models": [settings],
        "host": "0.0.0.0",  # noqa: S104 - inside a pod
        "grpc_port": GRPC_PORT,
        "http_port": HTTP_PORT,
        "drain_s": config.drain.drain_s,
        "log_format": "json",
    }


def _generation(model: ResolvedModel) -> dict[str, Any]:
    """What a model that generates or is divided has besides; nothing that has its default."""
    spec = model.spec
    found: dict[str, Any] = {}
    generation = spec.generation.settings() if spec.generation is not None else {}
    if spec.batching is not None and spec.batching.max_queue_size is not None:
        generation["max_queue"] = spec.batching.max_queue_size
    if generation and model.task == TaskName.GENERATE:
        found["generation"] = generation
    if spec.adapters:
        found["adapters"] = [
            {"name": adapter.name, "path": f"{labels.ADAPTER_MOUNT}/{adapter.name}"}
            for adapter in spec.adapters
        ]
    if spec.parallelism is not None and spec.devices_per_replica > 1:
        parts = {"tensor": spec.parallelism.tensor, "pipeline": spec.parallelism.pipeline}
        found["parallelism"] = parts
    return found


def prepare_request(model: ResolvedModel, *, image: str, config: OperatorConfig) -> dict[str, Any]:
    """``prepare.json``: what the init container of a raw source prepares.

    Args:
        model: a model with a raw source.
        image: the worker image that will serve the bundle.
        config: settings of the installation.
    """
    return {
        "name": model.name,
        "uri": model.source_uri,
        "revision": model.source_revision or "",
        "precisions": [model.spec.precision.value],
        "device": _device(model, image, config).value,
        "entry": model.entry.to_wire() if model.entry is not None else {},
        "task": model.spec.task or "",
    }


def _device(model: ResolvedModel, image: str, config: OperatorConfig) -> DeviceKind:
    # An installation without such devices may serve their models with the image for cpu, which
    # has the libraries of no other device.
    pretended = image == config.images.get(DeviceKind.CPU)
    return DeviceKind.CPU if pretended else model.device
