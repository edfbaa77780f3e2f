"""PyTorch: plain modules on the processor, quantized layers and CUDA graphs on a GPU.

On the processor it is the reference that other back ends are compared with. Importing this package
imports no torch: torch, transformers, timm and the kernels are imported when a variant is opened,
because serving on a processor must not pay for them.
"""

from __future__ import annotations

from deepseek_engine.backends.torch.backend import TorchBackend
from deepseek_engine.backends.torch.sharded import ShardedBackend, open_variant

__all__ = ["ShardedBackend", "TorchBackend", "open_variant"]
