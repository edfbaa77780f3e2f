"""Over how many processes a model is divided.

Why it exists: these two numbers come from a pipeline's ``models[].parallelism`` and from SDK calls,
and are checked here once. It must not import a runtime: front ends read it too. What is done with
them is in `deepseek_engine.generation.parallel`.
"""

from __future__ import annotations

import msgspec
from deepseek_api.errors import ConfigurationError

__all__ = ["ParallelismConfig"]

_PARTS = 64


class ParallelismConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Over how many devices, or on a processor over how many processes, a model is divided.

    Raises:
        ConfigurationError: a number is out of range.
    """

    tensor: int = 1
    """Parts that each layer is cut into."""
    pipeline: int = 1
    """Stages that the layers are divided into."""

    def __post_init__(self) -> None:
        for name, value in (("tensor", self.tensor), ("pipeline", self.pipeline)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _PARTS:
                raise ConfigurationError(
                    f"parallelism.{name} is {value!r}.",
                    hint=f"It must be a whole number from 1 to {_PARTS}.",
                    reason="InvalidParallelism",
                )

    @property
    def processes(self) -> int:
        """Processes of the model."""
        return self.tensor * self.pipeline
