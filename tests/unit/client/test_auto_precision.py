"""``--auto-precision`` of ``deepseek serve``."""

from __future__ import annotations

import pytest
from deepseek._auto_precision import read_policies
from deepseek._local import ServeOptions, _config, local_models
from deepseek_api.catalog import builtin_catalog
from deepseek_api.errors import ConfigurationError
from deepseek_api.loading import load_pipelines
from deepseek_engine.messages import AutoPrecision

NAMES = ["bert", "resnet"]
PIPELINE = """\
apiVersion: deepseek.ai/v1alpha1
kind: ModelPipeline
metadata: {name: p}
spec:
  models: [{name: minilm, precision: fp32}, {name: efficientnet-lite0, precision: fp32}]
"""


@pytest.mark.parametrize(
    ("values", "policies"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param(["0.8"], {"bert": (0.8, False), "resnet": (0.8, False)}, id="all"),
        pytest.param(["70%"], {"bert": (0.7, False), "resnet": (0.7, False)}, id="per cent"),
        pytest.param(["bert=0.9"], {"bert": (0.9, True)}, id="one"),
        pytest.param(
            ["bert=0.9", "0.5"],
            {"bert": (0.9, True), "resnet": (0.5, False)},
            id="one and the rest",
        ),
    ],
)
def test_values_become_policies(values: list[str], policies: dict[str, tuple[float, bool]]) -> None:
    found = read_policies(values, NAMES)
    assert {name: (p.threshold, p.required) for name, p in found.items()} == policies


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("much", "has no threshold"),
        ("bert=", "has no threshold"),
        ("vit=0.8", "'vit'"),
        ("1.5", "threshold of the automatic precision is 1.5"),
    ],
)
def test_a_wrong_value_is_named(value: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read_policies([value], NAMES)


def test_the_model_is_prepared_with_all_precisions_and_keeps_its_own() -> None:
    catalog = builtin_catalog()
    pipeline = load_pipelines(PIPELINE, catalog=catalog)[0].pipeline
    options = ServeOptions(auto_precision=("minilm=0.8",))
    (minilm, other), errors = local_models(pipeline, catalog=catalog, options=options)
    assert not errors
    assert minilm.wanted.request is not None
    assert other.wanted.request is not None
    assert minilm.wanted.request.precisions == ("auto",)
    assert other.wanted.request.precisions == ("fp32",)
    config = _config(minilm, minilm.wanted.bundle or __file__)  # type: ignore[arg-type]
    assert (config.precision, config.auto_precision) == ("fp32", AutoPrecision(threshold=0.8))
