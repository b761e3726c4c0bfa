"""Percentiles of the last hour in bounded memory: for the console, which has no Prometheus behind it.

Durations fall into buckets that grow by a constant factor, so that a percentile is right to within a tenth at any
scale (Prometheus' native histograms do the same). An hour is 180 slots of at most a hundred buckets for each thing
that is measured at each configured target.
"""

import math
import time
from bisect import bisect_left
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
BOUNDS = tuple(SMALLEST * GROWTH**n for n in range(LARGEST + 1))  # seconds, the upper ends of the buckets
# Whose time it is: `drain` the client's, `overhead` and `loop_lag` the gateway's, all else the upstream's.
WHOLE = ("ttft", "inter_token", "drain", "overhead")  # the phases of an attempt are shown beside these
PROCESS = ("loop_lag",)  # no target's


class Attempt(NamedTuple):
    """One attempt at one target; `phases` in seconds, `at` in seconds since the epoch."""

    stream_id: str
    owner: str
    target: str
    at: float
    phases: Mapping[str, float]


Buckets = dict[tuple[str, str], Counter[int]]  # by what was measured, and the target ("": of none)


class Slot(NamedTuple):
    """The buckets of some seconds."""

    number: int
    buckets: Buckets


class Stats:
    """What was measured in the last hour. Times go in as seconds and come out as milliseconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._slots: deque[Slot] = deque(maxlen=SLOTS)
        self._recent: deque[Attempt] = deque(maxlen=RECENT)

    def count(self, name: str, seconds: float, target: str = "") -> None:
        """Count one duration."""
        self._running(name, target)[bucket_of(seconds)] += 1

    def add(self, name: str, counts: Mapping[int, int], target: str = "") -> None:
        """Count durations by their buckets."""
        self._running(name, target).update(counts)

    def _running(self, name: str, target: str) -> Counter[int]:
        number = int(self._clock() // SLOT)
        if not self._slots or self._slots[-1].number < number:
            self._slots.append(Slot(number, {}))
        buckets = self._slots[-1].buckets
        found = buckets.get((name, target))
        if found is None:
            found = buckets[name, target] = Counter()
        return found

    def attempt(self, stream_id: str, owner: str, target: str, phases: Mapping[str, float]) -> None:
        """Keep one attempt among the last ones."""
        self._recent.append(Attempt(stream_id, owner, target, self._clock(), phases))

    def windows(self) -> dict[str, Any]:
        """Return the percentiles of the last minute, five minutes and hour."""
        now = self._clock()
        return {name: self._window(now - minutes * MINUTE) for name, minutes in WINDOWS.items()}

    def _window(self, since: float) -> dict[str, Any]:
        total: dict[str, Counter[int]] = {}
        targets: dict[str, dict[str, Counter[int]]] = {}
        for slot in self._slots:
            if slot.number >= since // SLOT:
                for (name, target), counts in slot.buckets.items():
                    total.setdefault(name, Counter()).update(counts)
                    if target:
                        targets.setdefault(target, {}).setdefault(name, Counter()).update(counts)
        lag = {name: percentiles(total.pop(name, {})) for name in PROCESS}
        return {**_shown(total), **lag, "targets": {target: _shown(found) for target, found in targets.items()}}

    def minutes(self) -> list[dict[str, Any]]:
        """Return the percentiles of the time to first token for each minute of the last hour that had any."""
        merged: dict[int, Counter[int]] = {}
        oldest = self._clock() - SLOT * SLOTS
        for slot in self._slots:
            for (name, _), counts in slot.buckets.items():
                if name == "ttft" and slot.number * SLOT >= oldest:
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


def _shown(measured: dict[str, Counter[int]]) -> dict[str, Any]:
    """Return the percentiles of what was measured, the phases of attempts under a name of their own."""
    whole = {name: percentiles(measured.get(name, {})) for name in WHOLE}
    phases = {name: percentiles(counts) for name, counts in measured.items() if name not in WHOLE}
    return {**whole, "phases": phases}


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket that a duration falls into."""
    return min(LARGEST, bisect_left(BOUNDS, seconds))


def _middle(bucket: int) -> float:
    """Return the middle of a bucket in milliseconds."""
    return round(SMALLEST * math.pow(GROWTH, bucket - 0.5) * 1000, 3)


def _milliseconds(phases: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds * 1000, 3) for name, seconds in phases.items()}
