"""Over how many processes a model is divided.

Why it exists: these two numbers come from a pipeline's ``models[].parallelism`` and from SDK calls,
and are checked here once. It must not import a runtime: front ends read it too. What is done with
them is in `deepseek_engine.generation.parallel`.
"""

from __future__ import annotations

import msgspec
from deepseek_api.errors import ConfigurationError

__all__ = ["Parallelism"]

_MOST = 64


class Parallelism(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is divided; by default not at all.

    Raises:
        ConfigurationError: a number is out of range.
    """

    tensor: int = 1
    """Processes that share each layer."""
    pipeline: int = 1
    """Stages, each with some of the layers."""

    def __post_init__(self) -> None:
        for name, value in (("tensor", self.tensor), ("pipeline", self.pipeline)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
                raise ConfigurationError(
                    f"parallelism.{name} is {value!r}.",
                    hint=f"It must be a whole number from 1 to {_MOST}.",
                    reason="InvalidParallelism",
                )

    @property
    def processes(self) -> int:
        """Processes of the model."""
        return self.tensor * self.pipeline
