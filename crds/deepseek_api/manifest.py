"""The manifest of a model bundle: everything a worker must know, and the hash of every byte.

Why it exists: the manifest is the contract between preparing a model and serving it. The digest
of a bundle is the hash of its manifest in canonical form, and the manifest hashes every file, so
one short string pins all of it. Reading and writing files is the engine's business, not this
module's.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from deepseek_api.base import Bool, Float, Int, WireModel
from deepseek_api.errors import BundleError, PrecisionError
from deepseek_api.processing import Postprocessing, Preprocessing, RelativePath, TextPreprocessing
from deepseek_api.vocabulary import BackendName, Datatype, InstructionSet, Precision

__all__ = [
    "SCHEMA_VERSION",
    "Agreement",
    "BundleFile",
    "BundleSource",
    "Manifest",
    "Signature",
    "Speed",
    "TensorSpec",
    "Variant",
    "bundle_digest",
    "canonical_bytes",
    "choose_variant",
    "parse_manifest",
]

SCHEMA_VERSION: Final = 1
"""The manifest format that this release writes and reads."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 hash, 64 lower case hexadecimal digits."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A digest with its algorithm, ``sha256:`` and 64 hexadecimal digits."""
Name = Annotated[str, Field(min_length=1, max_length=128)]
"""A short name."""


class TensorSpec(WireModel):
    """One input or output of a model."""

    name: Name
    """Name of the tensor in a request or answer."""
    datatype: Datatype
    """Data type as the Open Inference Protocol names it."""
    shape: tuple[Annotated[Int, Field(ge=-1)], ...] = Field(max_length=16)
    """Sizes of the dimensions; -1 is any size; the first dimension is the batch."""
    optional: Bool = False
    """Whether a request may leave it out."""


class Signature(WireModel):
    """The tensors that a model takes and gives."""

    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    """What a request carries."""
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    """What an answer carries."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            _refuse_duplicates(f"signature.{side}", [tensor.name for tensor in tensors])
        return self


class BundleFile(WireModel):
    """One file of a bundle."""

    path: RelativePath
    """Path inside the bundle."""
    sha256: Sha256
    """Hash of the content."""
    bytes: Int = Field(ge=0)
    """Size in bytes."""


class Agreement(WireModel):
    """How close the answers of a variant are to those of the fp32 model, measured at prepare."""

    metric: Literal["cosine", "top1", "dice"]
    """``cosine``: cosine between the outputs; ``top1``: part of samples with the same best
    class; ``dice``: overlap of the voxels of a class, mean over the classes that fp32 finds."""
    mean: Float
    """Mean over the samples."""
    worst: Float
    """The lowest value of a sample; for ``top1`` 0 or 1."""
    samples: Int = Field(ge=1)
    """How many samples were compared."""
    bound: Float
    """The mean that a variant must reach to be chosen by ``auto``."""
    worst_bound: Float | None = None
    """The worst sample that ``auto`` accepts; absent: the mean alone decides."""
    reference: str
    """What the variant was compared with."""


class Speed(WireModel):
    """How fast a variant was when the bundle was prepared, and on what."""

    median_ms: Float = Field(gt=0)
    """Median time of one call, milliseconds."""
    p90_ms: Float | None = Field(default=None, gt=0)
    """90th percentile of the time of one call, milliseconds."""
    shape: str
    """What one call was, for example ``1x128 tokens``."""
    device: str
    """The device as its maker calls it."""
    threads: Int = Field(ge=1)
    """Threads that the back end used."""
    instruction_set: InstructionSet
    """Instruction set of the device."""
    runtime: str
    """Back end and its version, for example ``onnxruntime 1.31.0``."""
    ratio_to_fp32: Float | None = Field(default=None, gt=0)
    """Median of fp32 divided by this median; above 1 is faster than fp32."""


class Variant(WireModel):
    """One executable form of the model: a precision, a back end, an instruction set."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]
    """Name of the variant inside the bundle, for example ``int8-avx2``."""
    backend: BackendName
    """The library that executes it."""
    precision: Precision
    """Number format; never ``auto``."""
    instruction_set: InstructionSet = InstructionSet.ANY
    """The processors it was made for."""
    files: tuple[BundleFile, ...] = Field(min_length=1, max_length=10_000)
    """Files that only variants use; several variants may name the same file."""
    graph: RelativePath
    """The file that the back end opens first; one of ``files``."""
    tensor_bytes: Int = Field(ge=0)
    """Bytes of weights, scales, zero points and biases, without the graph."""
    memory_bytes: Int = Field(ge=0)
    """Estimated memory of a loaded variant, in bytes."""
    row_batching: Literal["padded", "equal", "single"] = "padded"
    """Which rows may share a batch: any with padding, only rows of equal length, or none, for
    variants whose answers depend on the rest of the batch."""
    agreement: Agreement | None = None
    """Measured agreement with fp32; absent on the reference itself."""
    speed: Speed | None = None
    """Measured speed; absent when it was not measured."""
    notes: tuple[str, ...] = Field(default=(), max_length=64)
    """Sentences for people, for example which layers stayed at a higher precision."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        paths = [file.path for file in self.files]
        _refuse_duplicates(f"files of variant {self.id!r}", paths)
        if self.graph not in paths:
            raise ValueError(f"the graph {self.graph!r} of variant {self.id!r} is not in its files")
        if self.precision is Precision.AUTO:
            raise ValueError(f"variant {self.id!r} must name a concrete precision, not 'auto'")
        return self


class BundleSource(WireModel):
    """Where the weights came from."""

    uri: str = Field(min_length=1, max_length=2048)
    """The source URI; a local path is reduced to ``file://`` and its last part."""
    revision: str | None = None
    """The resolved revision, such as a commit or a package version."""
    digest: Digest | None = None
    """Hash over the source's files."""


