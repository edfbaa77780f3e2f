"""What a model of the spec means in this installation: source, device, image, and what forbids it.

Why it exists: defaults of a model come from the catalog and from the operator's settings, and
both may say that it cannot be served here. Everything is filled in once, before anything is
rendered. It reads no cluster; whether a source can really be fetched shows when a replica starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deepseek_api.allocation import model_type
from deepseek_api.catalog import Catalog, CatalogEntry, CatalogSource
from deepseek_api.suggest import did_you_mean
from deepseek_api.v1alpha1.conditions import ConditionReason, ConditionType
from deepseek_api.v1alpha1.model import Model, Source
from deepseek_api.v1alpha1.pipeline import ModelPipeline
from deepseek_api.vocabulary import DeviceKind, TaskName

from deepseek_operator.config import OperatorConfig
from deepseek_operator.names import deployment_name
from deepseek_operator.plan import RAW_SCHEMES, Finding, ResolvedModel

__all__ = ["resolve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One model with what its defaults come from."""

    model: Model
    entry: CatalogEntry | None
    device: DeviceKind
    config: OperatorConfig

    @property
    def source(self) -> Source | CatalogSource | None:
        if self.model.source is not None:
            return self.model.source
        return self.entry.source if self.entry is not None else None

    @property
    def task(self) -> str | None:
        if self.model.task is not None:
            return self.model.task
        if self.entry is not None:
            return self.entry.task
        # Nothing else has these fields.
        generates = self.model.generation is not None or self.model.adapters
        return TaskName.GENERATE if generates else None

    @property
    def needs_torch(self) -> bool:
        return self.task == TaskName.GENERATE or self.model.devices_per_replica > 1

    @property
    def image(self) -> str | None:
        if self.device is DeviceKind.CPU and self.needs_torch:
            return self.config.torch_image or None
        return self.config.images.get(self.device) or None


def resolve(
    pipeline: ModelPipeline, *, config: OperatorConfig, catalog: Catalog
) -> tuple[ResolvedModel, ...]:
    """Fill in every model of a pipeline.

    Args:
        pipeline: what the user wrote.
        config: settings of the installation.
        catalog: models that can be asked for by name.

    Returns:
        The models in the order of the spec. What keeps one from being served is in its findings.
    """
    return tuple(
        _resolved(pipeline, model, config=config, catalog=catalog) for model in pipeline.spec.models
    )


def _resolved(
    pipeline: ModelPipeline, model: Model, *, config: OperatorConfig, catalog: Catalog
) -> ResolvedModel:
    entry = _entry_of(model, catalog)
    device = model.device or config.default_device
    case = _Case(model=model, entry=entry, device=device, config=config)
    source = case.source
    gpus = model.gpus
    if gpus is None:
        gpus = 0 if device is DeviceKind.CPU else model.devices_per_replica
    return ResolvedModel(
        spec=model,
        # By the rule that shares the budget, or the two would disagree.
        type=model_type(model, catalog),
        task=case.task,
        device=device,
        gpus=gpus,
        source_uri=source.uri if source is not None else None,
        source_revision=source.revision if source is not None else None,
        digest=source.digest if source is not None else None,
        secret_name=model.source.secret_name if model.source is not None else None,
        image=case.image,
        memory_request=entry.memory_request if entry is not None else None,
        deployment=deployment_name(pipeline.metadata.name, model.name),
        entry=entry,
        findings=(
            *_source_findings(case, catalog),
            *_generation_findings(case),
            *_device_findings(case, gpus),
        ),
    )


def _entry_of(model: Model, catalog: Catalog) -> CatalogEntry | None:
    """The entry that describes a model: by its source, by its architecture or by its name."""
    uri = model.source.uri if model.source is not None else None
    scheme, _, place = (uri or "").partition("://")
    architecture = place.partition("?")[0] if scheme == "random" else None
    for entry in catalog:
        if uri == entry.source.uri:
            return entry
    for entry in catalog:
        if architecture is not None and architecture in (entry.name, entry.architecture):
            return entry
    return catalog.find(model.name)


