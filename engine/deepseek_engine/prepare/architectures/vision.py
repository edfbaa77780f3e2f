"""Image classifiers, built by timm."""

from __future__ import annotations

from typing import Any

import timm
import torch
from deepseek_api.errors import ErrorCode, SourceError
from deepseek_api.manifest import Signature, TensorSpec
from deepseek_api.processing import ClassificationPostprocessing, ImagePreprocessing
from deepseek_api.suggest import did_you_mean
from deepseek_api.vocabulary import Datatype
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from deepseek_engine.prepare.architectures.base import LoadedModel, Plan, weights_of
from deepseek_engine.prepare.sources import Source
from deepseek_engine.prepare.state_dicts import StateDict

IMAGENET_CLASSES = 1000
LABELS = "labels.txt"


def load_vision(plan: Plan, source: Source) -> LoadedModel:
    """Load an image classifier; the module maps pixels ``[N, 3, H, W]`` to logits ``[N, C]``.

    Raises:
        SourceError: the architecture is not known, or the weights do not fit it.
    """
    classes = int(plan.config.get("num_classes") or IMAGENET_CLASSES)
    module = _build(plan, classes)
    if not plan.random_weights:
        _load_weights(module, weights_of(source), plan.name)
    preprocessing = _preprocessing(plan, module)
    labels = _labels(plan, classes)
    return LoadedModel(
        family="vision-transformer" if isinstance(module, VisionTransformer) else "vision",
        module=module.eval(),
        architecture=f"timm/{plan.name}",
        task=plan.task,
        model_type=plan.entry.type if plan.entry else "CV",
        signature=_signature(preprocessing.size, classes),
        preprocessing=preprocessing,
        postprocessing=ClassificationPostprocessing(labels=LABELS),
        shared_files={LABELS: labels},
        torch_class=plan.name,
        torch_config={**_arguments(plan), "num_classes": classes},
        random_weights=plan.random_weights,
    )


def _build(plan: Plan, classes: int) -> nn.Module:
    arguments = _arguments(plan)
    torch.manual_seed(plan.seed)
    try:
        module: nn.Module = timm.create_model(
            plan.name, pretrained=False, num_classes=classes, **arguments
        )
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise SourceError(
            f"The config.json describes no '{plan.name}' that can be built: "
            f"{type(error).__name__}.",
            hint="Use the config.json that belongs to these weights.",
            reason="InvalidConfig",
        ) from error
    except RuntimeError as error:
        raise SourceError(
            f"timm has no architecture '{plan.name}'.",
            hint=did_you_mean(plan.name, timm.list_models()) or "timm.list_models() lists them.",
            code=ErrorCode.NOT_FOUND,
            reason="UnknownArchitecture",
        ) from error
    return module


def _arguments(plan: Plan) -> dict[str, Any]:
    """What the architecture is built with beside its name: ``model_args`` of the config.json."""
    return {str(key): value for key, value in dict(plan.config.get("model_args") or {}).items()}


def _load_weights(module: nn.Module, weights: StateDict, architecture: str) -> None:
    """Load by name; where the names are another library's, by order if every shape agrees."""
    own = module.state_dict()
    if set(own) != set(weights):
        weights = _by_order(own, weights, architecture)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise _does_not_fit(architecture, "a tensor has another shape") from error


def _by_order(own: StateDict, weights: StateDict, architecture: str) -> StateDict:
    if len(own) != len(weights):
        raise _does_not_fit(
            architecture, f"it has {len(own)} tensors and the file has {len(weights)}"
        )
    renamed = {}
    for (name, expected), (given_name, given) in zip(own.items(), weights.items(), strict=True):
        same_role = name.rpartition(".")[2] == given_name.rpartition(".")[2]
        if expected.shape != given.shape or not same_role:
            raise _does_not_fit(
                architecture,
                f"'{given_name}' {tuple(given.shape)} stands where '{name}' "
                f"{tuple(expected.shape)} belongs",
            )
        renamed[name] = given
    return renamed


def _does_not_fit(architecture: str, why: str) -> SourceError:
    return SourceError(
        f"The weights do not fit the architecture '{architecture}': {why}.",
        hint="Name the architecture that these weights were trained with.",
        reason="WeightsDoNotFit",
    )


def _preprocessing(plan: Plan, module: nn.Module) -> ImagePreprocessing:
    if plan.entry and isinstance(plan.entry.preprocessing, ImagePreprocessing):
        return plan.entry.preprocessing
    published: dict[str, Any] = {
        **resolve_model_data_config(module),  # type: ignore[no-untyped-call]
        **{k: v for k, v in dict(plan.config.get("pretrained_cfg") or {}).items() if v is not None},
    }
    return ImagePreprocessing(
        size=int(published["input_size"][-1]),
        crop_fraction=float(published["crop_pct"]),
        interpolation=published["interpolation"],
        mean=_in_255(published["mean"]),
        std=_in_255(published["std"]),
    )


def _in_255(channels: Any) -> tuple[float, float, float]:
    """Channel values from timm's range of 0 to 1 into the manifest's of 0 to 255."""
    red, green, blue = (round(float(value) * 255, 4) for value in channels)
    return red, green, blue


def _signature(size: int, classes: int) -> Signature:
    return Signature(
        inputs=(
            TensorSpec(name="pixel_values", datatype=Datatype.FP32, shape=(-1, 3, size, size)),
        ),
        outputs=(TensorSpec(name="logits", datatype=Datatype.FP32, shape=(-1, classes)),),
    )


def _labels(plan: Plan, classes: int) -> bytes:
    """Names of classes, one a line: the config's own, ImageNet's for a thousand, else numbers."""
    given = plan.config.get("label_names")
    if isinstance(given, list) and len(given) == classes:
        names = [" ".join(str(name).split()) for name in given]
    elif classes == IMAGENET_CLASSES:
        info = ImageNetInfo()
        names = [info.index_to_description(index) for index in range(classes)]
    else:
        names = [str(index) for index in range(classes)]
    return ("\n".join(names) + "\n").encode()
