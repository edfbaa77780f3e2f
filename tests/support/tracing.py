"""Whether an operation can be traced: what its fake says must be what it gives.

Stands in for ``torch.library.opcheck``, whose every call traces through the whole of the compiler's
front end and takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map


def assert_traceable(operation: Callable[..., Any], *arguments: Any) -> None:
    """Run an operation with real and with fake tensors and compare the results' descriptions."""
    before = [leaf.clone() for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    real = [_description(leaf) for leaf in tree_leaves(operation(*arguments))]
    after = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    assert all(map(torch.equal, before, after)), "the operation changed an argument"
    with FakeTensorMode() as mode:
        faked = tree_map(
            lambda leaf: mode.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf,
            arguments,
        )
        fake = [_description(leaf) for leaf in tree_leaves(operation(*faked))]
    assert fake == real


def _description(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device.type
