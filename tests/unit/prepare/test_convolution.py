"""Int8 convolutional networks: biases take back what rounding shifts, and nothing saturates."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from deepseek_engine.prepare.measure import cosines, open_session
from deepseek_engine.prepare.quantize import convolution
from deepseek_engine.prepare.quantize.convolution import quantize_convolutions
from deepseek_engine.prepare.quantize.ranges import WeightRange
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.timeout(120)

Array = npt.NDArray[Any]


def tiny_network(*, shared_bias: bool = False) -> onnx.ModelProto:
    """Plain, depthwise, grouped and pointwise convolutions, a mean, a classifier."""
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        scale = np.prod(shape[1:]) ** -0.5
        return numpy_helper.from_array(random.normal(0, scale, shape).astype(np.float32), name)

    def bias(name: str, size: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.linspace(-0.1, 0.1, size, dtype=np.float32), name)

    constants = [
        weights("plain.weight", 8, 3, 3, 3), weights("depthwise.weight", 8, 1, 3, 3),
        weights("grouped.weight", 8, 4, 1, 1), weights("pointwise.weight", 15, 8, 1, 1),
        weights("classes.weight", 10, 15), bias("plain.bias", 8), bias("depthwise.bias", 8),
        bias("pointwise.bias", 15), bias("classes.bias", 10),
        numpy_helper.from_array(np.array([0, 15]), "flat"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]  # fmt: skip
    depthwise_bias = "plain.bias" if shared_bias else "depthwise.bias"
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["pixels", "plain.weight", "plain.bias"], ["a"], name="1", **pads),
        helper.make_node("Relu", ["a"], ["b"], name="2"),
        helper.make_node(
            "Conv", ["b", "depthwise.weight", depthwise_bias], ["c"], name="3", group=8, **pads
        ),
        helper.make_node("Relu", ["c"], ["d"], name="4"),
        helper.make_node("Conv", ["d", "grouped.weight"], ["e"], name="5", group=2),
        helper.make_node("Relu", ["e"], ["f"], name="6"),
        helper.make_node("Conv", ["f", "pointwise.weight", "pointwise.bias"], ["g"], name="7"),
        helper.make_node("Relu", ["g"], ["h"], name="8"),
        helper.make_node("ReduceMean", ["h", "axes"], ["i"], name="9"),
        helper.make_node("Reshape", ["i", "flat"], ["j"], name="10"),
        helper.make_node(
            "Gemm", ["j", "classes.weight", "classes.bias"], ["logits"], name="11", transB=1
        ),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 12, 12])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "tiny", [pixels], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def pictures(count: int, *, seed: int) -> Array:
    """Smooth noise: neighbouring pixels resemble each other, as in photographs."""
    noise = np.random.default_rng(seed).normal(0, 1, (count, 3, 15, 15)).astype(np.float32)
    return np.ascontiguousarray(sum(noise[:, :, s : s + 12, s : s + 12] for s in range(4)) / 2)


def quantized(model: onnx.ModelProto, weight_range: WeightRange) -> onnx.ModelProto:
    return quantize_convolutions(model, pictures(24, seed=1), weight_range=weight_range, threads=1)


def run(model: onnx.ModelProto, pixels: Array) -> Array:
    session = open_session(model.SerializeToString(), threads=1)
    answer: Array = session.run(None, {"pixels": pixels})[0]
    return answer


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    """The int8 weights by the name of the fp32 ones."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        name.removesuffix("_quantized"): value
        for name, value in arrays.items()
        if value.dtype == np.int8 and name.endswith("weight_quantized")
    }


@pytest.mark.parametrize("weight_range", WeightRange)
def test_answers_stay_close_to_fp32(weight_range: WeightRange) -> None:
    model, pixels = tiny_network(), pictures(40, seed=2)
    assert cosines(run(quantized(model, weight_range), pixels), run(model, pixels)).min() > 0.98


def test_all_weights_become_int8() -> None:
    names = {"plain", "depthwise", "grouped", "pointwise", "classes"}
    found = weights_of(quantized(tiny_network(), WeightRange.FULL))
    assert set(found) == {f"{name}.weight" for name in names}


def test_depthwise_kernels_keep_the_full_range_and_the_others_pair() -> None:
    found = weights_of(quantized(tiny_network(), WeightRange.PAIRED))
    largest = np.abs(found["depthwise.weight"].astype(int)).reshape(8, -1).max(axis=1)
    assert (largest == 127).all()
    for name in ("grouped.weight", "pointwise.weight", "plain.weight"):
        filters = found[name].astype(int)
        for order in (filters, np.moveaxis(filters, 1, -1)):
            columns = order.reshape(len(order), -1)
            columns = np.pad(columns, ((0, 0), (0, columns.shape[1] % 2)))
            assert np.abs(columns[:, 0::2] + columns[:, 1::2]).max() <= 127


def mean_shift(model: onnx.ModelProto, reference: onnx.ModelProto) -> float:
    """How far the mean answer moved, over pictures that calibrated nothing."""
    pixels = pictures(200, seed=3)
    return float(np.abs((run(model, pixels) - run(reference, pixels)).mean(axis=0)).sum())


def test_correcting_the_biases_brings_the_mean_answer_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_network()
    corrected = mean_shift(_rounded_only(model), model)
    monkeypatch.setattr(
        convolution.Layer,
        "expected_shift",
        lambda self, error, mean_input: np.zeros(len(error), "f"),
    )
    assert corrected < 0.5 * mean_shift(_rounded_only(model), model)


def _rounded_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """Coarse weights and corrected biases in fp32: the correction without activations' rounding."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    layers = list(convolution._layers(copy))
    means = convolution._mean_inputs(copy, layers, pictures(64, seed=1), threads=1)
    for layer in layers:
        coarse = convolution.Layer(layer.node, layer.weights, layer.groups)
        convolution._round_and_correct(copy, coarse, means[layer.node.input[0]], WeightRange.PAIRED)
    return copy


@pytest.mark.parametrize(
    ("groups", "shape"),
    [
        pytest.param(1, (6, 4, 3, 3), id="plain"),
        pytest.param(4, (4, 1, 3, 3), id="depthwise"),
        pytest.param(4, (8, 1, 3, 3), id="depthwise with two filters a channel"),
        pytest.param(2, (6, 2, 1, 1), id="grouped"),
        pytest.param(1, (5, 4), id="matrix"),
    ],
)
def test_the_expected_shift_is_the_mean_of_what_rounding_adds(
    groups: int, shape: tuple[int, ...]
) -> None:
    """Against the definition: convolve constant pictures of the mean with the error itself."""
    random = np.random.default_rng(0)
    error, mean = random.normal(size=shape), random.normal(size=shape[1] * groups)
    layer = convolution.Layer(onnx.NodeProto(), error, groups)
    per_group = shape[0] // groups
    expected = [
        sum(
            (error[out, i] * mean[(out // per_group) * shape[1] + i]).sum() for i in range(shape[1])
        )
        for out in range(shape[0])
    ]
    np.testing.assert_allclose(layer.expected_shift(error, mean), expected)


def test_layers_that_share_one_bias_are_corrected_apart() -> None:
    model, pixels = tiny_network(shared_bias=True), pictures(40, seed=2)
    small = quantized(model, WeightRange.FULL)
    assert cosines(run(small, pixels), run(model, pixels)).min() > 0.98
    copy = _rounded_only(model)
    first, second = (node.input[2] for node in copy.graph.node if node.name in {"1", "3"})
    assert first != second


def test_no_constant_is_kept_that_nothing_reads() -> None:
    graph = quantized(tiny_network(), WeightRange.PAIRED).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read
