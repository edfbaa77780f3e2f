"""Settings of a worker.

Why it exists: one frozen object holds everything that a worker needs to know, whether it comes from
a file (``python -m deepseek_worker --config FILE``) or from the command line tool. Defaults live
here and nowhere else.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import msgspec
from deepseek_api.errors import ConfigurationError
from deepseek_engine.client import EngineConfig, ModelConfig

__all__ = ["Limits", "Supervision", "WorkerConfig", "load_config"]

LogFormat = Literal["auto", "json", "text"]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a single request may ask for; anything larger is refused before memory is taken."""

    max_message_bytes: int = 64 * 1024 * 1024
    """Largest gRPC message, after decompression."""
    max_rank: int = 8
    """Dimensions of a tensor."""
    max_tensors: int = 64
    """Inputs, and likewise requested outputs, of one request."""
    max_parameters: int = 128
    """Parameters of one request or tensor."""
    max_name_length: int = 256
    """Characters of an id, of a tensor's name and of a parameter's name."""
    max_elements: int = 1 << 40
    """Elements of a tensor; the bytes are limited by the message besides."""
    max_concurrent_streams: int = 1024
    """Calls that one connection may have open."""


class Supervision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an engine process counts as lost, and how it comes back; all in seconds."""

    heartbeat_timeout_s: float = 5.0
    """An engine that is silent for this long is wedged."""
    batch_timeout_s: float = 120.0
    """An engine whose device works on one batch for longer is wedged."""
    start_timeout_s: float = 60.0
    """The first heartbeat of a new process must come within this time."""
    backoff_initial_s: float = 0.5
    """Pause before the second restart in a row; the first restart comes at once."""
    backoff_max_s: float = 30.0
    """Longest pause between restarts."""
    stable_after_s: float = 60.0
    """A process that lived this long starts a new row of restarts."""
    liveness_grace_s: float = 180.0
    """``/livez`` fails when no engine has been alive for this long."""
    stop_timeout_s: float = 5.0
    """Time that an engine has to end after it was asked to."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a worker needs to start."""

    models: tuple[ModelConfig, ...]
    """The models to serve."""
    host: str = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` or ``::`` listens on all."""
    grpc_port: int = 8001
    """Port of gRPC; 0 takes a free one."""
    http_port: int = 8080
    """Port of probes and metrics; 0 takes a free one."""
    drain_s: float = 30.0
    """Time that running requests have to finish after a signal to stop."""
    default_deadline_s: float = 60.0
    """Deadline of requests that bring none."""
    stream_deadline_s: float = 600.0
    """The same, of requests to models that generate."""
    probe_timeout_s: float = 60.0
    """Time that the inference which proves readiness may take."""
    limits: Limits = Limits()
    """What a single request may ask for."""
    supervision: Supervision = Supervision()
    """How the engine process is watched."""
    threads: int = 0
    """Threads of one inference; 0 means what the process may use."""
    instruction_set: str = ""
    """Overrides the detected instruction set; empty detects it."""
    memory_limit_bytes: int = 0
    """Refuse models whose estimated memory passes this; 0 means what the machine has free."""
    load_window_s: float = 5.0
    """Over how many seconds the load of a device is taken."""
    memory_pool_mib: int = 0
    """Size of the memory pool of each device, MiB; 0: none."""
    memory_pool_shared: bool = True
    """Whether the models of a device share its pool; otherwise each has one of that size."""
    engine_options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Options of the engine's back ends."""
    log_format: LogFormat = "auto"
    """``auto`` is text on a terminal and JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important level that is logged; ``debug`` adds a line per request."""

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigurationError("No model is configured.", hint="List at least one model.")
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f"The model '{name}' is configured more than once.")
        for model in self.models:
            _check_model(model)
        for field in ("grpc_port", "http_port"):
            if not 0 <= getattr(self, field) <= 65535:
                raise ConfigurationError(
                    f"{field} is {getattr(self, field)}.", hint="A port is 0 to 65535."
                )
        if self.grpc_port and self.grpc_port == self.http_port:
            raise ConfigurationError(
                f"grpc_port and http_port are both {self.grpc_port}.", hint="Give them two ports."
            )
        for field in ("drain_s", "default_deadline_s", "stream_deadline_s", "probe_timeout_s"):
            if getattr(self, field) < 0:
                raise ConfigurationError(f"{field} is {getattr(self, field)}: it is a duration.")
        if self.memory_pool_mib < 0:
            raise ConfigurationError(
                f"memory_pool_mib is {self.memory_pool_mib}.", hint="It is 0 or more MiB."
            )
        if not 0 < self.load_window_s < math.inf:
            raise ConfigurationError(
                f"load_window_s is {self.load_window_s}.", hint="It must be above 0."
            )

    def engine(self, socket: str) -> EngineConfig:
        """The settings of the engine process that binds ``socket``."""
        return EngineConfig(
            models=self.models,
            socket=socket,
            threads=self.threads,
            instruction_set=self.instruction_set,
            memory_limit_bytes=self.memory_limit_bytes,
            load_window_s=self.load_window_s,
            memory_pool_mib=self.memory_pool_mib,
            memory_pool_shared=self.memory_pool_shared,
            options={"log_level": self.log_level.upper()} | self.engine_options,
        )


def _check_model(model: ModelConfig) -> None:
    rules: dict[str, tuple[float, bool]] = {
        "weight": (model.weight, 0 < model.weight < math.inf),
        "max_batch_size": (model.max_batch_size, model.max_batch_size >= 1),
        "max_queue_size": (model.max_queue_size, model.max_queue_size >= 1),
    }
    for field, (value, fits) in rules.items():
        if not fits:
            raise ConfigurationError(
                f"The {field} of the model '{model.name}' is {value}.", hint="It must be above 0."
            )


def load_config(path: Path) -> WorkerConfig:
    """Read a worker's settings from a JSON file.

    Raises:
        ConfigurationError: the file cannot be read, or a setting in it is wrong.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=WorkerConfig)
    except OSError as error:
        raise ConfigurationError(
            f"The configuration file {path} cannot be read: {error.strerror}."
        ) from error
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"The configuration file {path} is wrong: {error}.") from error
