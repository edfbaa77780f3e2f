"""Text in, vectors out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_engine.codec import to_tensor
from deepseek_engine.engine import Engine
from deepseek_engine.messages import InferenceRequest
from deepseek_engine.tasks.lengths import bucket_of, group_rows
from deepseek_engine.tasks.text import pool
from hypothesis import given
from hypothesis import strategies as st

from tests.support import bundles
from tests.support.engine import arrays, byte_rows, config

SENTENCES = (b"the cat sat on the mat", b"a dog", b"the dog ran on a mat " * 4, b"cat")


def tokens(name: str = "embed", **values: list[list[int]]) -> InferenceRequest:
    tensors = (to_tensor(key, "INT64", np.array(value)) for key, value in values.items())
    return InferenceRequest(name, tuple(tensors))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundles.write_embedding(tmp_path / "embed")


async def test_vectors_have_length_one_and_keep_the_order_of_the_rows(folder: Path) -> None:
    async with Engine(config(folder)) as engine:
        together = arrays(await engine.infer(byte_rows("embed", "text", *SENTENCES)))["embedding"]
        alone = [
            arrays(await engine.infer(byte_rows("embed", "text", text)))["embedding"][0]
            for text in SENTENCES
        ]
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(together, alone, atol=1e-6)


async def test_pooling_inside_the_graph_gives_the_same_vectors(tmp_path: Path) -> None:
    outside = bundles.write_embedding(tmp_path / "outside")
    inside = bundles.write_embedding(tmp_path / "inside", pooled=True)
    async with Engine(config(outside, inside)) as engine:
        one, two = [
            arrays(await engine.infer(byte_rows(name, "text", *SENTENCES)))["embedding"]
            for name in ("outside", "inside")
        ]
    np.testing.assert_allclose(one, two, atol=1e-6)


async def test_token_numbers_are_accepted_instead_of_text(folder: Path) -> None:
    async with Engine(config(folder)) as engine:
        text = arrays(await engine.infer(byte_rows("embed", "text", b"the cat")))["embedding"]
        ids = [[2, 4, 5, 3, 0, 0]]
        mask = [[1, 1, 1, 1, 0, 0]]
        short = await engine.infer(tokens(input_ids=ids, attention_mask=mask))
        full = await engine.infer(
            tokens(input_ids=ids, attention_mask=mask, token_type_ids=[[0] * 6])
        )
    np.testing.assert_allclose(arrays(short)["embedding"], text, atol=1e-6)
    np.testing.assert_allclose(arrays(full)["embedding"], text, atol=1e-6)


async def test_text_may_have_two_dimensions(folder: Path) -> None:
    request = byte_rows("embed", "text", b"the cat", b"a dog")
    column = to_tensor("text", "BYTES", np.array([[b"the cat"], [b"a dog"]], dtype=object))
    async with Engine(config(folder)) as engine:
        one = arrays(await engine.infer(request))["embedding"]
        two = arrays(await engine.infer(InferenceRequest("embed", (column,))))["embedding"]
    assert one.tolist() == two.tolist()


async def test_long_text_is_cut(tmp_path: Path) -> None:
    folder = bundles.write_embedding(tmp_path / "embed", max_length=4)
    async with Engine(config(folder)) as engine:
        response = await engine.infer(byte_rows("embed", "text", b"the cat sat on", b"the cat ran"))
    first, second = arrays(response)["embedding"]
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        pytest.param(
            byte_rows("embed", "text", b"the cat", b"a" * (1 << 20) + b"a"),
            "Row 1 .* 1048577 bytes; at most 1048576",
            id="endless text",
        ),
        pytest.param(
            byte_rows("embed", "text", b"fine", b"\xff\xfe"), "Row 1 .*UTF-8", id="not text"
        ),
        pytest.param(
            tokens(input_ids=[[4], [99]], attention_mask=[[1], [1]]),
            "Row 1 of the input 'input_ids' holds 99; values go from 0 to 11",
            id="token beyond the vocabulary",
        ),
        pytest.param(
            tokens(input_ids=[[-1]], attention_mask=[[1]]), "holds -1", id="negative token"
        ),
        pytest.param(
            tokens(input_ids=[[4]], attention_mask=[[2]]), "'attention_mask' holds 2", id="mask"
        ),
        pytest.param(
            tokens(input_ids=[[4]], attention_mask=[[0]]), "Row 0 .* has no token", id="empty mask"
        ),
        pytest.param(
            tokens(input_ids=[[4]], attention_mask=[[1, 1]]), "shape of 'input_ids'", id="shapes"
        ),
        pytest.param(
            tokens(input_ids=[[4] * 33], attention_mask=[[1] * 33]), "at most 32", id="too long"
        ),
    ],
)
async def test_input_that_makes_no_sense_is_refused(
    folder: Path, request_: InferenceRequest, text: str
) -> None:
    async with Engine(config(folder)) as engine:
        with pytest.raises(InferenceError, match=text) as caught:
            await engine.infer(request_)
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT
        assert await engine.infer(byte_rows("embed", "text", b"the next good request"))


def test_pooling_ignores_padding() -> None:
    hidden = np.array([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]], dtype=np.float32)
    mask = np.array([[1, 1, 0]])
    assert pool(hidden, mask, how="mean").tolist() == [[2.0, 3.0]]
    assert pool(hidden, mask, how="cls").tolist() == [[1.0, 2.0]]


@given(st.integers(1, 100_000))
def test_a_row_has_at_most_a_quarter_of_its_length_in_padding(length: int) -> None:
    edge = bucket_of(length)
    assert edge >= length
    assert edge - length < max(8, length / 4)


@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=50),
    how=st.sampled_from(["padded", "equal", "single"]),
)
def test_every_row_is_in_exactly_one_group(lengths: list[int], how: str) -> None:
    groups = group_rows(lengths, how=how)
    assert sorted(row for _, group in groups for row in group) == list(range(len(lengths)))
    for _, group in groups:
        if how == "single":
            assert len(group) == 1
        if how == "equal":
            assert len({lengths[row] for row in group}) == 1
