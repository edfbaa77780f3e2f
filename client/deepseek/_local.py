"""One ModelPipeline on this machine: what runs, with which share, in a worker of this process.

Why it exists: the same file runs in a cluster and here. Replicas are a cluster's matter; here each
model has one instance and its weight becomes its share of device time. This is the client's only
importer of the worker; nothing that loads a runtime may be imported here, because the process
becomes the front end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from deepseek_api.allocation import allocate
from deepseek_api.catalog import Catalog
from deepseek_api.errors import ConfigurationError, DeepseekError, DeviceError, ErrorCode
from deepseek_api.v1alpha1 import Model, ModelPipeline, Policy
from deepseek_api.vocabulary import TaskName
from deepseek_engine.messages import AutoPrecision, ModelConfig
from deepseek_worker.config import WorkerConfig
from deepseek_worker.fleet import ModelStatus
from deepseek_worker.grpc_server import dial_address
from deepseek_worker.worker import WorkerReport, run_worker

from deepseek._auto_precision import read_policies
from deepseek._gateway import Gateway, check_gateway
from deepseek._generation import adapters_of, parallelism_of, settings_of
from deepseek._here import port_is_free, require_device
from deepseek._resolve import Wanted, check_precision, resolve

__all__ = [
    "LocalModel",
    "LogFormat",
    "LogLevel",
    "ModelStatus",
    "ServeOptions",
    "WorkerReport",
    "check_ports",
    "device_shares",
    "local_models",
    "openai_address",
    "serve",
]

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]

MIN_WEIGHT = 0.01
"""Share of a model to which the rules give nothing: it still answers when others leave time."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that will be served here."""

    model: Model
    wanted: Wanted
    weight: float
    """Share of device time, 0 to 1."""
    auto_precision: AutoPrecision | None = None
    """When it runs at its lower precision; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Where and how to serve."""

    host: str = "127.0.0.1"
    grpc_port: int = 8001
    """0 takes a free one."""
    http_port: int = 8080
    """0 takes a free one."""
    log_format: LogFormat = "auto"
    log_level: LogLevel = "info"
    random_weights: bool = False
    """Use seeded random weights of the same architectures."""
    seed: int = 0
    auto_precision: tuple[str, ...] = ()
    """``THRESHOLD`` or ``MODEL=THRESHOLD``; see `read_policies`."""
    openai_port: int | None = None
    """Port of OpenAI's HTTP interface; None: it is not served."""


def local_models(
    pipeline: ModelPipeline, *, catalog: Catalog, options: ServeOptions
) -> tuple[list[LocalModel], list[DeepseekError]]:
    """The models that run here, and one error for each that cannot.

    Raises:
        ConfigurationError: the automatic precision of the options is wrong.
    """
    weights = device_shares(pipeline, catalog)
    names = [model.name for model in pipeline.spec.models]
    policies = read_policies(options.auto_precision, names)
    runnable: list[LocalModel] = []
    errors: list[DeepseekError] = []
    for model in pipeline.spec.models:
        if model.wanted == 0:
            continue
        try:
            wanted = _wanted(model, catalog, options, twin=model.name in policies)
        except DeepseekError as error:
            errors.append(error)
        else:
            policy = policies.get(model.name)
            runnable.append(LocalModel(model, wanted, weights[model.name], policy))
    if not runnable and not errors:
        errors.append(
            ConfigurationError(
                "Every model of the pipeline wants 0 replicas, so there is nothing to serve.",
                hint="Set 'replicas' of a model to 1 or more.",
            )
        )
    return runnable, errors


def device_shares(pipeline: ModelPipeline, catalog: Catalog) -> dict[str, float]:
    """Share of device time by model: the weights of the rules, without the budget.

    A budget divides replicas and GPUs of a cluster; device time is always divided.
    """
    scheduler = pipeline.spec.scheduler
    # Under the policy 'static' nobody has priority, so the rules do not count.
    rules = () if scheduler.policy is Policy.STATIC else scheduler.priority_rules
    free = scheduler.model_copy(update={"budget": None, "priority_rules": rules})
    spec = pipeline.spec.model_copy(update={"scheduler": free})
    allocation = allocate(pipeline.model_copy(update={"spec": spec}), catalog=catalog)
    return {row.model: max(float(row.weight), MIN_WEIGHT) for row in allocation.rows}