def _source_findings(case: _Case, catalog: Catalog) -> Iterator[Finding]:
    name = case.model.name
    if case.source is None:
        guess = did_you_mean(name, catalog.names())
        hint = "Write its source.uri, or name a model of the catalog."
        yield _degraded(
            case,
            ConditionReason.MODEL_UNKNOWN,
            f"Model '{name}' has no source, and the catalog does not know its name. "
            + (f"{guess} {hint}" if guess else hint),
        )
        return
    raw = case.source.uri.partition("://")[0] in RAW_SCHEMES
    if raw and case.entry is not None and case.entry.availability:
        yield _degraded(
            case,
            ConditionReason.SOURCE_UNAVAILABLE,
            f"Model '{name}' cannot run: {case.entry.availability}",
        )
        return
    yield from _scheme_findings(case, case.source.uri)


def _scheme_findings(case: _Case, uri: str) -> Iterator[Finding]:
    name, config = case.model.name, case.config
    scheme = uri.partition("://")[0]
    if scheme == "file":
        yield _degraded(
            case,
            ConditionReason.SOURCE_UNAVAILABLE,
            f"The source {uri} of model '{name}' is a folder of one machine, which replicas in a "
            "cluster do not have. Put the bundle on a volume (pvc://CLAIM/PATH) or into an image "
            "(oci://REF; 'deepseek prepare --image REF' makes one).",
        )
    elif scheme == "random" and not config.allow_random_weights:
        yield _degraded(
            case,
            ConditionReason.RANDOM_WEIGHTS_REFUSED,
            f"The source {uri} of model '{name}' has random weights, which this installation does "
            "not serve. Name real weights, or set allowRandomWeights in the operator's values.",
        )
    elif scheme in RAW_SCHEMES and not config.torch_image:
        yield _degraded(
            case,
            ConditionReason.RAW_SOURCE_UNSUPPORTED,
            f"The source {uri} of model '{name}' must be prepared before it can be served, and "
            "the operator's values name no torchImage for that. Prepare it beforehand and name "
            "the bundle (oci://REF or pvc://CLAIM/PATH), or set torchImage.",
        )


def _generation_findings(case: _Case) -> Iterator[Finding]:
    model, task = case.model, case.task
    if task not in (None, TaskName.GENERATE):
        for field in ("generation", "adapters"):
            if getattr(model, field):
                yield _degraded(
                    case,
                    ConditionReason.GENERATION_UNSUPPORTED,
                    f"{field} of model '{model.name}' is set, but its task is {task}. Leave "
                    f"{field} out, or name a model that generates.",
                )
    for adapter in model.adapters or ():
        if adapter.source.uri.startswith("file://"):
            yield _degraded(
                case,
                ConditionReason.SOURCE_UNAVAILABLE,
                f"The adapter '{adapter.name}' of model '{model.name}' is a folder of one machine, "
                "which replicas in a cluster do not have. Put it on a volume (pvc://CLAIM/PATH) or "
                "into an image (oci://REF).",
            )


def _device_findings(case: _Case, gpus: int) -> Iterator[Finding]:
    model, device = case.model, case.device
    expected = 0 if device is DeviceKind.CPU else model.devices_per_replica
    if gpus != expected:
        yield _device_unavailable(
            case,
            ConditionReason.GPUS_MISMATCH,
            f"gpus of model '{model.name}' is {gpus}, but on its device {device} a replica has "
            f"{expected}. Leave gpus out, or write device and parallelism that fit.",
        )
    if case.image is not None:
        return
    if device is DeviceKind.CPU and case.needs_torch:
        text = (
            f"Model '{model.name}' generates or is divided over processes, which on cpu needs an "
            "image with torch, and the operator's values name none. Set torchImage."
        )
    else:
        text = (
            f"The operator's values name no worker image for the device {device} of model "
            f"'{model.name}'. Add images.{device}, or choose another device."
        )
    yield _device_unavailable(case, ConditionReason.NO_IMAGE_FOR_DEVICE, text)


def _degraded(case: _Case, reason: ConditionReason, message: str) -> Finding:
    return Finding(
        condition=ConditionType.DEGRADED, reason=reason, message=message, model=case.model.name
    )


def _device_unavailable(case: _Case, reason: ConditionReason, message: str) -> Finding:
    return Finding(
        condition=ConditionType.DEVICE_UNAVAILABLE,
        reason=reason,
        message=message,
        model=case.model.name,
    )
