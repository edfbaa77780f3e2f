"""``--auto-precision``: which models of a pipeline lower their precision under load, and when.

Why it exists: a pipeline says what is served, and the load of one machine is no part of it, so the
setting is given where the server is started. It only reads; the engine decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepseek_api.errors import ConfigurationError
from deepseek_api.suggest import did_you_mean
from deepseek_engine.messages import AutoPrecision


def read_policies(values: Sequence[str], names: Sequence[str]) -> dict[str, AutoPrecision]:
    """Policies by model.

    Args:
        values: ``THRESHOLD`` for every model that has a lower precision, or ``MODEL=THRESHOLD`` for
            one, which must have it. The threshold is a share such as 0.8 or 80%.
        names: the models of the pipeline.

    Raises:
        ConfigurationError: a value is none of these, or names no model of the pipeline.
    """
    for_all: dict[str, AutoPrecision] = {}
    for_one: dict[str, AutoPrecision] = {}
    for value in values:
        name, separator, threshold = value.rpartition("=")
        if not separator:
            policy = AutoPrecision(threshold=_share(value, value), required=False)
            for_all = dict.fromkeys(names, policy)
        elif name in names:
            for_one[name] = AutoPrecision(threshold=_share(threshold, value))
        else:
            raise ConfigurationError(
                f"--auto-precision names the model '{name}', which the pipeline does not have.",
                hint=did_you_mean(name, names) or f"It has {', '.join(names)}.",
            )
    return for_all | for_one


def _share(text: str, value: str) -> float:
    number = text.strip()
    try:
        return float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        raise ConfigurationError(
            f"--auto-precision {value} has no threshold.",
            hint="Write a share of the device's time such as 0.8, or MODEL=0.8 for one model.",
        ) from None
