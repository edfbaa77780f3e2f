"""``adaptive_quantization`` and ``QuantizationMode`` as users write them."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from deepseek import ConfigurationError, QuantizationMode, adaptive_quantization


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("attention", QuantizationMode.FP16),
        ("ffn", QuantizationMode.INT8),
        ("norm", QuantizationMode.BF16),
        ("anything else", QuantizationMode.BF16),
    ],
)
def test_the_mode_follows_the_type_of_the_layer(kind: str, expected: QuantizationMode) -> None:
    assert adaptive_quantization(SimpleNamespace(type=kind)) is expected


@pytest.mark.parametrize(
    "layer",
    [object(), SimpleNamespace(type=3), SimpleNamespace(type=print)],
    ids=["no type", "number", "method, as torch modules have"],
)
def test_a_layer_without_a_type_is_refused_with_the_way_out(layer: object) -> None:
    with pytest.raises(ConfigurationError, match=r"no text attribute 'type'\. Set layer\.type"):
        adaptive_quantization(layer)


def test_it_needs_no_torch() -> None:
    script = (
        "import sys; from deepseek import adaptive_quantization, QuantizationMode; "
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
