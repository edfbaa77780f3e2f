"""Weights inside an installed Python package.

The package is looked into and never imported: importing would run its code.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from deepseek_api.errors import ErrorCode, SourceError

from deepseek_engine.prepare.sources.parts import Parts, find_parts


def locate_weights(name: str, suffixes: tuple[str, ...]) -> Path | Parts:
    """The one file of weights that an installed package carries, or the parts of one.

    Raises:
        SourceError: the package is not installed, or does not hold exactly one such file.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise SourceError(
            f"The package '{name}' is not installed.",
            hint=f"Install it: pip install '{name}'.",
            code=ErrorCode.NOT_FOUND,
            reason="PackageNotInstalled",
        ) from error
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    for suffix in suffixes:
        found = [file for file in files if file.suffix == suffix and file.is_file()]
        if len(found) == 1:
            return found[0].resolve()
        if found:
            raise SourceError(
                f"The package '{name}' holds {len(found)} files ending in {suffix}.",
                hint="Name the file itself: file:///PATH/TO/THE/FILE.",
                reason="AmbiguousWeights",
            )
    for suffix in suffixes:
        if (parts := find_parts(name, suffix)) is not None:
            return parts
    raise SourceError(
        f"The package '{name}' holds no weights.",
        hint=f"It needs one file ending in {', '.join(suffixes)}.",
        code=ErrorCode.NOT_FOUND,
        reason="WeightsNotFound",
    )
