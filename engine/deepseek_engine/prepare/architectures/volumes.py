"""Segmentation of volumes: the 3D-UNet that this project defines."""

from __future__ import annotations

from typing import Any

import torch
from deepseek_api.errors import ErrorCode, SourceError
from deepseek_api.manifest import Signature, TensorSpec
from deepseek_api.processing import SegmentationPostprocessing, VolumePreprocessing
from deepseek_api.vocabulary import Datatype
from pydantic import ValidationError

from deepseek_engine.models.unet3d import UNet3d, UNet3dConfig
from deepseek_engine.prepare.architectures.base import LoadedModel, Plan, weights_of
from deepseek_engine.prepare.known import UNET3D
from deepseek_engine.prepare.sources import Source


def load_volume(plan: Plan, source: Source) -> LoadedModel:
    """Load a 3D-UNet; the module maps ``[N, C, D, H, W]`` to scores ``[N, classes, D, H, W]``.

    The source's ``config.json`` holds ``{"model_type": "3d-unet"}``, the fields of `UNet3dConfig`
    that differ from its defaults, and ``preprocessing`` with the fields of `VolumePreprocessing`.

    Raises:
        SourceError: the architecture is not known, a field is wrong, or the weights do not fit.
    """
    if plan.name != UNET3D:
        raise SourceError(
            f"There is no architecture 'deepseek/{plan.name}'.",
            hint=f"There is deepseek/{UNET3D}.",
            code=ErrorCode.NOT_FOUND,
            reason="UnknownArchitecture",
        )
    config = _config(plan)
    torch.manual_seed(plan.seed)
    module = UNet3d(config)
    if not plan.random_weights:
        _load_weights(module, source)
    return LoadedModel(
        family="volume",
        module=module.eval(),
        architecture=f"deepseek/{UNET3D}",
        task=plan.task,
        model_type=plan.entry.type if plan.entry else "CV",
        signature=_signature(config),
        preprocessing=_preprocessing(plan, config),
        postprocessing=SegmentationPostprocessing(),
        shared_files={},
        torch_class=UNET3D,
        torch_config=config.to_fields(),
        torch_library="deepseek",
        random_weights=plan.random_weights,
    )


def _config(plan: Plan) -> UNet3dConfig:
    try:
        return UNet3dConfig.from_fields(plan.config)
    except ValueError as error:
        raise _wrong_config(str(error)) from error


def _load_weights(module: UNet3d, source: Source) -> None:
    weights, own = weights_of(source), module.state_dict()
    # Counted by torch during training and read by nothing else.
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    wrong = sorted(
        name
        for name in (own.keys() | weights.keys()) - counters
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    )
    if wrong:
        raise SourceError(
            f"The weights do not fit the architecture 'deepseek/{UNET3D}': {len(wrong)} tensors "
            f"are missing, unknown or have another shape, first '{wrong[0]}'.",
            hint="Write channels, classes, in_channels and norm of these weights into the "
            "config.json beside them.",
            reason="WeightsDoNotFit",
        )
    module.load_state_dict(weights, strict=False)


def _preprocessing(plan: Plan, config: UNet3dConfig) -> VolumePreprocessing:
    given: Any = plan.config.get("preprocessing")
    if given is None and plan.entry and isinstance(plan.entry.preprocessing, VolumePreprocessing):
        return plan.entry.preprocessing.model_copy(update={"multiple": config.multiple})
    try:
        fields = {**(given or {}), "multiple": config.multiple}
        return VolumePreprocessing.model_validate(fields, by_alias=True, by_name=False)
    except (TypeError, ValidationError) as error:
        raise _wrong_config("preprocessing is not low, high, mean and std as numbers") from error


def _wrong_config(why: str) -> SourceError:
    return SourceError(
        f"The config.json describes no 3D-UNet: {why}.",
        hint="Use the config.json that belongs to these weights.",
        reason="InvalidConfig",
    )


def _signature(config: UNet3dConfig) -> Signature:
    def voxels(name: str, channels: int) -> TensorSpec:
        return TensorSpec(name=name, datatype=Datatype.FP32, shape=(-1, channels, -1, -1, -1))

    return Signature(
        inputs=(voxels("volume", config.in_channels),),
        outputs=(voxels("logits", config.classes),),
    )
