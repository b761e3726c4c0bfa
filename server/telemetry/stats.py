"""Percentiles of the last hour in bounded memory, for the console, which has no Prometheus behind it.

Durations are counted in buckets whose bounds grow by a constant factor. So a percentile is right to within a tenth at
any scale (Prometheus' native histograms do the same). An hour is 180 slots. A slot has at most a hundred buckets per
measure and configured target.
"""

import math
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

GROWTH = 1.2
SMALLEST = 1e-4  # seconds; shorter durations count as this
LARGEST = 100  # index of the last bucket: more than two hours
SLOT = 20  # seconds
SLOTS = 180
MINUTE = 60
RECENT = 50  # attempts kept one by one
WINDOWS = {"1m": 1, "5m": 5, "60m": 60}  # minutes
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
BOUNDS = tuple(SMALLEST * GROWTH**n for n in range(LARGEST + 1))  # seconds, the upper ends of the buckets
# `drain` is the client's time, `overhead` and `loop_lag` are the gateway's. All others are the upstream's.
WHOLE = ("ttft", "inter_token", "drain", "overhead")  # all other measures of a target are phases of an attempt
PROCESS = ("loop_lag",)  # measures of the process, not of a target


class Attempt(NamedTuple):
    """One attempt at one target. `phases` are in seconds, `at` in seconds since the epoch. `error`: how it failed."""

    stream_id: str
    owner: str
    target: str
    at: float
    phases: Mapping[str, float]
    error: str | None


Buckets = dict[tuple[str, str], Counter[int]]  # by the name of the measure, and the target ("" if it has none)


class Slot(NamedTuple):
    """The buckets of `SLOT` seconds. `number` counts the slots since the epoch."""

    number: int
    buckets: Buckets


class Stats:
    """The durations of the last hour. They go in as seconds and come out as milliseconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._slots: deque[Slot] = deque(maxlen=SLOTS)
        self._recent: deque[Attempt] = deque(maxlen=RECENT)

    def count(self, name: str, seconds: float, target: str = "") -> None:
        """Count one duration."""
        self._counter(name, target)[bucket_of(seconds)] += 1

    def add(self, name: str, counts: Mapping[int, int], target: str = "") -> None:
        """Count durations: `counts` has the number of them per bucket."""
        self._counter(name, target).update(counts)

    def _counter(self, name: str, target: str) -> Counter[int]:
        number = int(self._clock() // SLOT)
        if not self._slots or self._slots[-1].number < number:
            self._slots.append(Slot(number, {}))
        buckets = self._slots[-1].buckets
        counter = buckets.get((name, target))
        if counter is None:
            counter = buckets[name, target] = Counter()
        return counter

    def attempt(
        self, stream_id: str, owner: str, target: str, phases: Mapping[str, float], error: str | None = None
    ) -> None:
        """Add one attempt to the most recent ones. `error` is the kind of its failure."""
        self._recent.append(Attempt(stream_id, owner, target, self._clock(), phases, error))

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
        return {
            **_all_percentiles(total),
            **lag,
            "targets": {name: _all_percentiles(own) for name, own in targets.items()},
        }

    def minutes(self) -> list[dict[str, Any]]:
        """Return the percentiles of the time to first token, for each minute of the last hour that has any."""
        merged: dict[int, Counter[int]] = {}
        oldest = self._clock() - SLOT * SLOTS
        for slot in self._slots:
            for (name, _), counts in slot.buckets.items():
                if name == "ttft" and slot.number * SLOT >= oldest:
                    merged.setdefault(slot.number * SLOT // MINUTE, Counter()).update(counts)
        return [{"at": minute * MINUTE, **percentiles(counts)} for minute, counts in merged.items()]

    def recent(self, sees: Callable[[str], bool]) -> list[dict[str, Any]]:
        """Return the most recent attempts, newest first, of the owners for whom `sees` is true."""
        return [
            {
                "stream_id": entry.stream_id,
                "target": entry.target,
                "at": entry.at,
                **_milliseconds(entry.phases),
                **({} if entry.error is None else {"error": entry.error}),
            }
            for entry in reversed(self._recent)
            if sees(entry.owner)
        ]


def percentiles(counts: Mapping[int, int]) -> dict[str, float | int | None]:
    """Return p50, p95 and p99 in milliseconds (None if nothing was counted), and the count."""
    total = sum(counts.values())
    values: dict[str, float | int | None] = dict.fromkeys(PERCENTILES)
    running = 0
    for bucket, count in sorted(counts.items()):
        running += count
        for name, share in PERCENTILES.items():
            if values[name] is None and running >= share * total:
                values[name] = _middle(bucket)
    return {**values, "count": total}


def _all_percentiles(measures: dict[str, Counter[int]]) -> dict[str, Any]:
    """Return the percentiles of each measure. Those of an attempt's phases are together under `phases`."""
    whole = {name: percentiles(measures.get(name, {})) for name in WHOLE}
    phases = {name: percentiles(counts) for name, counts in measures.items() if name not in WHOLE}
    return {**whole, "phases": phases}


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket that a duration falls into."""
    return min(LARGEST, bisect_left(BOUNDS, seconds))


def _middle(bucket: int) -> float:
    """Return the middle of a bucket in milliseconds."""
    return round(SMALLEST * math.pow(GROWTH, bucket - 0.5) * 1000, 3)


def _milliseconds(phases: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds * 1000, 3) for name, seconds in phases.items()}
