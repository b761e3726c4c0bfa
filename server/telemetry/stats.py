"""Percentiles of the last hour in bounded memory: for the console, which has no Prometheus behind it.

Durations fall into buckets that grow by a constant factor, so that a percentile is right to within a tenth at any
scale (Prometheus' native histograms do the same). An hour is 180 slots of at most a hundred buckets a phase.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

GROWTH = 1.2
SMALLEST = 1e-4  # seconds; what is faster counts as this
LARGEST = 100  # index of the last bucket: more than two hours
SLOT = 20  # seconds
SLOTS = 180
MINUTE = 60
RECENT = 50  # attempts kept one by one
WINDOWS = {"1m": 1, "5m": 5, "60m": 60}  # minutes
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
TTFT = "ttft"


class Attempt(NamedTuple):
    """One attempt at one target; `phases` in seconds, `at` in seconds since the epoch."""

    stream_id: str
    owner: str
    target: str
    at: float
    phases: Mapping[str, float]


class Slot(NamedTuple):
    """The buckets of some seconds, by what was measured."""

    number: int
    buckets: dict[str, Counter[int]]


class Stats:
    """What was measured in the last hour. Times go in as seconds and come out as milliseconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._slots: deque[Slot] = deque(maxlen=SLOTS)
        self._recent: deque[Attempt] = deque(maxlen=RECENT)

    def first_token(self, seconds: float) -> None:
        """Count one time to first token."""
        self._count(TTFT, seconds)

    def attempt(self, stream_id: str, owner: str, target: str, phases: Mapping[str, float]) -> None:
        """Count the phases of one attempt."""
        for phase, seconds in phases.items():
            self._count(phase, seconds)
        self._recent.append(Attempt(stream_id, owner, target, self._clock(), phases))

    def _count(self, name: str, seconds: float) -> None:
        number = int(self._clock() // SLOT)
        if not self._slots or self._slots[-1].number < number:
            self._slots.append(Slot(number, {}))
        self._slots[-1].buckets.setdefault(name, Counter())[_bucket(seconds)] += 1

    def windows(self) -> dict[str, Any]:
        """Return the percentiles of the last minute, five minutes and hour."""
        now = self._clock()
        return {name: self._window(now - minutes * MINUTE) for name, minutes in WINDOWS.items()}

    def _window(self, since: float) -> dict[str, Any]:
        merged: dict[str, Counter[int]] = {}
        for slot in self._slots:
            if slot.number >= since // SLOT:
                for name, counts in slot.buckets.items():
                    merged.setdefault(name, Counter()).update(counts)
        ttft = percentiles(merged.pop(TTFT, Counter()))
        return {"ttft": ttft, "phases": {name: percentiles(counts) for name, counts in merged.items()}}

    def minutes(self) -> list[dict[str, Any]]:
        """Return the percentiles of the time to first token for each minute of the last hour that had any."""
        merged: dict[int, Counter[int]] = {}
        oldest = self._clock() - SLOT * SLOTS
        for slot in self._slots:
            counts = slot.buckets.get(TTFT)
            if counts and slot.number * SLOT >= oldest:
                merged.setdefault(slot.number * SLOT // MINUTE, Counter()).update(counts)
        return [{"at": minute * MINUTE, **percentiles(counts)} for minute, counts in merged.items()]

    def recent(self, sees: Callable[[str], bool]) -> list[dict[str, Any]]:
        """Return the last attempts, newest first, of the owners that `sees` lets through."""
        return [
            {"stream_id": one.stream_id, "target": one.target, "at": one.at, **_milliseconds(one.phases)}
            for one in reversed(self._recent)
            if sees(one.owner)
        ]


def percentiles(counts: Mapping[int, int]) -> dict[str, float | int | None]:
    """Return p50, p95 and p99 in milliseconds (None where nothing was counted), and the count."""
    total = sum(counts.values())
    found: dict[str, float | int | None] = dict.fromkeys(PERCENTILES)
    running = 0
    for bucket, count in sorted(counts.items()):
        running += count
        for name, share in PERCENTILES.items():
            if found[name] is None and running >= share * total:
                found[name] = _middle(bucket)
    return {**found, "count": total}


def _bucket(seconds: float) -> int:
    if seconds <= SMALLEST:
        return 0
    return min(LARGEST, math.ceil(math.log(seconds / SMALLEST, GROWTH)))


def _middle(bucket: int) -> float:
    """Return the middle of a bucket in milliseconds."""
    return round(SMALLEST * math.pow(GROWTH, bucket - 0.5) * 1000, 3)


def _milliseconds(phases: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds * 1000, 3) for name, seconds in phases.items()}
