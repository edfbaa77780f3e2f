"""Grouping rows of different lengths so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["bucket_of", "group_rows"]

_FINEST = 8
_STEPS_PER_DOUBLING = 4


def bucket_of(length: int) -> int:
    """The upper edge of the bucket of a length.

    Edges are multiples of 8 up to 32; then four steps for each doubling, so that a row of more
    than 32 tokens has at most a quarter of its length in padding.
    """
    edge = _FINEST
    while edge < length:
        doubling = 1 << (edge.bit_length() - 1)
        edge += max(_FINEST, doubling // _STEPS_PER_DOUBLING)
    return edge


def group_rows(lengths: Sequence[int], *, how: str) -> list[tuple[int, tuple[int, ...]]]:
    """Bucket and rows of each group that may run as one batch.

    Args:
        lengths: tokens of each row.
        how: ``padded``, ``equal`` or ``single`` (see `TaskContext.row_batching`).
    """
    if how == "single":
        return [(length, (row,)) for row, length in enumerate(lengths)]
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length if how == "equal" else bucket_of(length), []).append(row)
    return [(bucket, tuple(rows)) for bucket, rows in groups.items()]
