"""PyTorch, plain: the reference that other back ends are compared with.

Why it exists: an answer is right when an independent implementation gives the same. It builds the
module from `transformers`, `timm` or `deepseek_engine.models`, loads safetensors into it and runs
fp32 in inference mode. Torch and the libraries are imported when a variant is opened, never before:
serving on a CPU must not import them.

The variant's graph is a small JSON file::

    {"library": "transformers", "architecture": "BertModel", "config": {...},
     "arguments": {"add_pooling_layer": false}, "weights": "torch/model.safetensors",
     "inputs": [...], "outputs": [["last_hidden_state", ...]]}
    {"library": "timm", "architecture": "tf_efficientnet_lite0", "config": {},
     "weights": "torch/model.safetensors", "inputs": [...],
     "outputs": [["logits", "FP32", [-1, 1000]]]}
    {"library": "deepseek", "architecture": "3d-unet", "config": {"channels": [16, 32]}, ...}

where inputs and outputs are lists of ``[name, datatype, shape]``, ``weights`` is one of the
variant's files, and ``arguments`` (optional) goes to the class beside the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from deepseek_api.errors import BundleError, DeviceError, ErrorCode, InferenceError
from deepseek_api.manifest import Variant

from deepseek_engine.backends import BackendOptions
from deepseek_engine.backends.devices import parse_device
from deepseek_engine.bundles import OpenBundle
from deepseek_engine.codec import Array
from deepseek_engine.messages import TensorSpec

__all__ = ["TorchBackend"]


class TorchBackend:
    """One torch module, opened."""

    name = "torch"

    def __init__(self, bundle: OpenBundle, variant: Variant, options: BackendOptions) -> None:
        """Build the module of a variant and load its weights.

        Raises:
            BundleError: the description or the weights do not fit.
            DeviceError: the device is not available, or torch is not installed.
        """
        torch = _import("torch")
        self.device = _device(torch, options.device)
        try:
            description = json.loads(bundle.path(variant.graph).read_bytes())
            self.inputs = tuple(TensorSpec(n, d, tuple(s)) for n, d, s in description["inputs"])
            self.outputs = tuple(TensorSpec(n, d, tuple(s)) for n, d, s in description["outputs"])
            module = _build(description)
            # A file name only: the description must not lead out of the bundle.
            weights = {file.path for file in variant.files} & {description["weights"]}
            tensors = _import("safetensors.torch").load_file(str(bundle.path(weights.pop())))
            _load(module, tensors)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise BundleError(
                f"The torch variant '{variant.id}' cannot be built from its description.",
                hint="Prepare the bundle again with this release.",
                reason="UnreadableGraph",
            ) from error
        if self.device == "cpu":
            torch.set_num_threads(options.threads)
        self._torch = torch
        self._module = module.to(device=self.device, dtype=torch.float32).eval()
        self._keywords = description["library"] == "transformers"

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the module once; see `Backend.run`."""
        torch = self._torch
        # Copied: torch refuses arrays that must not be written, such as views on a message.
        tensors = {name: torch.tensor(np.array(a)).to(self.device) for name, a in inputs.items()}
        try:
            with torch.inference_mode():
                if self._keywords:
                    result = self._module(**tensors)
                    found = {spec.name: _output(result, spec.name) for spec in self.outputs}
                else:
                    result = self._module(*(tensors[spec.name] for spec in self.inputs))
                    found = {self.outputs[0].name: result}
        except (IndexError, RuntimeError, ValueError) as error:
            raise InferenceError(
                "The model failed to compute this request.",
                code=ErrorCode.INTERNAL,
                hint="The log of the engine has the cause.",
            ) from error
        names = outputs if outputs is not None else [spec.name for spec in self.outputs]
        return {name: found[name].float().cpu().numpy() for name in names}

    def close(self) -> None:
        """Free the weights."""
        self._module = None


def _output(result: Any, name: str) -> Any:
    """An output by name; classes with a head give the last vectors among all hidden states."""
    return result[name] if name in result else result["hidden_states"][-1]


def _load(module: Any, tensors: Mapping[str, Any]) -> None:
    """Load weights of which each is stored once, also where two parameters share it."""
    missing, unknown = module.load_state_dict(tensors, strict=False)
    own = module.state_dict()
    loaded = {own[name].data_ptr() for name in tensors if name in own}
    absent = [name for name in missing if own[name].data_ptr() not in loaded]
    if absent or unknown:
        raise ValueError(f"tensors do not fit: {[*absent, *unknown][:4]}")


def _build(description: Mapping[str, Any]) -> Any:
    library, architecture = description["library"], description["architecture"]
    config = dict(description.get("config", {}))
    if library == "deepseek" and architecture == "3d-unet":
        unet3d = _import("deepseek_engine.models.unet3d")
        return unet3d.UNet3d(unet3d.UNet3dConfig.from_fields(config))
    if library == "timm":
        return _import("timm").create_model(architecture, pretrained=False, **config)
    if library == "transformers":
        transformers = _import("transformers")
        settings = transformers.AutoConfig.for_model(**config)
        found = getattr(transformers, architecture)
        # The name comes from a file; only a model class may be called.
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            raise ValueError(f"{architecture!r} is not a model")
        return found(settings, **description.get("arguments", {}))
    raise ValueError(f"unknown library {library!r}")


def _device(torch: Any, text: str) -> str:
    kind, index = parse_device(text)
    if kind == "cpu":
        return "cpu"
    if kind != "cuda":
        raise DeviceError(
            f"The back end 'torch' has no device '{text}'.", hint="Use device cpu or cuda."
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (index or 0) >= count:
        have = f"this machine has {count} NVIDIA GPUs" if count else "no NVIDIA GPU is usable here"
        raise DeviceError(
            f"The device '{text}' is not available: {have}.",
            hint="Use device cpu; 'deepseek doctor' says what this machine can run.",
        )
    return text


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DeviceError(
            f"This variant needs '{name.partition('.')[0]}', which is not installed.",
            hint="Install the extra 'prepare', or use a variant for ONNX Runtime.",
            reason="BackendUnavailable",
        ) from error
