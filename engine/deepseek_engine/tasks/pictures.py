"""From the bytes of a picture file to the numbers that a vision model expects.

Why it exists: a model answers as it was measured only if a picture is decoded, turned, resized, cut
and normalized exactly as in its reference. The steps are those of torchvision and timm on Pillow
pictures; every rounding is theirs. Files come from strangers: only a few formats are read, and a
small file cannot ask for a large picture.
"""

from __future__ import annotations

import io
import math

import numpy as np
from deepseek_api.errors import InferenceError
from deepseek_api.processing import ImagePreprocessing
from PIL import Image, ImageOps

from deepseek_engine.codec import Array
from deepseek_engine.validation import invalid

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "check_resized",
    "decode_picture",
    "fit_picture",
    "normalize",
    "tiny_png",
]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""Formats that are read; of an animation the first frame."""

MAX_PIXELS = 40_000_000
"""Pixels that a picture may have (120 MB when decoded)."""

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def decode_picture(data: bytes, *, row: int) -> Image.Image:
    """Read a picture file: upright, RGB.

    Raises:
        InferenceError: INVALID_ARGUMENT, naming the row.
    """
    if not data:
        raise invalid(f"Row {row} of the input 'image' is empty.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise _too_large(row, f"has {width} x {height} pixels")
            # The orientation tag is read before the conversion, which drops it.
            return ImageOps.exif_transpose(picture).convert("RGB")
    except InferenceError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(row, "is far larger") from None
    # Decoders raise nearly anything for a damaged file: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise invalid(
            f"Row {row} of the input 'image' is not a readable picture.",
            hint=f"Send the bytes of a whole file; formats: {', '.join(FORMATS)}.",
        ) from error


def check_resized(picture: Image.Image, settings: ImagePreprocessing, *, row: int) -> None:
    """Refuse a picture that resizing would blow up: a line of 20,000 pixels would take gigabytes.

    Raises:
        InferenceError: INVALID_ARGUMENT, naming the row.
    """
    width, height = _resized(picture, settings)
    if width * height > MAX_PIXELS:
        raise _too_large(row, f"has {width} x {height} pixels once its short side is resized")


def fit_picture(picture: Image.Image, settings: ImagePreprocessing) -> Image.Image:
    """Resize the short side to ``size / crop_fraction``, then cut the middle square.

    The long side is cut to whole pixels and the offset of the square is rounded half to even, as
    torchvision's ``Resize`` and ``CenterCrop`` do.
    """
    size = settings.size
    target = _resized(picture, settings)
    if target != picture.size:
        picture = picture.resize(target, _FILTERS[settings.interpolation])
    left = round((target[0] - size) / 2.0)
    top = round((target[1] - size) / 2.0)
    return picture.crop((left, top, left + size, top + size))


def normalize(picture: Image.Image, settings: ImagePreprocessing) -> Array:
    """``(value - mean) / std`` for each channel, FP32 ``[3, rows, columns]``."""
    pixels = np.asarray(picture, dtype=np.float32)
    mean = np.array(settings.mean, dtype=np.float32)
    std = np.array(settings.std, dtype=np.float32)
    pixels = (pixels - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def tiny_png() -> bytes:
    """A small grey picture, for probes."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (127, 127, 127)).save(stream, format="PNG")
    return stream.getvalue()


def _resized(picture: Image.Image, settings: ImagePreprocessing) -> tuple[int, int]:
    """Width and height after the short side was resized."""
    short_side = math.floor(settings.size / settings.crop_fraction)
    width, height = picture.size
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def _too_large(row: int, size: str) -> InferenceError:
    return invalid(
        f"The picture in row {row} of the input 'image' {size}; at most {MAX_PIXELS} pixels are "
        "read.",
        hint="Make it smaller, or cut it, before sending it.",
        reason="PictureTooLarge",
    )
