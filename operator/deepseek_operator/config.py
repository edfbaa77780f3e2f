"""Settings of the operator.

Why it exists: one frozen object holds everything that an installation decides. The chart mounts it
as a YAML file (camelCase keys) whose path is in ``DEEPSEEK_OPERATOR_CONFIG``; defaults live here
and nowhere else, and the chart's own values are checked against them in tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from deepseek_api.base import Bool, Float, Int, WireModel
from deepseek_api.errors import ConfigurationError
from deepseek_api.vocabulary import DeviceKind
from pydantic import Field, ValidationError, model_validator

__all__ = ["CONFIG_VARIABLE", "DrainSettings", "OperatorConfig", "load_config"]

CONFIG_VARIABLE: Final = "DEEPSEEK_OPERATOR_CONFIG"
"""Environment variable with the path of the settings file."""


class DrainSettings(WireModel):
    """How a replica ends, seconds."""

    pre_stop_s: Float = Field(default=5, ge=0, le=600)
    """Sleep before the signal, so that clients stop sending."""
    drain_s: Float = Field(default=30, ge=0, le=3600)
    """Time that running requests have after the signal."""
    grace_s: Int = Field(default=45, ge=1, le=7200)
    """``terminationGracePeriodSeconds``; longer than the other two together."""

    @model_validator(mode="after")
    def _grace_is_enough(self) -> Self:
        if self.grace_s < self.pre_stop_s + self.drain_s:
            raise ValueError(
                f"graceS {self.grace_s} is shorter than preStopS + drainS "
                f"{self.pre_stop_s + self.drain_s}"
            )
        return self


class OperatorConfig(WireModel):
    """Everything that an installation of the operator decides."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; empty: all of them."""
    images: dict[str, str] = Field(default_factory=dict)
    """Worker image by kind of device: ``cpu``, ``cuda``, ``rocm``, ``npu``."""
    torch_image: str = ""
    """Image with torch: prepares raw sources in an init container and serves generation and
    sharded models on ``cpu``; empty: raw sources are refused with a condition."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of worker images and bundle images."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of pull secrets in the pipelines' namespaces."""
    default_device: DeviceKind = DeviceKind.CPU
    """Device of models that name none."""
    device_resources: dict[str, str] = Field(default_factory=lambda: {"cuda": "nvidia.com/gpu"})
    """Resource name of a kind of device, for example ``nvidia.com/gpu``."""
    allow_random_weights: Bool = False
    """Whether ``random://`` sources may be served."""
    drain: DrainSettings = DrainSettings()
    """How replicas end."""
    demand_hold_s: Float = Field(default=30, ge=0, le=3600)
    """A changed demand of an autoscaler must hold this long before a grant changes."""
    resync_s: Float = Field(default=600, ge=1, le=86400)
    """Every pipeline is looked at again after about this long, seconds."""
    concurrency: Int = Field(default=8, ge=1, le=128)
    """Pipelines that are reconciled at the same time."""
    catalog_file: str = ""
    """YAML file with catalog entries (``models: {NAME: {...}}``) that add to and replace the
    built-in ones; empty or absent: the built-in ones only."""
    health_port: Int = Field(default=8080, ge=1, le=65535)
    """Port of ``/healthz``."""
    metrics_port: Int = Field(default=9090, ge=1, le=65535)
    """Port of ``/metrics``."""
    network_policies: Bool = True
    """Whether a NetworkPolicy is created for every pipeline."""
    cluster_domain: Annotated[str, Field(min_length=1, max_length=253)] = "cluster.local"
    """DNS domain of the cluster."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """Least important level that is logged."""

    @property
    def cluster_wide(self) -> bool:
        """Whether all namespaces are watched."""
        return not self.namespaces


def load_config(path: Path | None) -> OperatorConfig:
    """Read the settings file; without one, the defaults.

    Raises:
        ConfigurationError: the file cannot be read or a setting in it is wrong.
    """
    if path is None:
        return OperatorConfig()
    try:
        data = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"The settings file {path} cannot be read: {error}.") from error
    try:
        return OperatorConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file itself"
        raise ConfigurationError(
            f"The settings file {path} is wrong at '{where}': {first['msg']}.",
            hint="The chart's values.yaml lists every setting.",
        ) from error
