"""Bundles on disk: what graphs share is written once, and every byte is hashed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from deepseek_engine.prepare.writer import BundleWriter

pytestmark = [pytest.mark.timeout(180)]

TABLE = np.arange(4096, dtype=np.float32).reshape(64, 64)


@pytest.fixture
def writer(tmp_path: Path) -> BundleWriter:
    from deepseek_engine.prepare.writer import BundleWriter

    return BundleWriter(tmp_path)


def graph(*tables: Any) -> onnx.ModelProto:
    """``y = x @ table @ table ... + 1``, the one as a constant inside a node."""
    nodes, last = [], "x"
    for number, _ in enumerate(tables):
        nodes.append(helper.make_node("MatMul", [last, f"t{number}"], [f"v{number}"]))
        last = f"v{number}"
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    nodes.append(helper.make_node("Constant", [], ["one"], value=one))
    nodes.append(helper.make_node("Add", [last, "one"], ["y"]))
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 64]) for n in "xy"]
    constants = [numpy_helper.from_array(table, f"t{n}") for n, table in enumerate(tables)]
    made = helper.make_graph(nodes, "g", sides[:1], sides[1:], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(path: Path) -> Any:
    from deepseek_engine.prepare.measure import open_session

    session = open_session(str(path), threads=1)
    return session.run(None, {"x": np.ones((1, 64), np.float32)})[0]


def test_a_written_graph_loads_and_computes_the_same(writer: BundleWriter) -> None:
    written = writer.write_graph("fp32", graph(TABLE / 1e4))
    assert written.files == ("fp32.onnx", "fp32.data")
    assert written.tensor_bytes == TABLE.nbytes + 4
    np.testing.assert_allclose(
        run(writer.folder / written.path)[0], TABLE.sum(0) / 1e4 + 1, rtol=1e-5
    )
    assert (writer.folder / "fp32.onnx").stat().st_size < 1000


def test_a_tensor_of_several_graphs_is_written_once(writer: BundleWriter) -> None:
    first = writer.write_graph("fp32", graph(TABLE))
    second = writer.write_graph("mixed", graph(TABLE))
    assert second.files == ("mixed.onnx", "fp32.data")
    assert not (writer.folder / "mixed.data").exists()
    assert second.tensor_bytes == first.tensor_bytes
    np.testing.assert_array_equal(
        run(writer.folder / "mixed.onnx"), run(writer.folder / "fp32.onnx")
    )


def test_only_what_is_new_goes_into_the_second_file(writer: BundleWriter) -> None:
    writer.write_graph("fp32", graph(TABLE))
    second = writer.write_graph("int8", graph(TABLE, TABLE / 7))
    assert second.files == ("int8.onnx", "fp32.data", "int8.data")
    assert (writer.folder / "int8.data").stat().st_size == TABLE.nbytes
    assert second.tensor_bytes == 2 * TABLE.nbytes + 4


def test_equal_bytes_of_another_type_keep_their_type(writer: BundleWriter) -> None:
    from deepseek_engine.prepare.writer import EXTERNAL_THRESHOLD

    raw = np.ones(EXTERNAL_THRESHOLD // 4, np.int32)
    model = graph(TABLE)
    model.graph.initializer.append(numpy_helper.from_array(raw, "i"))
    model.graph.initializer.append(numpy_helper.from_array(raw.view(np.float32), "f"))
    writer.write_graph("a", model)
    loaded = {
        t.name: numpy_helper.to_array(t)
        for t in onnx.load(writer.folder / "a.onnx").graph.initializer
    }
    assert loaded["i"].dtype == np.int32
    assert loaded["f"].dtype == np.float32


def test_a_graph_of_small_tensors_needs_no_second_file(writer: BundleWriter) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
    )
    assert writer.write_graph("a", model).files == ("a.onnx",)
    assert [path.name for path in writer.folder.iterdir()] == ["a.onnx"]


def test_hash_and_size_are_those_of_the_file(writer: BundleWriter) -> None:
    for name in writer.write_graph("fp32", graph(TABLE)).files:
        content = (writer.folder / name).read_bytes()
        described = writer.describe(name)
        assert described.sha256 == hashlib.sha256(content).hexdigest()
        assert described.bytes == len(content)


def test_writing_leaves_the_graph_as_it_was(writer: BundleWriter) -> None:
    model = graph(TABLE)
    before = model.SerializeToString(deterministic=True)
    writer.write_graph("fp32", model)
    assert model.SerializeToString(deterministic=True) == before


def test_the_versions_of_all_tools_are_recorded() -> None:
    from deepseek_engine.prepare.writer import RECORDED_PACKAGES, tool_versions

    assert set(tool_versions()) == set(RECORDED_PACKAGES)
    assert all(tool_versions().values())