def _wanted(model: Model, catalog: Catalog, options: ServeOptions, *, twin: bool) -> Wanted:
    try:
        device = require_device(model.device or "cpu")
    except DeviceError as error:
        raise DeviceError(
            f"The model '{model.name}' cannot run here. {error.message}",
            hint="Write 'device: cpu' for this model, or leave 'device' out.",
            reason=error.reason,
        ) from None
    source = model.source
    entry = catalog.find(model.name) if source is None else None
    _refuse_what_cannot_be(model, model.task or (entry.task if entry else ""))
    settings_of(model), adapters_of(model)  # what is wrong with them is told before preparing
    check_precision(model.name, model.precision, device.kind)
    return resolve(
        model.name,
        catalog=catalog,
        uri=source.uri if source else None,
        revision=(source.revision or "") if source else "",
        digest=(source.digest or "") if source else "",
        task=model.task or "",
        # A bundle with two precisions is one that was prepared with all of them.
        precision="auto" if twin else model.precision,
        device=device.kind,
        random_weights=options.random_weights,
        seed=options.seed,
    )


def _refuse_what_cannot_be(model: Model, task: str) -> None:
    if model.devices_per_replica > 1 and task != TaskName.GENERATE:
        what = "is divided over several devices, which only models that generate can be"
        hint = "Leave 'parallelism' out, or write 'task: generate' if it generates."
    elif model.quantization is not None:
        what = "refines its quantization, which this release cannot do"
        hint = "Leave 'quantization' out."
    else:
        return
    raise ConfigurationError(
        f"The model '{model.name}' {what}.",
        hint=hint,
        code=ErrorCode.UNIMPLEMENTED,
        reason="Unsupported",
    )


def check_ports(options: ServeOptions) -> None:
    """Find a port that is taken before minutes go into preparing models.

    Raises:
        ConfigurationError: a port is in use or not a port, or there is no gateway for --openai.
    """
    ports = {"--grpc-port": options.grpc_port, "--http-port": options.http_port}
    if options.openai_port is not None:
        check_gateway()
        ports["--openai"] = options.openai_port
    for option, port in ports.items():
        if not 0 <= port <= 65535:
            raise ConfigurationError(f"{option} is {port}.", hint="A port is 0 to 65535.")
        if port and not port_is_free(port, host=options.host):
            raise ConfigurationError(
                f"Port {port} on {options.host} cannot be listened on; it is probably in use.",
                hint=f"End what uses it, or choose another with {option}; 0 takes a free one.",
                reason="PortInUse",
            )
    if options.grpc_port and options.grpc_port == options.http_port:
        raise ConfigurationError(
            f"gRPC and HTTP cannot share port {options.grpc_port}.", hint="Give them two ports."
        )


def serve(
    models: list[LocalModel],
    bundles: Mapping[str, Path],
    *,
    options: ServeOptions,
    on_ready: Callable[[WorkerReport], None],
    on_loading: Callable[[Sequence[ModelStatus]], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; to be called from the main thread.

    Args:
        models: what to serve.
        bundles: folder of each model's bundle, by name.
        options: where to listen.
        on_ready: called once, when every model is ready or has failed.
        on_loading: called with all models after every change before that.

    Returns:
        The exit code.
    """
    config = WorkerConfig(
        models=tuple(_config(item, bundles[item.model.name]) for item in models),
        host=options.host,
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        log_format=options.log_format,
        log_level=options.log_level,
    )
    gateways: list[Gateway] = []

    def ready(report: WorkerReport) -> None:
        if openai_address(report, options):
            gateway = Gateway(
                worker=report.grpc_address,
                host=options.host,
                port=options.openai_port or 0,
                log_level=options.log_level,
            )
            gateway.start()
            gateways.append(gateway)
        on_ready(report)

    try:
        return run_worker(config, ready, on_loading=on_loading)
    finally:
        for gateway in gateways:
            gateway.stop()


def openai_address(report: WorkerReport, options: ServeOptions) -> str:
    """Where OpenAI's interface is served; empty when it is not, or no model would answer it."""
    generating = any(s.info is not None and s.info.generation for s in report.models)
    if options.openai_port is None or not generating:
        return ""
    return f"http://{dial_address(options.host, options.openai_port)}/v1"


def _config(item: LocalModel, bundle: Path) -> ModelConfig:
    model, batching = item.model, item.model.batching
    config = ModelConfig(
        name=model.name,
        bundle=os.fspath(bundle),
        digest=item.wanted.digest,
        precision=model.precision,
        model_type=model.type or "",
        weight=item.weight,
        device=model.device or "cpu",
        auto_precision=item.auto_precision,
        generation=settings_of(model),
        adapters=adapters_of(model),
        parallelism=parallelism_of(model),
    )
    if batching is None:
        return config
    given = {
        "max_batch_size": batching.max_batch_size,
        "max_queue_size": batching.max_queue_size,
        "latency_target_ms": batching.latency_target_ms,
    }
    set_fields = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(config, **set_fields)
