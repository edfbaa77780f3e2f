"""The files of a model's tokenizer as an archive, for gateways on other machines.

Why it exists: a gateway turns text into tokens itself and must do it as the model's own tokenizer
does. Giving it the files over the connection needs no shared folder, and no path is told.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from deepseek_api.errors import ErrorCode, InferenceError
from deepseek_protos import vllm_engine_pb2 as pb

__all__ = ["archive", "pieces"]

_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
_PIECE_BYTES = 1024 * 1024


def archive(folder: Path) -> bytes:
    """A zip archive of a bundle's tokenizer files.

    Raises:
        InferenceError: FAILED_PRECONDITION: the model has no tokenizer.
    """
    names = [name for name in _NAMES if (folder / name).is_file()]
    if _NAMES[0] not in names:
        raise InferenceError(
            "The model has no tokenizer.",
            code=ErrorCode.FAILED_PRECONDITION,
            hint="Send it token numbers.",
            reason="NoTokenizer",
        )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as target:
        for name in names:
            # A fixed date, so that the same files always make the same archive.
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, (folder / name).read_bytes())
    return content.getvalue()


def pieces(content: bytes) -> Iterator[pb.GetTokenizerChunk]:
    """An archive in messages; the last one has its hash."""
    for start in range(0, len(content), _PIECE_BYTES):
        piece = pb.GetTokenizerChunk(data=content[start : start + _PIECE_BYTES])
        if start + _PIECE_BYTES >= len(content):
            piece.sha256 = hashlib.sha256(content).hexdigest()
        yield piece
