"""What happens to an input before the graph and to an output after it, described as data.

Why it exists: a bundle must carry everything that an answer depends on, so that a worker needs
neither the training library nor code from the bundle. The engine implements these descriptions;
this module only names them and must never execute them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepseek_api.base import Bool, Float, Int, WireModel

__all__ = [
    "ClassificationPostprocessing",
    "EmbeddingPostprocessing",
    "ImagePreprocessing",
    "NoPostprocessing",
    "NoPreprocessing",
    "Postprocessing",
    "Preprocessing",
    "RelativePath",
    "SegmentationPostprocessing",
    "TextPreprocessing",
    "VolumePreprocessing",
]

RelativePath = Annotated[
    str,
    # No absolute path, no "..", no backslash: a path of a bundle never leaves the bundle.
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$",
        max_length=255,
    ),
]
"""A path inside a bundle, with forward slashes."""

Channels = Annotated[tuple[Float, Float, Float], Field()]
"""One value for each of red, green and blue."""


class TextPreprocessing(WireModel):
    """Text becomes token numbers, by a tokenizer file that also decides about lower case."""

    kind: Literal["text"] = "text"
    """Always ``text``."""
    tokenizer: RelativePath = "tokenizer.json"
    """The tokenizer file inside the bundle."""
    max_length: Int = Field(default=512, ge=1, le=1_048_576)
    """Tokens after which a text is cut, special tokens included; models that generate refuse
    longer texts instead."""


class ImagePreprocessing(WireModel):
    """A picture is resized, cut in the middle, normalized and laid out as channels, rows, columns.

    The short side is resized to ``size / cropFraction``; then the middle ``size x size`` square is
    taken; then each channel becomes ``(value - mean) / std`` with values from 0 to 255.
    """

    kind: Literal["image"] = "image"
    """Always ``image``."""
    size: Int = Field(default=224, ge=1, le=8192)
    """Side of the square that the model sees, in pixels."""
    crop_fraction: Float = Field(default=0.875, gt=0, le=1)
    """The part of the resized short side that is kept."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """How the picture is resized."""
    mean: Channels
    """Subtracted from each channel, in units of 0 to 255."""
    std: Channels
    """Each channel is divided by it, in units of 0 to 255."""
    layout: Literal["NCHW"] = "NCHW"
    """Order of the tensor's dimensions: batch, channels, rows, columns."""


class VolumePreprocessing(WireModel):
    """A volume of voxels is cut to a range of values and normalized.

    Each value ``v`` becomes ``(min(max(v, low), high) - mean) / std``. Nothing is resampled: the
    sender brings the volume to the spacing that the model was trained with.
    """

    kind: Literal["volume"] = "volume"
    """Always ``volume``."""
    multiple: Int = Field(default=8, ge=1, le=1024)
    """What every side of a volume must be a multiple of, in voxels."""
    low: Float | None = None
    """Lower values become this; absent: no limit. CT: Hounsfield units."""
    high: Float | None = None
    """Higher values become this; absent: no limit."""
    mean: Float = 0.0
    """Subtracted from every value."""
    std: Float = Field(default=1.0, gt=0)
    """Every value is divided by it."""


class NoPreprocessing(WireModel):
    """Tensors go into the graph as they are."""

    kind: Literal["none"] = "none"
    """Always ``none``."""


class EmbeddingPostprocessing(WireModel):
    """Token vectors become one vector for a text."""

    kind: Literal["embedding"] = "embedding"
    """Always ``embedding``."""
    pooling: Literal["mean", "cls"] = "mean"
    """``mean``: the average over real tokens; ``cls``: the first token's vector."""
    normalize: Bool = True
    """Whether the vector is scaled to length 1."""


class ClassificationPostprocessing(WireModel):
    """Scores become the best labels."""

    kind: Literal["classification"] = "classification"
    """Always ``classification``."""
    labels: RelativePath | None = "labels.txt"
    """The file with one label a line inside the bundle; none: labels are class numbers."""
    top_k: Int = Field(default=5, ge=1, le=10_000)
    """How many labels an answer has unless the request says otherwise."""
    activation: Literal["softmax"] = "softmax"
    """How scores become probabilities."""


class SegmentationPostprocessing(WireModel):
    """Scores of voxels become the number of the best class."""

    kind: Literal["segmentation"] = "segmentation"
    """Always ``segmentation``."""


class NoPostprocessing(WireModel):
    """Tensors come out of the graph as they are."""

    kind: Literal["none"] = "none"
    """Always ``none``."""


Preprocessing = Annotated[
    TextPreprocessing | ImagePreprocessing | VolumePreprocessing | NoPreprocessing,
    Field(discriminator="kind"),
]
"""Any of the preprocessing types, told apart by ``kind``."""

Postprocessing = Annotated[
    EmbeddingPostprocessing
    | ClassificationPostprocessing
    | SegmentationPostprocessing
    | NoPostprocessing,
    Field(discriminator="kind"),
]
"""Any of the postprocessing types, told apart by ``kind``."""
