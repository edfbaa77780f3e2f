"""What a torch variant is made of: the small JSON file that its ``graph`` names.

::

    {"library": "transformers", "architecture": "BertModel", "config": {...},
     "arguments": {"add_pooling_layer": false}, "weights": "torch/model.safetensors",
     "dtype": "bfloat16", "format": "compressed-tensors",
     "inputs": [...], "outputs": [["last_hidden_state", "FP32", [-1, -1, 768]]]}
    {"library": "timm", "architecture": "tf_efficientnet_lite0", "config": {},
     "weights": "torch/model.safetensors", "inputs": [...],
     "outputs": [["logits", "FP32", [-1, 1000]]]}
    {"library": "deepseek", "architecture": "3d-unet", "config": {"channels": [16, 32]}, ...}

Inputs and outputs are lists of ``[name, datatype, shape]``; ``weights`` is one of the variant's
files; ``arguments`` go to the class beside the configuration. ``dtype`` (``float32`` unless given)
is that of the arithmetic and of weights that are not quantized. With the ``format``
``compressed-tensors`` the weights lie beside a ``config.json`` that says how layers are quantized.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepseek_api.errors import BundleError
from deepseek_api.manifest import Variant

from deepseek_engine.backends.torch.importing import import_library
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.messages import TensorSpec

__all__ = ["Description", "build_module", "read_description", "unfit"]

_DTYPES = ("float32", "bfloat16", "float16")
_PLAIN, _QUANTIZED = "safetensors", "compressed-tensors"


@dataclass(frozen=True, kw_only=True)
class Description:
    """A torch variant's JSON file, read."""

    library: str
    architecture: str
    weights: str
    """A file of the variant."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    quantized: bool = False
    """Whether the weights are a compressed-tensors checkpoint."""

    @property
    def takes_names(self) -> bool:
        """Whether the module is called with inputs by name, and answers by name."""
        return self.library == "transformers"


def read_description(bundle: OpenBundle, variant: Variant) -> Description:
    """Read the description of a variant.

    Raises:
        BundleError: it is not one, or leads out of the bundle.
    """
    try:
        fields = json.loads(bundle.path(variant.graph).read_bytes())
        # A file name only: the description must not lead out of the bundle.
        if fields["weights"] not in {file.path for file in variant.files}:
            raise ValueError("the weights are not a file of the variant")
        if fields.get("dtype", "float32") not in _DTYPES:
            raise ValueError(f"the dtype is not one of {_DTYPES}")
        if fields.get("format", _PLAIN) not in (_PLAIN, _QUANTIZED):
            raise ValueError("the format of the weights is not known")
        return Description(
            library=fields["library"],
            architecture=fields["architecture"],
            weights=fields["weights"],
            inputs=tuple(TensorSpec(n, d, tuple(s)) for n, d, s in fields["inputs"]),
            outputs=tuple(TensorSpec(n, d, tuple(s)) for n, d, s in fields["outputs"]),
            config=dict(fields.get("config", {})),
            arguments=dict(fields.get("arguments", {})),
            dtype=fields.get("dtype", "float32"),
            quantized=fields.get("format", _PLAIN) == _QUANTIZED,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise unfit(variant) from error


def build_module(description: Description) -> Any:
    """The module with fresh weights.

    Raises:
        ValueError: the description names no model.
        DeviceError: its library is not installed.
    """
    config = dict(description.config)
    if (description.library, description.architecture) == ("deepseek", "3d-unet"):
        unet3d = import_library("deepseek_engine.models.unet3d")
        return unet3d.UNet3d(unet3d.UNet3dConfig.from_fields(config))
    if description.library == "timm":
        timm = import_library("timm")
        return timm.create_model(description.architecture, pretrained=False, **config)
    if description.library == "transformers":
        transformers = import_library("transformers")
        settings = transformers.AutoConfig.for_model(**config)
        found = getattr(transformers, description.architecture)
        # The name comes from a file; only a model class may be called.
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            raise ValueError(f"{description.architecture!r} is not a model")
        return found(settings, **description.arguments)
    raise ValueError(f"unknown library {description.library!r}")


def unfit(variant: Variant) -> BundleError:
    """The error of a variant that its description cannot build."""
    return BundleError(
        f"The torch variant '{variant.id}' cannot be built from its description.",
        hint="Prepare the bundle again with this release.",
        reason="UnreadableGraph",
    )
