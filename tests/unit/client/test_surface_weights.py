"""``block_quantize`` and ``dynamic_pruning`` as users write them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from deepseek import ConfigurationError, block_quantize, dynamic_pruning

SHAPES = [(64, 64), (128, 192), (100, 70), (1, 1), (63,), (2, 3, 65, 66), (0, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_quantize_gives_int8_in_64_by_64_blocks(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantized = block_quantize(tensor, block_size=64)
    assert quantized.values.dtype == torch.int8
    assert quantized.values.shape == tensor.shape
    assert bool((quantized.values >= -127).all())
    restored = quantized.dequantize()
    assert restored.dtype == tensor.dtype
    if tensor.numel():
        assert float((restored - tensor).abs().max()) <= float(quantized.scales.max()) * 0.501


def test_a_scale_is_the_largest_magnitude_of_a_block_over_127() -> None:
    tensor = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
    scales = block_quantize(tensor).scales
    assert torch.equal(scales[:, 0], tensor.reshape(2, -1).abs().amax(1) / 127)


def test_a_block_of_zeros_comes_back_as_zeros() -> None:
    quantized = block_quantize(torch.zeros(64, 128))
    assert quantized.scales.tolist() == [[0.0, 0.0]]
    assert torch.equal(quantized.dequantize(), torch.zeros(64, 128))


def test_dynamic_pruning_keeps_what_is_above_the_threshold() -> None:
    weight_matrix = torch.tensor([[0.5, -0.05], [0.1, -0.2]])
    pruned, sparsity = dynamic_pruning(weight_matrix, threshold=0.1)
    assert torch.equal(pruned, torch.tensor([[0.5, 0.0], [0.0, -0.2]]))
    assert sparsity == 0.5
    assert torch.equal(dynamic_pruning(weight_matrix)[0], pruned)


def test_a_parameter_is_taken_without_its_gradient() -> None:
    parameter = torch.nn.Linear(8, 8).weight
    assert not block_quantize(parameter).dequantize().requires_grad
    assert not dynamic_pruning(parameter)[0].requires_grad


def test_what_cannot_be_taken_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="tensor: holds NaN or infinity"):
        block_quantize(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match=r"weight_matrix: is torch\.int64"):
        dynamic_pruning(torch.tensor([1, 2]))


def test_importing_the_names_does_not_import_torch() -> None:
    script = (
        "import sys\n"
        "from deepseek import block_quantize, dynamic_pruning\n"
        "print(sorted({'torch', 'triton', 'numpy', 'deepseek_kernels'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_without_torch_or_triton_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in [n for n in sys.modules if n.startswith("deepseek_kernels")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError) as caught:
        block_quantize(torch.ones(2, 2))
    assert caught.value.reason == "MissingPackage"
    assert str(caught.value) == (
        f"Functions on weights need torch and Triton, and {package} is not installed. "
        "Install the extra 'cuda': pip install 'deepseek[cuda]'."
    )
