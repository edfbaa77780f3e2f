"""Draw the photographs of scikit-image with what fp32 and int8 say they show.

``python -m benchmarks.label_photographs BUNDLE [PICTURE]`` takes a prepared EfficientNet-Lite0
bundle (``deepseek prepare efficientnet-lite0 -o BUNDLE``) and writes docs/images/photographs.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from deepseek_api.manifest import Variant, choose_variant
from deepseek_api.processing import ImagePreprocessing
from deepseek_api.vocabulary import Precision
from deepseek_engine.bundles import OpenBundle, open_bundle
from deepseek_engine.codec import Array
from deepseek_engine.hardware import detect_cpu
from deepseek_engine.prepare.measure import open_session
from deepseek_engine.prepare.samples import PHOTOGRAPHS, photographs, whole_photographs
from deepseek_engine.tasks.image import softmax
from deepseek_engine.tasks.pictures import fit_picture
from PIL import Image, ImageDraw, ImageFont

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "photographs.png"
SHOWN = (
    "coffee.png",
    "camera.png",
    "chelsea.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "astronaut.png",
)
COLUMNS, SIDE, GAP, CAPTION = 3, 224, 20, 66
INK, GREY, PAPER = "#1b1f24", "#6a737d", "#ffffff"
COLOURS = 256
"""Colours of the palette: a third of the bytes, and hardly visible when dithered."""
LONGEST = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE)
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    sets = detect_cpu().instruction_sets
    answers = {
        name: probabilities(bundle, choose_variant(bundle.manifest, precision, sets))
        for name, precision in (("fp32", Precision.FP32), ("int8", Precision.INT8))
    }
    sheet = draw(bundle, answers)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    palette = sheet.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    dithered = sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    dithered.save(arguments.picture, optimize=True)
    print(f"{arguments.picture}: {arguments.picture.stat().st_size / 1e3:.0f} kB")


def settings(bundle: OpenBundle) -> ImagePreprocessing:
    found = bundle.manifest.preprocessing
    if not isinstance(found, ImagePreprocessing):
        raise SystemExit(f"'{bundle.manifest.name}' is no image classifier.")
    return found


def probabilities(bundle: OpenBundle, variant: Variant) -> Array:
    """Of every photograph, ``[N, classes]``."""
    session = open_session(str(bundle.path(variant.graph)), threads=1)
    name = session.get_inputs()[0].name
    pixels = whole_photographs(settings(bundle))
    return softmax(np.concatenate([session.run(None, {name: p[None]})[0] for p in pixels]))


def draw(bundle: OpenBundle, answers: dict[str, Array]) -> Image.Image:
    """A sheet of the photographs as the model sees them, answers below."""
    labels = bundle.path("labels.txt").read_text(encoding="utf-8").splitlines()
    rows = -(-len(SHOWN) // COLUMNS)
    size = (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    pictures = dict(zip(PHOTOGRAPHS, photographs(), strict=True))
    for number, name in enumerate(SHOWN):
        left = GAP + (number % COLUMNS) * (SIDE + GAP)
        top = GAP + (number // COLUMNS) * (SIDE + CAPTION + GAP)
        shown = fit_picture(pictures[name], settings(bundle)).resize((SIDE, SIDE))
        sheet.paste(shown, (left, top))
        pen.text((left, top + SIDE + 8), name, fill=GREY, font=ImageFont.load_default(13))
        for line, (precision, given) in enumerate(answers.items()):
            row = given[PHOTOGRAPHS.index(name)]
            below = top + SIDE + 27 + 20 * line
            caption(pen, (left, below), precision, labels[int(row.argmax())], float(row.max()))
    return sheet


def caption(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], precision: str, label: str, score: float
) -> None:
    """One line: precision, label, probability."""
    left, top = place
    short = label.partition(",")[0]
    text = short if len(short) <= LONGEST else short[: LONGEST - 1] + "…"
    font = ImageFont.load_default(15)
    pen.text((left, top), precision, fill=GREY, font=font)
    pen.text((left + 42, top), text, fill=INK, font=font)
    pen.text((left + SIDE, top), f"{score:.0%}", fill=INK, font=font, anchor="ra")


if __name__ == "__main__":
    main()
