"""Reading files that a user named, with an error that names them."""

from __future__ import annotations

from pathlib import Path

from deepseek_api.errors import ConfigurationError, ErrorCode


def read_file(path: str | Path, *, what: str) -> bytes:
    """The content of a file.

    Args:
        path: as the user wrote it.
        what: what the file is, for the message: ``picture``, ``catalog``.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The {what} '{path}' cannot be read: {error.strerror}.",
            hint="Check the path.",
            code=ErrorCode.NOT_FOUND if isinstance(error, FileNotFoundError) else None,
            reason="UnreadableFile",
        ) from error
