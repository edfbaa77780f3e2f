"""Device strings: what a user writes to say where a model runs."""

from __future__ import annotations

import re

from deepseek_api.errors import DeviceError

__all__ = ["parse_device", "require_cpu"]

_DEVICE = re.compile(r"(?P<kind>cpu|cuda|rocm|npu)(:(?P<index>\d{1,3}))?")


def parse_device(text: str) -> tuple[str, int | None]:
    """Kind and number of a device: ``cuda:1`` is ``("cuda", 1)``, ``cuda`` is ``("cuda", None)``.

    Raises:
        DeviceError: the text does not name a device.
    """
    match = _DEVICE.fullmatch(text)
    if match is None or (match["kind"] == "cpu" and match["index"]):
        raise DeviceError(
            f"'{text}' does not name a device.",
            hint="Write cpu, cuda or cuda:N, where N counts from 0.",
            reason="UnknownDevice",
        )
    return match["kind"], int(match["index"]) if match["index"] else None


def require_cpu(text: str, *, backend: str) -> None:
    """Raise unless a device is the processor.

    Raises:
        DeviceError: it is another one, or none.
    """
    kind, _ = parse_device(text)
    if kind != "cpu":
        raise DeviceError(
            f"The back end '{backend}' of this bundle runs on the processor only, not on '{text}'.",
            hint="Use device cpu, or prepare the bundle with a variant for that device.",
        )
