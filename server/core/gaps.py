"""Records that a store has lost: where a reader must skip."""

from collections.abc import Sequence

Lost = Sequence[tuple[int, int]]


def resume_at(lost: Lost, after: int) -> int:
    """Return the cursor to read on from: `after`, or the last lost number of the run that follows it."""
    for first, last in lost:
        if first <= after + 1 <= last:
            after = last
    return after


def upper_bound(lost: Lost, after: int, tail: int) -> int:
    """Return the last number that can be read after `after` without crossing lost records."""
    return min([tail, *(first - 1 for first, _ in lost if first > after)])
