"""The 3D-UNet of `deepseek_engine.models`: the same network as another project's, its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # torch takes seconds to import; only the tests that need it wait
    import torch
    from deepseek_engine.models.unet3d import UNet3d

pytestmark = pytest.mark.timeout(300)


def network(**fields: Any) -> UNet3d:
    import torch
    from deepseek_engine.models.unet3d import UNet3d, UNet3dConfig

    torch.manual_seed(0)
    module = UNet3d(UNet3dConfig.from_fields(fields)).eval()
    # Away from what layers start with: a norm that does nothing would hide a forgotten one.
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "norm" in name and value.dtype.is_floating_point:
                value.uniform_(0.5, 1.5)
    return module


def monai_twin(module: UNet3d, norm: str, activation: str) -> torch.nn.Module:
    """monai's dynamic U-Net of the same settings with the same weights, matched by place."""
    from monai.networks.nets.dynunet import DynUNet

    levels = len(module.config.channels)
    given = ("leakyrelu", {"negative_slope": 0.01}) if activation == "leaky_relu" else "relu"
    twin = DynUNet(
        spatial_dims=3,
        in_channels=module.config.in_channels,
        out_channels=module.config.classes,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(module.config.channels),
        norm_name=(norm, {"affine": True}),
        act_name=given,
    ).eval()
    ours = module.state_dict()
    state = {name: ours[_our_name(name, levels)] for name in twin.state_dict()}
    twin.load_state_dict(state)
    return twin


def _our_name(name: str, levels: int) -> str:
    """The name here of a tensor there; their ``skip_layers`` are the same modules nested."""
    if name.startswith("skip_layers."):
        depth = name.count("next_layer.")
        rest = name.replace("skip_layers.", "").replace("next_layer.", "")
        part, _, tail = rest.partition(".")
        if part not in ("downsample", "upsample"):
            return _our_name(f"bottleneck.{rest}", levels)
        if part == "downsample":
            return _level("encoder", depth, tail)
        return _our_name(f"upsamples.{levels - 2 - depth}.{tail}", levels)
    part, _, tail = name.partition(".")
    if part == "input_block":
        return _level("encoder", 0, tail)
    if part == "bottleneck":
        return _level("encoder", levels - 1, tail)
    if part == "output_block":
        return f"head.{tail.rpartition('.')[2]}"
    number, _, tail = tail.partition(".")
    if part == "downsamples":
        return _level("encoder", int(number) + 1, tail)
    level = levels - 2 - int(number)
    if tail.startswith("transp_conv."):
        return f"up.{level}.weight"
    return _level("decoder", level, tail.removeprefix("conv_block."))


def _level(side: str, level: int, tail: str) -> str:
    return f"{side}.{level}.{tail.replace('conv.', '', 1) if '.conv.' in tail else tail}"


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
@pytest.mark.parametrize(
    ("channels", "shape"),
    [((4, 6, 10), (8, 12, 16)), ((2, 4, 6, 8), (16, 8, 24))],
    ids=["three levels", "four levels"],
)
def test_it_computes_what_monai_computes(
    channels: tuple[int, ...], shape: tuple[int, int, int], norm: str, activation: str
) -> None:
    import torch

    module = network(
        in_channels=2, classes=3, channels=list(channels), norm=norm, activation=activation
    )
    volume = torch.randn(2, 2, *shape)
    with torch.inference_mode():
        expected = monai_twin(module, norm, activation)(volume)
        torch.testing.assert_close(module(volume), expected, atol=1e-5, rtol=1e-5)


def test_a_single_level_is_two_convolutions_and_a_head() -> None:
    import torch

    module = network(channels=[4], norm="batch")
    assert module.config.multiple == 1
    assert module(torch.randn(1, 1, 3, 5, 7)).shape == (1, 2, 3, 5, 7)
    assert {name.partition(".")[0] for name in module.state_dict()} == {"encoder", "head"}


def test_the_fields_survive_json() -> None:
    import json

    from deepseek_engine.models.unet3d import UNet3dConfig

    config = UNet3dConfig(in_channels=3, classes=5, channels=(4, 8, 16), norm="batch")
    assert UNet3dConfig.from_fields(json.loads(json.dumps(config.to_fields()))) == config
    assert config.multiple == 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"channels": []}, "channels has 0 levels"),
        ({"channels": [8] * 9}, "channels has 9 levels"),
        ({"channels": 8}, "channels is 8, a list"),
        ({"channels": [8, 0]}, "channels is 0, a whole number"),
        ({"channels": [8, "16"]}, "channels is '16'"),
        ({"classes": True}, "classes is True"),
        ({"in_channels": 1.5}, "in_channels is 1.5"),
        ({"norm": "group"}, "norm is 'group'"),
        ({"activation": "gelu"}, "activation is 'gelu'"),
    ],
)
def test_a_field_that_cannot_be_is_named(fields: dict[str, Any], sentence: str) -> None:
    from deepseek_engine.models.unet3d import UNet3dConfig

    with pytest.raises(ValueError, match=sentence.replace("[", r"\[")):
        UNet3dConfig.from_fields(fields)
