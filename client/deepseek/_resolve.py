"""From a model of a pipeline to what must be prepared for it on this machine.

Why it exists: ``serve``, ``prepare``, ``deepseek-infer`` and the in-process engine all start from
a name, a path or a URI and must mean the same by it. It only decides; it reads no weights and
starts no process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseek_api.catalog import Catalog, CatalogEntry
from deepseek_api.errors import (
    CatalogError,
    ConfigurationError,
    ErrorCode,
    PrecisionError,
    SourceError,
)
from deepseek_api.suggest import one_of
from deepseek_engine.prepare.identity import local_path
from deepseek_engine.prepare.known import TASKS, family_of
from deepseek_engine.prepare.messages import PrepareRequest

from deepseek._here import (
    CPU_PRECISIONS,
    CUDA_PRECISIONS,
    LOCAL_SCHEMES,
    SERVABLE_TASKS,
    parse_device,
)

MANIFEST = "manifest.json"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a model comes from: a bundle that exists, or a request to prepare one."""

    bundle: Path | None = None
    request: PrepareRequest | None = None
    digest: str = ""
    """Digest that the bundle must have; empty accepts any."""


def resolve(
    name: str,
    *,
    catalog: Catalog,
    uri: str | None = None,
    revision: str = "",
    digest: str = "",
    task: str = "",
    precision: str = "auto",
    device: str = "cpu",
    architecture: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> Wanted:
    """Decide where a model comes from.

    Args:
        name: the model's name; also its catalog entry when there is no ``uri``.
        catalog: known models.
        uri: source of the weights; ``None`` means the catalog's.
        revision: commit, tag or version of the source.
        digest: digest that the bundle must have.
        task: overrides the catalog's task.
        precision: what will be served.
        device: what it will be served on.
        architecture: what the weights of ``uri`` belong to, if neither the catalog nor the source
            says it.
        random_weights: use seeded random weights of the same architecture instead.
        seed: the seed of random weights.

    Raises:
        DeepseekError: the name is unknown, or this release cannot prepare or serve the model here.
    """
    entry = (
        find_entry(name, uri, catalog)
        if architecture is None
        else entry_for_architecture(architecture, catalog=catalog, task=task)
    )
    if entry is not None:
        check_available(entry)
    check_task(name, task or (entry.task if entry else ""))
    check_precision(name, precision, device)
    source = uri if uri is not None or entry is None else entry.source.uri
    if source is None:
        raise CatalogError(f"The catalog has no model '{name}'.")
    _check_scheme(name, source)
    if uri is None and not random_weights:
        _check_weights(name, source)
    bundle = bundle_folder(source)
    if bundle is not None:
        return Wanted(bundle=bundle, digest=digest)
    request = PrepareRequest(
        name=name,
        uri=_random_uri(uri, entry, seed) if random_weights else source,
        revision=revision or (entry.source.revision or "" if entry and uri is None else ""),
        precisions=(precision,),
        device=parse_device(device).kind,
        random_weights=random_weights,
        seed=seed,
        entry=entry.to_wire() if entry else {},
        task=task,
    )
    return Wanted(request=request, digest=digest)


def find_entry(name: str, uri: str | None, catalog: Catalog) -> CatalogEntry | None:
    """The catalog entry that describes a model: by its name, its source or its architecture.

    Raises:
        CatalogError: there is no source and the catalog does not know the name.
    """
    if uri is None:
        return catalog.get(name)
    for entry in catalog:
        if entry.source.uri == uri:
            return entry
    if uri.startswith("random://"):
        architecture = uri.removeprefix("random://").partition("?")[0]
        for entry in catalog:
            if architecture in (entry.name, entry.architecture):
                return entry
    return catalog.find(name)


def entry_for_architecture(architecture: str, *, catalog: Catalog, task: str = "") -> CatalogEntry:
    """The entry that describes weights of which only the architecture is known.

    Args:
        architecture: a catalog name, or ``LIBRARY/NAME`` as in ``timm/resnet50``.
        catalog: known models.
        task: what the model does; default: what the library is usually used for.

    Raises:
        ConfigurationError: it is neither.
    """
    for known in catalog:
        if architecture in (known.name, known.architecture):
            return known
    library, slash, name = architecture.partition("/")
    if not slash or library not in ("deepseek", "timm", "transformers") or not name:
        raise ConfigurationError(
            f"'{architecture}' is not an architecture.",
            hint="Write timm/NAME, transformers/NAME or a name of the catalog.",
            reason="UnknownArchitecture",
        )
    family = family_of(library, name, task)
    return CatalogEntry.model_validate(
        {
            "name": "weights",
            "description": f"Weights of the architecture {architecture}.",
            "source": {"uri": "file:///weights"},
            "task": task or TASKS[family],
            "type": {"encoder": "NLP", "decoder": "LLM", "generator": "LLM"}.get(family, "CV"),
            "architecture": architecture,
            "preprocessing": {"kind": "none"},  # The library's own settings are used.
            "postprocessing": {"kind": "none"},
            "memoryRequest": "512Mi",
            "license": "not known",
            "downloadMiB": 0,
        }
    )


def check_available(entry: CatalogEntry) -> None:
    """Refuse entries of the catalog that this release cannot run.

    Raises:
        SourceError: it cannot; the hint is the entry's own reason.
    """
    if entry.availability is not None:
        raise SourceError(
            f"The model '{entry.name}' is not available in this release.",
            hint=entry.availability,
            code=ErrorCode.UNIMPLEMENTED,
            reason="NotAvailableYet",
        )


def check_task(name: str, task: str) -> None:
    """Refuse tasks that this release does not serve.

    Raises:
        ConfigurationError: it does not serve the task.
    """
    if task and task not in SERVABLE_TASKS:
        raise ConfigurationError(
            f"The model '{name}' has the task '{task}', which this release does not serve.",
            hint=f"It serves {one_of(SERVABLE_TASKS)}.",
            code=ErrorCode.UNIMPLEMENTED,
            reason="UnsupportedTask",
        )


def check_precision(name: str, precision: str, device: str = "cpu") -> None:
    """Refuse precisions that this release does not have for a device.

    Raises:
        PrecisionError: it has no variants of this precision.
    """
    kind = parse_device(device).kind
    known = CUDA_PRECISIONS if kind == "cuda" else CPU_PRECISIONS
    if precision not in known:
        raise PrecisionError(
            f"The model '{name}' asks for precision '{precision}', which this release does not "
            f"have for the device '{kind}'.",
            hint=f"Use {one_of(known)}.",
        )


def _check_scheme(name: str, uri: str) -> None:
    scheme, _, rest = uri.partition("://")
    if scheme == "file" and not rest.startswith("/"):
        raise SourceError(
            f"The source '{uri}' of the model '{name}' is not an absolute path.",
            hint="Write file:// and the path from the root on: file:///PATH.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="RelativePath",
        )
    if scheme in LOCAL_SCHEMES:
        return
    where = {
        "oci": "a bundle image, which a cluster mounts",
        "pvc": "a volume of a cluster",
        "s3": "object storage, which this release cannot read",
    }.get(scheme, "of an unknown kind")
    raise SourceError(
        f"The source '{uri}' of the model '{name}' is {where}; it cannot be used on one machine.",
        hint="Name a bundle or weights with file://, hf://, pip:// or random://.",
        code=ErrorCode.UNIMPLEMENTED,
        reason="UnsupportedSource",
    )


def _check_weights(name: str, uri: str) -> None:
    """Refuse a name that has no weights of its own, until random ones are asked for.

    Raises:
        SourceError: the catalog's source is random numbers; answers would look like answers.
    """
    if uri.startswith("random://"):
        raise SourceError(
            f"The catalog has no weights for the model '{name}'.",
            hint="Name your own with file:// or hf://, or try the pipeline with random ones: "
            "--weights random (in Python: random_weights=True).",
            code=ErrorCode.FAILED_PRECONDITION,
            reason="NoWeights",
        )


def bundle_folder(uri: str) -> Path | None:
    """The folder of a ``file://`` source that is a bundle already, or None."""
    if not uri.startswith("file://"):
        return None
    folder = local_path(uri)
    return folder if (folder / MANIFEST).is_file() else None


def _random_uri(uri: str | None, entry: CatalogEntry | None, seed: int) -> str:
    """A source of random weights; only weights that lie here already keep their own URI.

    Args:
        uri: what the caller named; ``None`` is the catalog's source.
        entry: what describes the model.
        seed: for sources that name none.
    """
    if uri is not None and uri.startswith(("random://", "file://")):
        return uri
    if entry is None:
        raise SourceError(
            f"Nothing says which architecture '{uri}' has, so random weights cannot be made.",
            hint="Add it to a catalog file and pass that with --catalog.",
            code=ErrorCode.INVALID_ARGUMENT,
            reason="UnknownArchitecture",
        )
    if uri is None and entry.source.uri.startswith("file://"):
        return entry.source.uri
    return f"random://{entry.architecture}?seed={seed}"
