"""``deepseek prepare``: weights into a bundle, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from deepseek_api.errors import ConfigurationError

from deepseek.cli._app import app
from deepseek.cli._catalog import CatalogOption, read_catalog
from deepseek.cli._weights import Weights

if TYPE_CHECKING:
    from deepseek_engine.prepare.api import PreparedBundle

    from deepseek._images import BundleImage
    from deepseek._resolve import Wanted


@app.command(epilog="Example: deepseek prepare minilm --precision int8 --output bundles/minilm")
def prepare(
    model: Annotated[str, typer.Argument(help="Catalog name, source URI or path of weights.")],
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Precision to build; may be repeated. Default: auto, which builds all."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Device that it will run on: cpu, or cuda for the torch back end.")
    ] = "cpu",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write; default: the cache.", metavar="DIR"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in the bundle.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="LIBRARY/NAME or a catalog name, for bare weights.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What the model does.")] = None,
    weights: Annotated[Weights, typer.Option(help="Random weights need no source.")] = Weights.REAL,
    seed: Annotated[int, typer.Option(help="Seed of random weights.", min=0)] = 0,
    catalog: CatalogOption = None,
    image: Annotated[
        str | None,
        typer.Option(help="Also pack it as a container image of this name.", metavar="REF"),
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Send the image to its registry.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Convert, quantize and measure a model, and report every variant.

    Serving does this by itself; do it beforehand to see the report or to copy the bundle.
    """
    from deepseek._locate import ensure_bundle, wanted_model
    from deepseek.cli._progress import preparing
    from deepseek.cli._report import show_report

    program = _image_program(image, push=push)
    precisions = precision or ["auto"]
    wanted = wanted_model(
        model,
        catalog=read_catalog(catalog),
        precision=precisions[0],
        device=device,
        architecture=architecture,
        task=task,
        random_weights=weights is Weights.RANDOM,
        seed=seed,
    )
    wanted = _refined(wanted, name, precisions)
    title = wanted.request.name if wanted.request else model
    with preparing(title) as on_event:
        bundle = _digested(ensure_bundle(wanted, output=output, on_event=on_event))
    packed = None
    if image is not None:
        packed = _packed(bundle, image, program, push=push)
    show_report(bundle, image=packed, as_json=as_json)


def _image_program(image: str | None, *, push: bool) -> str:
    """The program that will build the image; asked before anything slow is done."""
    from deepseek._images import check_reference, find_program

    if image is None:
        if push:
            raise ConfigurationError("There is no image to push.", hint="Add --image REF.")
        return ""
    check_reference(image)
    return find_program()


def _digested(bundle: PreparedBundle) -> PreparedBundle:
    """The bundle with its digest, which nobody has asked for yet when it was there before."""
    from deepseek_api.manifest import bundle_digest, parse_manifest

    manifest = parse_manifest((bundle.path / "manifest.json").read_bytes())
    return replace(bundle, digest=bundle_digest(manifest))


def _packed(bundle: PreparedBundle, image: str, program: str, *, push: bool) -> BundleImage:
    from deepseek_api.manifest import parse_manifest

    from deepseek import _images

    name = parse_manifest((bundle.path / "manifest.json").read_bytes()).name
    packed = _images.pack(
        bundle.path, name=name, digest=bundle.digest, reference=image, program=program
    )
    return _images.push(packed) if push else packed


def _refined(wanted: Wanted, name: str | None, precisions: list[str]) -> Wanted:
    """The request with the user's name and all of his precisions."""
    from deepseek._resolve import Wanted, check_precision

    if wanted.request is None:
        return wanted
    for precision in precisions:
        check_precision(wanted.request.name, precision, wanted.request.device)
    request = msgspec.structs.replace(
        wanted.request, name=name or wanted.request.name, precisions=tuple(precisions)
    )
    return Wanted(request=request, digest=wanted.digest)
