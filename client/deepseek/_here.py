"""What this machine can and cannot run, found out without loading anything heavy.

Why it exists: the catalog, ``serve``, ``doctor`` and the in-process engine must give the same
answer to "can this run here?". It looks at installed packages, device files and folders; it never
imports a runtime and never starts a device.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deepseek_api.catalog import CatalogEntry
from deepseek_api.errors import DeviceError, ErrorCode

SERVING_PACKAGES = (
    "aiohttp",
    "google.protobuf",
    "grpc_health",
    "grpc_reflection",
    "onnxruntime",
    "PIL",
    "prometheus_client",
    "tokenizers",
    "zmq",
)
"""Modules that a worker or an in-process engine needs."""
PREPARING_PACKAGES = (
    "huggingface_hub",
    "onnx",
    "onnxscript",
    "safetensors",
    "skimage",
    "timm",
    "torch",
    "transformers",
)
"""Modules that turning weights into bundles needs."""

CUDA_PACKAGES = ("torch", "triton", "safetensors")
"""Modules that serving on an NVIDIA GPU needs besides."""

SERVABLE_TASKS = (
    "text-embedding",
    "image-classification",
    "segmentation",
    "tensors",
    "generate",
)
"""Tasks that this release serves."""
CPU_PRECISIONS = ("auto", "fp32", "int8", "mixed")
"""Precisions that this release has for the device cpu."""
CUDA_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "fp8", "int4", "mixed")
"""The same for the device cuda."""
LOCAL_SCHEMES = ("file", "hf", "pip", "random")
"""Sources that can be prepared on one machine."""

_DEVICE = re.compile(r"^(cpu|cuda|rocm|npu)(?::(\d+))?$")


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A device as users write it: a kind and, for several of a kind, a number."""

    kind: str
    index: int = 0


def missing_modules(names: Iterable[str]) -> list[str]:
    """Those of the modules that are not installed."""
    return [name for name in names if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def nvidia_gpus(*, root: Path = Path("/")) -> list[str]:
    """Names of the NVIDIA GPUs that this process can see, as the driver reports them."""
    names = []
    for info in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", info.read_text(errors="replace"), re.MULTILINE)
        names.append(match.group(1).strip() if match else "NVIDIA GPU")
    return names or ["NVIDIA GPU" for _ in (root / "dev").glob("nvidia[0-9]*")]


def parse_device(text: str) -> DeviceName:
    """Read ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: it is none of these.
    """
    match = _DEVICE.fullmatch(text)
    if match is None or (match.group(1) == "cpu" and match.group(2) not in (None, "0")):
        raise DeviceError(
            f"'{text}' is not a device.",
            hint="Use 'cpu', 'cuda' or 'cuda:N' with the number of a GPU.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="UnknownDevice",
        )
    return DeviceName(match.group(1), int(match.group(2) or 0))


def why_no_device(device: DeviceName, *, gpus: list[str] | None = None) -> str | None:
    """Why a device cannot be used here, one sentence without its final stop, or None if it can."""
    if device.kind == "cpu":
        return None
    if device.kind != "cuda":
        return f"this release has no back end for '{device.kind}'"
    found = nvidia_gpus() if gpus is None else gpus
    if not found:
        return "this machine has no NVIDIA GPU, or this process cannot see one"
    if device.index >= len(found):
        return f"this machine has {len(found)} NVIDIA GPU(s), counted from 0"
    missing = missing_modules(CUDA_PACKAGES)
    if missing:
        return f"the package '{missing[0]}' is not installed: pip install 'deepseek[cuda]'"
    return None


def require_device(text: str) -> DeviceName:
    """Read a device and check that it can be used here.

    Raises:
        DeviceError: it is unknown or not available, with the way out.
    """
    device = parse_device(text)
    reason = why_no_device(device)
    if reason is not None:
        raise DeviceError(
            f"The device '{text}' is not available: {reason}.", hint="Use the device 'cpu'."
        )
    return device


def why_not(entry: CatalogEntry) -> str | None:
    """Why a model of the catalog cannot run here, or None if it can.

    Whether a hub can be reached is not tried: that is found out when its files are wanted.
    """
    if entry.availability is not None:
        return entry.availability
    scheme, _, rest = entry.source.uri.partition("://")
    if scheme not in LOCAL_SCHEMES:
        return f"Sources of the kind '{scheme}://' cannot be read on one machine."
    package = rest.partition("/")[0].partition("?")[0]
    if scheme == "pip" and installed_version(package) is None:
        return f"The package '{package}' is not installed: pip install {package}"
    return None


def port_is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether a TCP port can be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 if it does not exist."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue  # Removed since it was listed.
    return total
