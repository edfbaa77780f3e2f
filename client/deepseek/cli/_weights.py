"""The option ``--weights`` of the commands that load models."""

from __future__ import annotations

import enum


class Weights(enum.StrEnum):
    """Which weights are used."""

    REAL = "real"
    RANDOM = "random"
