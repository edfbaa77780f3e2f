"""The report of a bundle: its variants, how exact and how fast they are, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterable

from deepseek_api.manifest import Agreement, Manifest, Speed, Variant, parse_manifest
from deepseek_engine.prepare.api import PreparedBundle

from deepseek._images import BundleImage
from deepseek.cli._console import out, print_json, say, show, size, table, warn


def show_report(
    bundle: PreparedBundle, *, image: BundleImage | None = None, as_json: bool = False
) -> None:
    """Print what a bundle holds: a table for people, or the manifest with its place."""
    manifest = parse_manifest((bundle.path / "manifest.json").read_bytes())
    if as_json:
        print_json(
            {
                "path": str(bundle.path),
                "digest": bundle.digest,
                "cached": bundle.cached,
                "manifest": manifest.to_wire(),
            }
            | (_image_fields(image) if image else {})
        )
        return
    say(f"{manifest.name} ({manifest.task}) from {manifest.source.uri}", style="bold")
    rows = [_row(manifest, variant) for variant in manifest.variants]
    columns = ("VARIANT", "TENSORS", "AGREEMENT", "WORST", "TIME", "VS FP32", "SERVES")
    show(table(columns, rows, right=columns[1:6], fixed=["VARIANT"]))
    say()
    for line in _conditions(manifest.variants):
        say(line)
    for text, variants in _notes(manifest.variants).items():
        say(f"{', '.join(variants)}: {text}")
    if manifest.random_weights:
        out().print(warn("The weights are random: answers of this bundle mean nothing."))
    say(f"{'In' if bundle.cached else 'Written to'} {bundle.path}")
    say(f"Digest {bundle.digest}")
    if image is not None:
        _show_image(image, manifest.name)


def _image_fields(image: BundleImage) -> dict[str, object]:
    return {
        "image": {
            "reference": image.reference,
            "id": image.image_id,
            "bytes": image.size_bytes,
            "registryDigest": image.registry_digest or None,
        },
        "source": image.source(),
    }


def _show_image(image: BundleImage, name: str) -> None:
    say(f"Image {image.reference} ({size(image.size_bytes)}) is in the store of {image.program}.")
    if image.registry_digest:
        say(f"Its registry has it as {image.registry_digest}")
    else:
        say(f"Image id {image.image_id}")
    source = [f"{key}: {value}" for key, value in image.source().items()]
    say("In a pipeline's model:")
    for line in ["source:", *(f"  {line}" for line in source)]:
        say(f"    {line}")
    say("Or for every pipeline of a cluster, in the values of the chart:")
    for line in ["catalog:", "  models:", f"    {name}:", "      source:"]:
        say(f"    {line}")
    for line in source:
        say(f"            {line}")


def _notes(variants: Iterable[Variant]) -> dict[str, list[str]]:
    """Notes with the variants that they are about, in the order of the variants."""
    found: dict[str, list[str]] = {}
    for variant in variants:
        for text in variant.notes:
            found.setdefault(text, []).append(variant.id)
    return found


def _row(manifest: Manifest, variant: Variant) -> tuple[str, ...]:
    agreement, speed = variant.agreement, variant.speed
    return (
        variant.id,
        size(variant.tensor_bytes),
        _share(agreement, "mean"),
        _share(agreement, "worst"),
        f"{speed.median_ms:.1f} ms" if speed else "-",
        f"{speed.ratio_to_fp32:.2f}x" if speed and speed.ratio_to_fp32 else "-",
        ", ".join(_serves(manifest, variant)) or "-",
    )


def _share(agreement: Agreement | None, field: str) -> str:
    return "-" if agreement is None else f"{getattr(agreement, field):.4f}"


def _serves(manifest: Manifest, variant: Variant) -> list[str]:
    """Precisions for which this variant is chosen on at least one instruction set."""
    return [
        precision.value
        for precision, by_set in manifest.selection.items()
        if variant.id in by_set.values()
    ]


def _conditions(variants: Iterable[Variant]) -> list[str]:
    """How agreement and speed were measured, each distinct way once."""
    lines: dict[str, None] = {}
    for variant in variants:
        if variant.agreement is not None:
            lines[_how_exact(variant.agreement)] = None
        if variant.speed is not None:
            lines[_how_fast(variant.speed)] = None
    return list(lines)


def _how_exact(agreement: Agreement) -> str:
    metric = {"cosine": "cosine similarity", "top1": "same best class"}[agreement.metric]
    return (
        f"Agreement: {metric} with {agreement.reference} over {agreement.samples} samples; "
        f"auto needs {agreement.bound:g}."
    )


def _how_fast(speed: Speed) -> str:
    return (
        f"Time: median of {speed.shape} on {speed.device}, {speed.threads} threads, "
        f"{speed.instruction_set}, {speed.runtime}."
    )
