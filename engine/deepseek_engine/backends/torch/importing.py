"""Importing what a torch variant needs, when one is opened and not before."""

from __future__ import annotations

import importlib
from typing import Any

from deepseek_api.errors import DeviceError

from deepseek_engine.backends.devices import parse_device

__all__ = ["check_device", "import_library"]


def import_library(name: str) -> Any:
    """Import a module of an optional library.

    Raises:
        DeviceError: the library is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DeviceError(
            f"This variant needs '{name.partition('.')[0]}', which is not installed.",
            hint="Install the extra 'prepare', or use a variant for ONNX Runtime.",
            reason="BackendUnavailable",
        ) from error


def check_device(torch: Any, text: str) -> str:
    """The device as torch names it.

    Raises:
        DeviceError: it is not cpu or cuda, or there is no such GPU here.
    """
    kind, index = parse_device(text)
    if kind == "cpu":
        return "cpu"
    if kind != "cuda":
        raise DeviceError(
            f"The back end 'torch' has no device '{text}'.", hint="Use device cpu or cuda."
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (index or 0) >= count:
        have = f"this machine has {count} NVIDIA GPUs" if count else "no NVIDIA GPU is usable here"
        raise DeviceError(
            f"The device '{text}' is not available: {have}.",
            hint="Use device cpu; 'deepseek doctor' says what this machine can run.",
        )
    return text