Selection = dict[Precision, dict[InstructionSet, str]]
"""For each requested precision: instruction set to variant id."""


class Manifest(WireModel):
    """The content of ``manifest.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Format of the manifest."""
    name: Name
    """Name of the model, as in the catalog or the pipeline."""
    model_type: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,30}$")]
    """Model type for the priority rules, for example ``NLP``."""
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
    """What the model does, for example ``text-embedding``."""
    architecture: str | None = None
    """Name of the architecture, for people."""
    signature: Signature
    """Tensors that the model takes and gives."""
    preprocessing: Preprocessing
    """What happens before the graph."""
    postprocessing: Postprocessing
    """What happens after the graph."""
    files: tuple[BundleFile, ...] = Field(default=(), max_length=10_000)
    """Files that all variants share, such as the tokenizer and the labels."""
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=64)
    """The executable forms."""
    selection: Selection
    """Which variant serves a requested precision on an instruction set."""
    source: BundleSource
    """Where the weights came from."""
    random_weights: Bool = False
    """Whether the weights are random: the architecture is exact and the answers mean nothing."""
    created_by: dict[str, str] = Field(default_factory=dict)
    """Versions of the software that made the bundle."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _refuse_duplicates("variants", [variant.id for variant in self.variants])
        _refuse_duplicates("files", [file.path for file in self.files])
        known = {variant.id for variant in self.variants}
        for precision, by_set in self.selection.items():
            for instruction_set, variant_id in by_set.items():
                if variant_id not in known:
                    raise ValueError(
                        f"selection.{precision}.{instruction_set} names the variant "
                        f"{variant_id!r}, which does not exist"
                    )
        _refuse_conflicting_hashes(self.all_files())
        _refuse_missing_files(self)
        return self

    def all_files(self) -> Iterator[BundleFile]:
        """Every file of the bundle, shared ones first; a file of two variants comes twice."""
        yield from self.files
        for variant in self.variants:
            yield from variant.files

    def variant(self, variant_id: str) -> Variant:
        """The variant with this id.

        Raises:
            BundleError: there is none.
        """
        for variant in self.variants:
            if variant.id == variant_id:
                return variant
        raise BundleError(
            f"The bundle of {self.name!r} has no variant {variant_id!r}.",
            hint=f"It has {', '.join(variant.id for variant in self.variants)}.",
            reason="UnknownVariant",
        )


def _refuse_duplicates(what: str, values: Sequence[str]) -> None:
    duplicates = sorted(value for value, count in Counter(values).items() if count > 1)
    if duplicates:
        raise ValueError(f"{what}: {', '.join(duplicates)} is listed more than once")


def _refuse_conflicting_hashes(files: Iterator[BundleFile]) -> None:
    seen: dict[str, BundleFile] = {}
    for file in files:
        if seen.setdefault(file.path, file) != file:
            raise ValueError(f"the file {file.path!r} is listed with two different hashes or sizes")


def _refuse_missing_files(manifest: Manifest) -> None:
    shared = {file.path for file in manifest.files}
    wanted: list[str] = []
    if isinstance(manifest.preprocessing, TextPreprocessing):
        wanted.append(manifest.preprocessing.tokenizer)
    labels = getattr(manifest.postprocessing, "labels", None)
    if labels is not None:
        wanted.append(labels)
    for path in wanted:
        if path not in shared:
            raise ValueError(f"the file {path!r} is used by every variant and missing in files")


def parse_manifest(data: bytes | str) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: the text is not a manifest, or its format version is not known.
    """
    try:
        raw: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            "The bundle's manifest is not valid JSON.", hint="Prepare the bundle again."
        ) from error
    version = raw.get("schemaVersion") if isinstance(raw, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise BundleError(
            f"The bundle's manifest has format version {version}; this release reads "
            f"{SCHEMA_VERSION}.",
            hint="Prepare the bundle again with this release.",
            reason="UnknownManifestVersion",
        )
    try:
        return Manifest.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise BundleError(
            f"The bundle's manifest is wrong at {where}: {first['msg']}.",
            hint="Prepare the bundle again.",
        ) from error


def canonical_bytes(manifest: Manifest) -> bytes:
    """The manifest as JSON that depends on its content only: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        manifest.to_wire(),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def bundle_digest(manifest: Manifest) -> str:
    """The digest of the bundle, ``sha256:`` and the hash of the canonical manifest."""
    return "sha256:" + hashlib.sha256(canonical_bytes(manifest)).hexdigest()


def choose_variant(
    manifest: Manifest, precision: Precision, instruction_sets: Sequence[InstructionSet]
) -> Variant:
    """The variant that serves a precision on a processor.

    Args:
        manifest: the bundle's manifest.
        precision: what the pipeline asks for.
        instruction_sets: what the processor can do, best first; ``any`` is always tried last.

    Raises:
        PrecisionError: the bundle has nothing for this precision, or not for this processor.
    """
    by_set = manifest.selection.get(precision)
    if by_set is None:
        available = ", ".join(sorted(manifest.selection)) or "nothing"
        raise PrecisionError(
            f"The bundle of {manifest.name!r} was not prepared for precision '{precision}'.",
            hint=f"Ask for one of: {available}, or prepare the bundle with that precision.",
        )
    for instruction_set in (*instruction_sets, InstructionSet.ANY):
        if instruction_set in by_set:
            return manifest.variant(by_set[instruction_set])
    raise PrecisionError(
        f"The bundle of {manifest.name!r} has precision '{precision}' only for processors with "
        f"{', '.join(sorted(by_set))}.",
        hint="Prepare the bundle on this kind of processor.",
        reason="InstructionSetUnavailable",
    )
