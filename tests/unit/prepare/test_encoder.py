"""Int8 encoders: which weights become int8, how close answers stay, and that rows stand alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    import onnx

pytestmark = [pytest.mark.timeout(240)]

Array = npt.NDArray[Any]

RANGES = ("PAIRED", "FULL")
PARTS = ("EMBEDDING", "VALUE", "ATTENTION", "FEED_FORWARD")


def quantized(
    graph: onnx.ModelProto,
    weight_range: str,
    parts: tuple[str, ...] = PARTS,
    stored: tuple[str, ...] = (),
) -> Any:
    from deepseek_engine.prepare.quantize.encoder import Part, quantize_encoder
    from deepseek_engine.prepare.quantize.ranges import WeightRange

    chosen, kept = ({Part[part] for part in names} for names in (parts, stored))
    return quantize_encoder(graph, chosen, weight_range=WeightRange[weight_range], stored=kept)


def run(graph: onnx.ModelProto, ids: Array, mask: Array | None = None) -> Array:
    from deepseek_engine.prepare.measure import open_session

    session = open_session(graph.SerializeToString(), threads=1)
    mask = np.ones_like(ids) if mask is None else mask
    answer: Array = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return answer


def some_ids(rows: int, length: int) -> Array:
    return np.random.default_rng(0).integers(5, 300, (rows, length))


def cosines(first: Array, second: Array) -> Array:
    from deepseek_engine.prepare.measure import cosines as of_rows

    return of_rows(first, second)


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def constants(graph: onnx.ModelProto) -> dict[str, Array]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


def test_every_product_and_table_has_its_part(tiny_graph: onnx.ModelProto) -> None:
    from deepseek_engine.prepare.quantize.encoder import part_of
    from deepseek_engine.prepare.quantize.graph import GraphRewriter

    graph = GraphRewriter(tiny_graph)
    found = Counter(
        part_of(graph, node).name for node in graph.original if graph.weights(node) is not None
    )
    assert found == {"VALUE": 2, "ATTENTION": 6, "FEED_FORWARD": 4}
    assert sum(map(graph.is_embedding, graph.original)) == 1  # positions and types are too small


@pytest.mark.parametrize("weight_range", RANGES)
def test_answers_stay_close_to_fp32(weight_range: str, tiny_graph: onnx.ModelProto) -> None:
    ids = some_ids(8, 20)
    assert cosines(run(quantized(tiny_graph, weight_range), ids), run(tiny_graph, ids)).min() > 0.99


@pytest.mark.parametrize("part", PARTS)
def test_one_part_alone_changes_little_and_something(
    part: str, tiny_graph: onnx.ModelProto
) -> None:
    ids = some_ids(4, 12)
    given, reference = run(quantized(tiny_graph, "FULL", (part,)), ids), run(tiny_graph, ids)
    assert cosines(given, reference).min() > 0.995
    assert not np.array_equal(given, reference)


@pytest.mark.parametrize(
    ("parts", "products"),
    [
        pytest.param(PARTS, 12, id="all"),
        pytest.param(("EMBEDDING", "ATTENTION", "FEED_FORWARD"), 10, id="guarded"),
        pytest.param(("FEED_FORWARD",), 4, id="mixed"),
        pytest.param((), 0, id="none"),
    ],
)
def test_exactly_the_named_products_become_int8(
    parts: tuple[str, ...], products: int, tiny_graph: onnx.ModelProto
) -> None:
    before, after = operators(tiny_graph), operators(quantized(tiny_graph, "FULL", parts))
    assert after["MatMulIntegerToFloat"] == products
    assert after["MatMul"] == before["MatMul"] - products


def test_weights_that_are_only_stored_as_int8_take_the_bytes_of_int8(
    tiny_graph: onnx.ModelProto,
) -> None:
    def whole_matrices(graph: onnx.ModelProto) -> int:
        return sum(a.dtype == np.float32 and a.shape == (32, 32) for a in constants(graph).values())

    others = tuple(part for part in PARTS if part != "VALUE")
    assert whole_matrices(quantized(tiny_graph, "FULL", others)) == 2
    assert whole_matrices(quantized(tiny_graph, "FULL", others, stored=("VALUE",))) == 0


def test_weights_that_are_only_stored_as_int8_are_multiplied_in_fp32(
    tiny_graph: onnx.ModelProto,
) -> None:
    graph = quantized(tiny_graph, "FULL", (), stored=("VALUE",))
    ids = some_ids(4, 12)
    given, reference = run(graph, ids), run(tiny_graph, ids)
    rounded_too = run(quantized(tiny_graph, "FULL", ("VALUE",)), ids)
    assert operators(graph)["MatMul"] == operators(tiny_graph)["MatMul"]
    assert operators(graph)["MatMulIntegerToFloat"] == 0
    assert 0 < np.abs(given - reference).mean() < np.abs(rounded_too - reference).mean()


def test_mixed_follows_the_rule_of_adaptive_quantization() -> None:
    from deepseek_engine.prepare.quantize.encoder import Part
    from deepseek_engine.prepare.schemes import MIXED_PARTS

    assert frozenset({Part.FEED_FORWARD}) == MIXED_PARTS


@pytest.mark.parametrize("weight_range", RANGES)
def test_an_answer_depends_neither_on_batch_mates_nor_on_padding(
    weight_range: str, tiny_graph: onnx.ModelProto
) -> None:
    graph = quantized(tiny_graph, weight_range)
    ids, mask = some_ids(3, 16), np.ones((3, 16), np.int64)
    for row, length in enumerate((3, 9, 16)):
        ids[row, length:] = mask[row, length:] = 0
    together = run(graph, ids, mask)
    for row, length in enumerate((3, 9, 16)):
        np.testing.assert_allclose(
            together[row], run(graph, ids[row : row + 1, :length])[0], atol=1e-5
        )


def test_a_loud_text_does_not_change_its_neighbours(tiny_graph: onnx.ModelProto) -> None:
    graph = quantized(tiny_graph, "FULL")
    table = next(
        t for t in graph.graph.initializer if t.name.endswith("word_embeddings.weight_scale")
    )
    values = constants(graph)[table.name].copy()
    values[299] *= 1000
    from onnx import numpy_helper

    table.CopyFrom(numpy_helper.from_array(values, table.name))
    quiet = np.full((1, 6), 7)
    beside_a_loud_one = np.concatenate([quiet, np.full((1, 6), 299)])
    np.testing.assert_allclose(run(graph, beside_a_loud_one)[0], run(graph, quiet)[0], atol=1e-5)


def test_the_embedding_table_is_int8_with_a_scale_a_row(tiny_graph: onnx.ModelProto) -> None:
    after = constants(quantized(tiny_graph, "FULL"))
    tables = {name: a for name, a in after.items() if a.ndim and len(a) == 300}
    assert sorted((a.dtype.name, a.shape) for a in tables.values()) == [
        ("float32", (300, 1)),
        ("int8", (300, 32)),
    ]


def test_int8_weights_take_a_quarter_of_the_bytes(tiny_graph: onnx.ModelProto) -> None:
    before, after = constants(tiny_graph), constants(quantized(tiny_graph, "FULL"))
    matrices = sum(a.nbytes for a in before.values() if a.ndim == 2 and len(a) >= 32)
    small = sum(a.nbytes for a in after.values() if a.dtype == np.int8)
    positions = 64 * 32 * 4  # too few rows to be worth it
    assert small <= (matrices - positions) / 4 + 16


def test_full_range_uses_what_pairs_must_leave(tiny_graph: onnx.ModelProto) -> None:
    paired, full = (constants(quantized(tiny_graph, name)) for name in RANGES)
    names = [name for name, value in full.items() if value.dtype == np.int8 and value.ndim == 2]
    products = [name for name in names if len(full[name]) != 300]
    assert len(products) == 12
    for name in products:
        assert (np.abs(full[name].astype(int)).max(axis=0) == 127).all()
        pairs = paired[name][0::2].astype(int) + paired[name][1::2]
        assert np.abs(pairs).max() <= 127


def test_the_original_graph_stays_as_it_was(tiny_graph: onnx.ModelProto) -> None:
    before = tiny_graph.SerializeToString(deterministic=True)
    quantized(tiny_graph, "PAIRED")
    assert tiny_graph.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("length", [1, 2, 33, 64])
def test_any_length_up_to_the_limit_is_taken(length: int, tiny_graph: onnx.ModelProto) -> None:
    assert run(quantized(tiny_graph, "PAIRED"), some_ids(2, length)).shape == (2, 32)
