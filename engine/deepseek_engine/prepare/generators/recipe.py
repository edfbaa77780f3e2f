"""From the source of a model that generates to its bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from deepseek_api.errors import SourceError
from deepseek_api.manifest import BundleSource, Manifest, Signature, TensorSpec
from deepseek_api.processing import NoPostprocessing, TextPreprocessing
from deepseek_api.vocabulary import Datatype

from deepseek_engine.prepare.architectures.base import Plan
from deepseek_engine.prepare.events import Reporter
from deepseek_engine.prepare.generators.checkpoint import lay_out
from deepseek_engine.prepare.generators.tokenizers import TOKENIZER, tokenizer_files
from deepseek_engine.prepare.generators.variants import (
    selection_of,
    wanted_kinds,
    write_variant,
)
from deepseek_engine.prepare.messages import PrepareRequest
from deepseek_engine.prepare.sources import Source
from deepseek_engine.prepare.terms import notice_of
from deepseek_engine.prepare.writer import BundleWriter, tool_versions

__all__ = ["build_generator"]

LONGEST: Final = 1 << 20
"""Tokens; what a manifest can say."""
SIGNATURE: Final = Signature(
    inputs=(
        TensorSpec(name="text", datatype=Datatype.BYTES, shape=(1,), optional=True),
        TensorSpec(name="input_ids", datatype=Datatype.INT64, shape=(1, -1), optional=True),
    ),
    outputs=(
        TensorSpec(name="text", datatype=Datatype.BYTES, shape=(1,)),
        TensorSpec(name="token_ids", datatype=Datatype.INT64, shape=(1, -1)),
    ),
)
"""A request has one prompt, as text or as token numbers; an answer is streamed in parts."""


def build_generator(
    request: PrepareRequest, source: Source, plan: Plan, folder: Path, report: Reporter
) -> str:
    """Prepare a model that generates in an empty folder; return the bundle's digest.

    Raises:
        DeepseekError: source, precision, architecture or tokenizer do not work.
    """
    kinds = list(wanted_kinds(request.precisions, request.device))
    writer = BundleWriter(folder)
    # Beside the bundle, under a name that is removed with its remains if this process is killed.
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as work:
        checkpoint = Path(work)
        config = lay_out(plan, source, checkpoint)
        shared = tokenizer_files(source, config, random_weights=plan.random_weights)
        variants = [write_variant(writer, kind, checkpoint, report) for kind in kinds]
    if not plan.random_weights:
        shared |= notice_of(plan.entry)
    report.progress("writing the manifest")
    entry = plan.entry
    return writer.write_manifest(
        Manifest(
            name=request.name,
            model_type=entry.type if entry else "LLM",
            task=plan.task,
            architecture=f"{plan.library}/{plan.name or config['model_type']}",
            signature=SIGNATURE,
            preprocessing=TextPreprocessing(tokenizer=TOKENIZER, max_length=context_of(config)),
            postprocessing=NoPostprocessing(),
            files=writer.write_shared(shared),
            variants=tuple(variants),
            selection=selection_of(variants),
            source=BundleSource(
                uri=source.uri,
                revision=source.revision or None,
                digest=source.digest or None,
            ),
            random_weights=plan.random_weights,
            created_by=tool_versions(),
        )
    )


def context_of(config: dict[str, Any]) -> int:
    """Most tokens of a prompt and its answer together.

    Raises:
        SourceError: the configuration does not say it.
    """
    length = config.get("max_position_embeddings", config.get("n_positions"))
    if not isinstance(length, int) or length < 1:
        raise SourceError(
            "The config.json does not say how long a text may be.",
            hint="It needs max_position_embeddings (n_positions for GPT-2).",
            reason="InvalidConfig",
        )
    return min(length, LONGEST)
