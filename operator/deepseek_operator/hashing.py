"""Hashes that end up in names, labels and annotations.

Why it exists: pods are replaced when such a hash changes, so there is one way to write a value
down before it is hashed, and it never changes. Nothing here protects secrets.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

__all__ = ["canonical_json", "short_hash"]

_LENGTH: Final = 10


def canonical_json(value: object) -> str:
    """The value as JSON: keys sorted, no spaces, so that equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def short_hash(value: object, *, length: int = _LENGTH) -> str:
    """Hash of a JSON value, hexadecimal digits.

    Args:
        value: what `json.dumps` takes.
        length: digits, at most 64.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
