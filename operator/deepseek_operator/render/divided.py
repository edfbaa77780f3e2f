"""What the pods of divided models and of models with adapters have besides the others' parts.

Why it exists: ranks of a replica are processes of one container. They meet on the loopback device,
which every pod has whatever its network, and exchange tensors through shared memory, of which a
container gets 64 MiB unless a volume says otherwise.
"""

from __future__ import annotations

from typing import Any, Final

from deepseek_api.vocabulary import DeviceKind

from deepseek_operator import labels
from deepseek_operator.config import OperatorConfig
from deepseek_operator.plan import ResolvedModel

__all__ = ["environment", "mounts", "volumes"]

_SHARED_MEMORY: Final = "shared-memory"
_SHARED_MEMORY_SIZE: Final = "1Gi"
"""At most; it counts as memory of the container as far as it is used."""


def environment(model: ResolvedModel) -> list[dict[str, Any]]:
    """Variables of the ranks' libraries; which rank a process is, the worker tells it."""
    if model.spec.devices_per_replica == 1:
        return []
    found = [{"name": "GLOO_SOCKET_IFNAME", "value": "lo"}]
    if model.device is not DeviceKind.CPU:
        found.append({"name": "NCCL_SOCKET_IFNAME", "value": "lo"})
    return found


def volumes(model: ResolvedModel, config: OperatorConfig) -> list[dict[str, Any]]:
    """Shared memory of a divided model, and one volume for each adapter."""
    found: list[dict[str, Any]] = []
    if model.spec.devices_per_replica > 1:
        memory = {"medium": "Memory", "sizeLimit": _SHARED_MEMORY_SIZE}
        found.append({"name": _SHARED_MEMORY, "emptyDir": memory})
    for adapter in model.spec.adapters or ():
        scheme, _, place = adapter.source.uri.partition("://")
        name = _volume_name(adapter.name)
        if scheme == "oci":
            image = {"reference": place, "pullPolicy": config.image_pull_policy}
            found.append({"name": name, "image": image})
        else:
            claim = {"claimName": place.partition("/")[0], "readOnly": True}
            found.append({"name": name, "persistentVolumeClaim": claim})
    return found


def mounts(model: ResolvedModel) -> list[dict[str, Any]]:
    """Where the worker finds them."""
    found: list[dict[str, Any]] = []
    if model.spec.devices_per_replica > 1:
        shared = {"name": _SHARED_MEMORY, "mountPath": "/dev/shm"}  # noqa: S108 - the pod's own
        found.append(shared)
    for adapter in model.spec.adapters or ():
        scheme, _, place = adapter.source.uri.partition("://")
        mount: dict[str, Any] = {
            "name": _volume_name(adapter.name),
            "mountPath": f"{labels.ADAPTER_MOUNT}/{adapter.name}",
            "readOnly": True,
        }
        folder = place.partition("/")[2].strip("/")
        if scheme == "pvc" and folder:
            mount["subPath"] = folder
        found.append(mount)
    return found


def _volume_name(adapter: str) -> str:
    return f"adapter-{adapter}"
