"""Pictures in, labels out; preprocessing as torchvision does it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_api.processing import ImagePreprocessing
from deepseek_engine.codec import to_tensor
from deepseek_engine.engine import Engine
from deepseek_engine.messages import InferenceRequest
from deepseek_engine.tasks.image import softmax, top_classes
from deepseek_engine.tasks.pictures import decode_picture, fit_picture, normalize
from PIL import Image

from tests.support import bundles
from tests.support.engine import arrays, byte_rows, config

SETTINGS = ImagePreprocessing(size=224, mean=(127.0, 120.0, 110.0), std=(128.0, 64.0, 32.0))
RED, GREEN, BLUE = (250, 5, 5), (5, 250, 5), (5, 5, 250)


def picture(
    colour: tuple[int, ...] = RED,
    *,
    size: tuple[int, int] = (40, 30),
    kind: str = "PNG",
    mode: str = "RGB",
) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(stream, format=kind)
    return stream.getvalue()


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says that it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundles.write_classifier(tmp_path / "colours")


async def test_rows_get_their_labels_best_first(folder: Path) -> None:
    request = byte_rows("colours", "image", picture(RED), picture(BLUE), picture(GREEN))
    async with Engine(config(folder)) as engine:
        answer = arrays(await engine.infer(request))
    assert answer["labels"][:, 0].tolist() == [b"red", b"blue", b"green"]
    assert answer["class_ids"][:, 0].tolist() == [0, 2, 1]
    assert answer["labels"].shape == answer["scores"].shape == (3, 2)
    assert (answer["scores"][:, 0] >= answer["scores"][:, 1]).all()
    assert set(answer) == {"labels", "scores", "class_ids"}


async def test_logits_and_top_k_are_given_on_request(folder: Path) -> None:
    request = byte_rows(
        "colours",
        "image",
        picture(),
        outputs=("scores", "logits"),
        parameters={"top_k": 3, "unknown": "ignored"},
    )
    async with Engine(config(folder)) as engine:
        answer = arrays(await engine.infer(request))
    assert list(answer) == ["scores", "logits"]
    assert answer["scores"].sum() == pytest.approx(1)
    np.testing.assert_allclose(np.sort(softmax(answer["logits"]))[:, ::-1], answer["scores"])


async def test_pixel_values_are_accepted_instead_of_files(folder: Path) -> None:
    data = picture(GREEN)
    small = ImagePreprocessing(size=16, mean=(127.0,) * 3, std=(128.0,) * 3)
    pixels = normalize(fit_picture(decode_picture(data, row=0), small), small)[None]
    tensor = to_tensor("pixel_values", "FP32", pixels)
    async with Engine(config(folder)) as engine:
        one = arrays(await engine.infer(byte_rows("colours", "image", data)))
        two = arrays(await engine.infer(InferenceRequest("colours", (tensor,))))
    assert one["scores"].tolist() == two["scores"].tolist()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("WEBP", "RGB"),
        ("BMP", "RGB"),
        ("GIF", "P"),
    ],
)
def test_formats_and_modes_become_rgb(kind: str, mode: str) -> None:
    decoded = decode_picture(picture(kind=kind, mode=mode), row=0)
    assert (decoded.mode, decoded.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_is_obeyed(orientation: int) -> None:
    upright = noise(6, 4)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored.save(stream, format="PNG", exif=exif)
    assert np.array_equal(np.asarray(decode_picture(stream.getvalue(), row=0)), np.asarray(upright))


def test_normalization_is_per_channel_and_channels_come_first() -> None:
    array = normalize(Image.new("RGB", (2, 3), (255, 184, 78)), SETTINGS)
    assert array.shape == (3, 3, 2)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[:, 0, 0], [1.0, 1.0, -1.0])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b"", "Row 1 .* is empty", id="empty"),
        pytest.param(b"not a picture", "Row 1 .* not a readable picture", id="text"),
        pytest.param(picture(kind="JPEG")[:300], "not a readable picture", id="truncated"),
        pytest.param(picture(kind="TIFF"), "JPEG, PNG", id="format that is not read"),
        pytest.param(bomb(8000, 5001), "8000 x 5001 pixels", id="more than 40 megapixels"),
        pytest.param(bomb(60_000, 60_000), "at most 40000000", id="pixel bomb"),
        pytest.param(
            picture(size=(1, 20_000_000 // 18)), "once its short side is resized", id="long-line"
        ),
    ],
)
async def test_a_picture_that_cannot_be_read_is_refused(
    folder: Path, data: bytes, text: str
) -> None:
    async with Engine(config(folder)) as engine:
        with pytest.raises(InferenceError, match=text) as caught:
            await engine.infer(byte_rows("colours", "image", picture(), data))
        assert caught.value.code is ErrorCode.INVALID_ARGUMENT
        assert await engine.infer(byte_rows("colours", "image", picture()))


@pytest.mark.parametrize("value", [0, -1, "3", 2.0, True], ids=repr)
async def test_a_wrong_top_k_is_refused(folder: Path, value: object) -> None:
    request = byte_rows("colours", "image", picture(), parameters={"top_k": value})
    async with Engine(config(folder)) as engine:
        with pytest.raises(InferenceError, match="'top_k'") as caught:
            await engine.infer(request)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("value", [3, 4, 1 << 40])
async def test_a_top_k_above_the_number_of_classes_gives_all(folder: Path, value: int) -> None:
    request = byte_rows("colours", "image", picture(), parameters={"top_k": value})
    async with Engine(config(folder)) as engine:
        answer = arrays(await engine.infer(request))
    assert answer["labels"].shape == (1, 3)


def test_equal_scores_are_ordered_by_class() -> None:
    assert top_classes(np.array([[1.0, 2.0, 2.0, 0.0]]), 3).tolist() == [[1, 2, 0]]


def test_large_scores_do_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0]])), [[0.5, 0.5]])
