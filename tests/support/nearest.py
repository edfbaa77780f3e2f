"""The whole numbers that come nearest to exact shares, by trying all of them.

Why it exists: this is the oracle of the allocation's tests, so it shares no idea with the code that
it judges.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction


def distance(counts: Sequence[int], ideal: Sequence[Fraction]) -> Fraction:
    """The largest difference between a count and its ideal."""
    return max(abs(count - share) for count, share in zip(counts, ideal, strict=True))


def smallest_distance(
    ranges: Sequence[range], ideal: Sequence[Fraction], total: int
) -> Fraction | None:
    """The smallest `distance` of counts from the ranges that add up to the total, None if none do.

    Every combination is tried; the last count follows from the others. Whole multiples of a common
    denominator keep fractions out of the loop.
    """
    scale = math.lcm(*(share.denominator for share in ideal))
    whole = [int(share * scale) for share in ideal]
    *tables, last = (
        {count: abs(count * scale - share) for count in counts}
        for counts, share in zip(ranges, whole, strict=True)
    )
    best = None
    for counts in itertools.product(*(table.items() for table in tables)):
        rest = total - sum(count for count, _ in counts)
        if rest in last:
            far = max(last[rest], *(far for _, far in counts), 0)
            best = far if best is None else min(best, far)
    return None if best is None else Fraction(best, scale)
