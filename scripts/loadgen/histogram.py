"""Durations counted in buckets that grow by a constant factor: right to within a fiftieth, in bounded memory."""

import math
from collections import Counter
from collections.abc import Mapping

GROWTH = math.log(1.02)
SMALLEST = 1e-6  # seconds


class Histogram:
    """Counts of durations in seconds."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[int(math.log(max(seconds, SMALLEST) / SMALLEST) / GROWTH)] += 1

    @property
    def total(self) -> int:
        """How many were counted."""
        return self.counts.total()

    def percentile(self, share: float) -> float:
        """Return the duration that ``share`` of all do not exceed, in seconds; 0 of none."""
        wanted, running, middle = share * self.total, 0, 0.0
        for bucket, count in sorted(self.counts.items()):
            running += count
            middle = _middle(bucket)
            if running >= wanted:
                break
        return middle

    def largest(self) -> float:
        """Return the largest, in seconds; 0 of none."""
        return _middle(max(self.counts)) if self.counts else 0.0

    def curve(self) -> list[tuple[float, float]]:
        """Return (seconds, share of all that took longer), ascending."""
        total, left, points = self.total, self.total, []
        for bucket, count in sorted(self.counts.items()):
            left -= count
            points.append((_middle(bucket), left / total))
        return points

    def plain(self) -> dict[str, int]:
        """Return it as JSON can hold it."""
        return {str(bucket): count for bucket, count in self.counts.items()}

    @classmethod
    def of(cls, plain: Mapping[str, int]) -> "Histogram":
        """Read what ``plain`` returned."""
        return cls({int(bucket): count for bucket, count in plain.items()})


def _middle(bucket: int) -> float:
    return SMALLEST * math.exp((bucket + 0.5) * GROWTH)
