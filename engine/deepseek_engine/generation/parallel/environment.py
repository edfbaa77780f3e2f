"""Which rank a process is, and where the others meet, read from its environment.

Why it exists: a rank is started by the engine process today and may be started by a cluster on
another machine later; either way it learns its place from the same variables. The common names
(``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``) are understood; ours, with the prefix
``DEEPSEEK_``, win, because a cluster may have set the others for something else. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepseek_api.errors import ConfigurationError

__all__ = ["RankEnvironment"]

_PREFIX = "DEEPSEEK_"
_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class RankEnvironment:
    """A rank's place in its group."""

    rank: int
    world_size: int
    address: str
    """Host name or address of the machine of rank 0."""
    port: int
    """TCP port of the store there."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> RankEnvironment | None:
        """Read a process's environment; None: it belongs to no group.

        Raises:
            ConfigurationError: a variable is missing beside the others, or is no such number.
        """
        found = {name: environ.get(_PREFIX + name) or environ.get(name) for name in _NAMES}
        present = {name: value for name, value in found.items() if value}
        if not present:
            return None
        if missing := [name for name in _NAMES if name not in present]:
            raise _wrong(
                f"The environment names {', '.join(present)} and not {', '.join(missing)}.",
                f"Set all of {', '.join(_NAMES)}, with the prefix {_PREFIX} or without, or none.",
            )
        size = _number("WORLD_SIZE", present["WORLD_SIZE"], least=1)
        return cls(
            rank=_number("RANK", present["RANK"], most=size - 1),
            world_size=size,
            address=present["MASTER_ADDR"],
            port=_number("MASTER_PORT", present["MASTER_PORT"], least=1, most=_LARGEST_PORT),
        )

    def variables(self) -> dict[str, str]:
        """The environment that `read` understands, with our names."""
        values = (self.rank, self.world_size, self.address, self.port)
        return {_PREFIX + name: str(value) for name, value in zip(_NAMES, values, strict=True)}


def _number(name: str, text: str, *, least: int = 0, most: int | None = None) -> int:
    fits = text.isascii() and text.isdigit() and len(text) < 10
    if not fits or int(text) < least or (most is not None and int(text) > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise _wrong(
            f"The environment variable {name} is '{text[:40]}'.",
            f"It must be a whole number, {allowed}.",
        )
    return int(text)


def _wrong(message: str, hint: str) -> ConfigurationError:
    return ConfigurationError(message, hint=hint, reason="InvalidRankEnvironment")
