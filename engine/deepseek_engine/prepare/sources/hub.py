"""Weights on a model hub. Only data files are fetched: never code, never pickles when avoidable."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from deepseek_api.errors import ErrorCode, SourceError

from deepseek_engine.prepare.events import Reporter

PATTERNS = [
    "config.json", "tokenizer.json", "1_Pooling/config.json", "generation_config.json",
    "tokenizer_config.json", "chat_template.jinja", "model.safetensors",
    "model.safetensors.index.json", "model-*-of-*.safetensors",
]  # fmt: skip
"""What a snapshot needs; a repository without safetensors is asked for its pickle afterwards."""
FALLBACK_WEIGHTS = ["pytorch_model.bin"]


def download_snapshot(name: str, revision: str, report: Reporter) -> tuple[Path, str]:
    """Fetch a repository's data files; return the folder and the commit.

    Raises:
        SourceError: the hub cannot be reached, or has no such repository or revision.
    """
    # Takes 0.3 s to import, and only this source needs it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    report.progress(f"downloading {name}", unit="B")
    options: dict[str, Any] = {
        "repo_id": name,
        "revision": revision or None,
        "tqdm_class": reporting_bar(f"downloading {name}", report),
    }
    try:
        folder = Path(snapshot_download(allow_patterns=PATTERNS, **options))
        if not any(folder.glob("model.safetensors*")):
            folder = Path(snapshot_download(allow_patterns=PATTERNS + FALLBACK_WEIGHTS, **options))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise SourceError(
            f"The hub has no model '{name}'" + (f" at revision '{revision}'." if revision else "."),
            hint="Check the spelling; a private model needs a token in HF_TOKEN.",
            code=ErrorCode.NOT_FOUND,
            reason="SourceNotFound",
        ) from error
    except Exception as error:  # those of the transport belong to a library that may change
        raise SourceError(
            f"The weights of '{name}' are on a model hub, and the hub cannot be reached.",
            hint="Connect to the network, name local weights with file://, or try the pipeline "
            "with random ones: --weights random.",
            code=ErrorCode.UNAVAILABLE,
            reason="HubUnreachable",
        ) from error
    return folder, folder.name


def reporting_bar(stage: str, report: Reporter) -> type[Any]:
    """A progress bar as the hub's client wants it, which reports bytes instead of drawing."""
    from tqdm import tqdm

    class ReportingBar(tqdm):  # type: ignore[misc]  # the library is not typed
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)  # an extension of the hub's own bars
            super().__init__(*arguments, **{**options, "file": io.StringIO(), "mininterval": 0})

        def update(self, amount: float | None = 1) -> bool | None:
            shown: bool | None = super().update(amount)
            if self.unit == "B" and self.total:
                report.progress(stage, float(self.n), float(self.total), "B")
            return shown

    return ReportingBar
