"""``@deepseek_fuse`` as users write it."""

from __future__ import annotations

import subprocess
import sys

import torch
import torch.nn.functional as F
from deepseek import deepseek_fuse
from torch import Tensor


@deepseek_fuse
def fused_conv_block(
    x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor,
    running_mean: Tensor, running_var: Tensor,
) -> Tensor:  # fmt: skip
    x = F.conv2d(x, weight, bias)
    x = F.batch_norm(x, running_mean, running_var, gamma, beta)
    x = F.relu(x)
    return x


def test_the_function_is_folded_and_gives_the_same() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(16, 3, 3, 3), torch.randn(16)
    gamma, beta, mean, var = torch.rand(16), torch.randn(16), torch.randn(16), torch.rand(16) + 0.1
    x = torch.randn(2, 3, 32, 32)
    plain = F.relu(F.batch_norm(F.conv2d(x, weight, bias), mean, var, gamma, beta))
    torch.testing.assert_close(
        fused_conv_block(x, weight, bias, gamma, beta, mean, var), plain, rtol=1e-4, atol=1e-5
    )
    assert fused_conv_block.reason == ""
    assert fused_conv_block.__name__ == "fused_conv_block"


def test_importing_the_package_imports_no_torch() -> None:
    program = (
        "import deepseek, sys; print('torch' in sys.modules, 'deepseek_fuse' in dir(deepseek))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["False", "True"]
