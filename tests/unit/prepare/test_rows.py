"""Rounding activations row by row inside a graph: what rows become, and rows that are special."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    import onnx

pytestmark = [pytest.mark.timeout(120)]

Array = npt.NDArray[Any]
K, N = 48, 24


def weights() -> Array:
    return np.random.default_rng(1).normal(size=(K, N)).astype(np.float32)


def bias() -> Array:
    return np.linspace(-1, 1, N, dtype=np.float32)


def layer(*, gelu: bool = False, dimensions: tuple[str | int, ...] = ("batch", "length", K)) -> Any:
    """``[gelu](x) @ W + bias``, twice, as an exporter writes it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Gelu", ["x"], ["active"])] if gelu else []
    source = "active" if gelu else "x"
    for name in ("first", "second"):
        nodes.append(helper.make_node("MatMul", [source, "w"], [f"{name}_product"]))
        nodes.append(helper.make_node("Add", [f"{name}_product", "b"], [name]))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, dimensions)
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("first", "second")
    ]
    constants = [numpy_helper.from_array(weights(), "w"), numpy_helper.from_array(bias(), "b")]
    graph = helper.make_graph(nodes, "layer", [given], results, constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=onnx.IR_VERSION_2024_3_25
    )


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    from deepseek_engine.prepare.quantize.encoder import ALL_PARTS, quantize_encoder
    from deepseek_engine.prepare.quantize.ranges import WeightRange

    # Its results are the graph's, and a graph's results count as scores of an embedding.
    return quantize_encoder(model, ALL_PARTS, weight_range=WeightRange.FULL)


def run(model: onnx.ModelProto, x: Array) -> Array:
    from deepseek_engine.prepare.measure import open_session

    answer: Array = open_session(model.SerializeToString(), threads=1).run(["first"], {"x": x})[0]
    return answer


def rows(seed: int = 0) -> Array:
    """``[2, 5, K]``: bell-shaped rows, each ten times louder than the one before."""
    values = np.random.default_rng(seed).normal(size=(2, 5, K))
    return (values * 10.0 ** np.arange(-2, 3)[:, None]).astype(np.float32)


def of_gelu(x: Array) -> Array:
    from math import erf

    wide = x.astype(np.float64)
    return np.asarray(wide * 0.5 * (1 + np.vectorize(erf)(wide / np.sqrt(2))))


def bound(values: Array, steps: Array) -> Array:
    """What rounding activations by half a step and weights by half of theirs can change."""
    w = weights().astype(np.float64)
    w_step = np.abs(w).max(axis=0) / 127
    by_rows = steps / 2 * np.abs(w).sum(axis=0)
    by_weights = (np.abs(values) + steps).sum(axis=-1, keepdims=True) * w_step / 2
    return np.asarray(by_rows + by_weights + 1e-5)


def test_every_row_is_rounded_by_its_own_largest_value() -> None:
    x = rows()
    wanted = x.astype(np.float64) @ weights() + bias()
    allowed = bound(x, np.abs(x).max(axis=-1, keepdims=True) / 127)
    assert (np.abs(run(quantized(layer()), x) - wanted) <= allowed).all()


def test_after_gelu_nearly_all_steps_are_above_zero() -> None:
    x = np.abs(rows()) + rows(1) / 8
    active = of_gelu(x)
    wanted = active @ weights() + bias()
    steps = np.maximum(active.max(axis=-1, keepdims=True) / 223, 0.17 / 32)
    assert (np.abs(run(quantized(layer(gelu=True)), x) - wanted) <= bound(active, steps)).all()


@pytest.mark.parametrize("gelu", [False, True], ids=["plain", "after-gelu"])
@pytest.mark.parametrize(
    "value",
    [pytest.param(0.0, id="zeros"), pytest.param(1e-42, id="denormal")],
)
def test_a_row_of_nothing_gives_the_bias(value: float, gelu: bool) -> None:
    x = rows()
    x[1, 2] = value
    given = run(quantized(layer(gelu=gelu)), x)
    np.testing.assert_array_equal(given[1, 2], bias())
    assert np.isfinite(given).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38], ids=["nan", "infinite", "huge"])
def test_a_row_of_bad_values_does_not_touch_its_neighbours(value: float) -> None:
    x = rows()
    model = quantized(layer())
    calm = run(model, x)
    x[0, 3, 7] = value
    given = run(model, x)
    np.testing.assert_array_equal(np.delete(given[0], 3, axis=0), np.delete(calm[0], 3, axis=0))
    np.testing.assert_array_equal(given[1], calm[1])


@pytest.mark.parametrize("shape", [(1, 1, K), (3, 1, K)], ids=["one", "one-token-each"])
def test_any_number_of_rows_is_taken(shape: tuple[int, ...]) -> None:
    assert run(quantized(layer()), np.ones(shape, np.float32)).shape == (*shape[:-1], N)


def test_products_of_one_value_share_its_rows() -> None:
    found = Counter(node.op_type for node in quantized(layer()).graph.node)
    assert found["MatMulIntegerToFloat"] == 2
    assert found["QuantizeLinear"] == found["ReduceMax"] == found["ConstantOfShape"] == 1


def test_a_value_whose_dimensions_are_not_known_has_zero_points_of_its_own() -> None:
    model = layer(dimensions=("", "", K))
    np.testing.assert_array_equal(run(quantized(model), rows()), run(quantized(layer()), rows()))


def test_quantizing_in_blocks_raises_the_operator_set() -> None:
    (standard,) = [o.version for o in quantized(layer()).opset_import if not o.domain]
    assert standard == 21
