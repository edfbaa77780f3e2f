"""The SDK's clients against a real worker with small models."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deepseek import AsyncClient, Client
from deepseek_api.errors import EngineUnavailableError, ErrorCode, InferenceError
from PIL import Image

from tests.support import bundles
from tests.support.worker import WorkerProcess, model


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("sdk")
    models = [
        model("echo", bundles.write_echo(folder / "echo")),
        model("embed", bundles.write_embedding(folder / "embed")),
        model("colours", bundles.write_classifier(folder / "colours")),
    ]
    with WorkerProcess(folder, models) as worker:
        yield worker.wait_ready().target


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as made:
        yield made


def picture(colour: tuple[int, int, int], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 20), colour).save(stream, kind)
    return stream.getvalue()


RED, BLUE = (220, 20, 30), (20, 30, 220)


def test_texts_become_vectors_of_length_one_in_their_order(client: Client) -> None:
    texts = ["the cat sat", "a dog ran", "on the mat"]
    vectors = client.embed("embed", texts)
    assert vectors.shape == (3, 8)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(client.embed("embed", texts[1]), vectors[1:2], atol=1e-6)


def test_more_texts_than_a_batch_holds_are_sent_in_parts(client: Client) -> None:
    texts = [f"{word} {other}" for word in bundles.WORDS[4:] for other in bundles.WORDS[4:]]
    vectors = client.embed("embed", texts)
    assert vectors.shape == (64, 8)
    np.testing.assert_allclose(vectors[-1:], client.embed("embed", texts[-1]), atol=1e-6)


def test_no_texts_give_no_vectors(client: Client) -> None:
    assert len(client.embed("embed", [])) == 0


def test_pictures_get_labels_best_first_from_bytes_and_paths(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "blue.jpg"
    path.write_bytes(picture(BLUE, "JPEG"))
    first, second, third = client.classify("colours", [picture(RED), path, str(path)], top_k=3)
    assert first[0][0] == "red"
    assert second[0][0] == "blue"
    assert second == third
    scores = [score for _, score in first]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("top_k", "count"), [(None, 2), (1, 1), (3, 3)])
def test_top_k_decides_how_many_labels(client: Client, top_k: int | None, count: int) -> None:
    assert len(client.classify("colours", picture(RED), top_k=top_k)[0]) == count


def test_tensors_come_back_with_what_the_server_says_about_them(client: Client) -> None:
    array = np.arange(32, dtype=np.float32).reshape(2, 16)
    result = client.infer("echo", {"IN": array}, outputs=["OUT"], request_id="r1")
    np.testing.assert_array_equal(result["OUT"], array)
    assert result.parameters["precision"] == "fp32"
    assert (result.model, result.id) == ("echo", "r1")


def test_metadata_lists_inputs_and_outputs(client: Client) -> None:
    metadata = client.metadata("echo")
    assert [(spec.name, spec.shape) for spec in metadata.inputs] == [("IN", (-1, 16))]


def test_readiness_of_server_and_models(client: Client) -> None:
    client.wait_ready(timeout=10)
    assert client.ready()
    assert client.ready("embed")
    assert not client.ready("nobody")


def test_errors_keep_the_servers_code_and_sentence(client: Client) -> None:
    with pytest.raises(InferenceError) as unknown:
        client.embed("nobody", "a")
    assert unknown.value.code is ErrorCode.NOT_FOUND
    with pytest.raises(InferenceError) as wrong:
        client.infer("echo", {"IN": np.zeros((1, 3), np.float32)})
    assert wrong.value.code is ErrorCode.INVALID_ARGUMENT
    assert "IN" in wrong.value.message


def test_a_model_of_another_task_is_told_apart(client: Client) -> None:
    with pytest.raises(InferenceError, match="no input 'text'"):
        client.embed("echo", "a")


def test_a_deadline_is_kept(client: Client) -> None:
    with pytest.raises(InferenceError) as caught:
        client.embed("embed", "a", timeout=1e-6)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


def test_a_server_that_is_not_there_is_named() -> None:
    with Client("127.0.0.1:9") as client:
        assert not client.ready()
        with pytest.raises(EngineUnavailableError, match=r"No server answers at 127\.0\.0\.1:9"):
            client.embed("m", "a")
        with pytest.raises(EngineUnavailableError, match=r"not ready within 0\.2 s"):
            client.wait_ready(timeout=0.2)


async def test_the_asynchronous_client_gives_the_same_answers(url: str) -> None:
    texts = [f"the {word}" for word in bundles.WORDS[4:]] * 12
    async with AsyncClient(url) as client:
        await client.wait_ready(timeout=10)
        vectors, labels, metadata, result = await asyncio.gather(
            client.embed("embed", texts),
            client.classify("colours", [picture(RED)], top_k=1),
            client.metadata("echo"),
            client.infer("echo", {"IN": np.ones((1, 16), np.float32)}),
        )
        assert await client.ready("embed")
        assert not await client.ready("nobody")
    with Client(url) as plain:
        np.testing.assert_allclose(vectors, plain.embed("embed", texts), atol=1e-6)
    assert labels[0][0][0] == "red"
    assert metadata.name == "echo"
    assert result["OUT"].sum() == 16


async def test_the_asynchronous_client_raises_the_same_errors(url: str) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(InferenceError) as caught:
            await client.embed("nobody", ["a"] * 100)
    assert caught.value.code is ErrorCode.NOT_FOUND
    async with AsyncClient("127.0.0.1:9") as client:
        with pytest.raises(EngineUnavailableError, match="not ready"):
            await client.wait_ready(timeout=0.2)
