"""Counts durations in buckets that grow by a constant factor: bounded memory, and percentiles right to 2 %."""

import math
from collections import Counter
from collections.abc import Mapping

GROWTH = math.log(1.02)
SMALLEST = 1e-6  # seconds; shorter durations count as this


class Histogram:
    """Counts of durations in seconds."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[int(math.log(max(seconds, SMALLEST) / SMALLEST) / GROWTH)] += 1

    @property
    def total(self) -> int:
        """How many durations were counted."""
        return self.counts.total()

    def percentile(self, share: float) -> float:
        """Return the duration in seconds that `share` of all do not exceed; 0 if there is none."""
        wanted, running, middle = share * self.total, 0, 0.0
        for bucket, count in sorted(self.counts.items()):
            running += count
            middle = _middle(bucket)
            if running >= wanted:
                break
        return middle

    def largest(self) -> float:
        """Return the longest duration in seconds; 0 if there is none."""
        return _middle(max(self.counts)) if self.counts else 0.0

    def curve(self) -> list[tuple[float, float]]:
        """Return pairs of seconds and the share of durations that took longer, ascending."""
        total, left, points = self.total, self.total, []
        for bucket, count in sorted(self.counts.items()):
            left -= count
            points.append((_middle(bucket), left / total))
        return points

    def plain(self) -> dict[str, int]:
        """Return the counts in a form for JSON."""
        return {str(bucket): count for bucket, count in self.counts.items()}

    @classmethod
    def of(cls, plain: Mapping[str, int]) -> "Histogram":
        """Return the histogram from which `plain` was made."""
        return cls({int(bucket): count for bucket, count in plain.items()})


def _middle(bucket: int) -> float:
    return SMALLEST * math.exp((bucket + 0.5) * GROWTH)
