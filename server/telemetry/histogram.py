"""A histogram that is counted once: finely, for the percentiles of `Stats`, and shown in coarser buckets to Prometheus.

prometheus_client's own takes a lock and some microseconds an observation; one event loop needs no lock, and every token
is observed.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from server.telemetry.stats import BOUNDS, bucket_of

Key = str | tuple[str, ...]  # the value of the one label, or those of all of them


class Series:
    """The durations of one key. `bounds` are the upper ends of its buckets, in seconds."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0  # seconds

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds


class Histogram(Collector):
    """Durations by labels; `buckets` are Prometheus'. Without labels Prometheus is shown all keys as one series."""

    def __init__(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> None:
        self._name = name
        self._text = text
        self._buckets = buckets
        self._labels = labels
        self._fine = sorted({*buckets, *BOUNDS})
        self._series: dict[Key, Series] = {}
        self._settled: dict[Key, list[int]] = {}

    def of(self, key: Key) -> Series:
        """Return what counts the durations of one key."""
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(self._fine)
        return series

    def settle(self) -> Iterator[tuple[Key, Counter[int]]]:
        """Yield what was counted since the last call: keys with the counts of `Stats`' buckets."""
        bounds = (*self._fine, self._fine[-1])
        for key, series in self._series.items():
            counts, before = series.counts, self._settled.get(key)
            if before != counts:
                news: Counter[int] = Counter()
                for bound, count, old in zip(bounds, counts, before or [0] * len(counts), strict=True):
                    if count != old:
                        news[bucket_of(bound)] += count - old
                self._settled[key] = counts.copy()
                yield key, news

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram as Prometheus wants it."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in self._shown():
            counts = series.counts
            buckets = [(str(bound), float(sum(counts[: self._fine.index(bound) + 1]))) for bound in self._buckets]
            family.add_metric(values, [*buckets, ("+Inf", float(sum(counts)))], series.total)
        yield family

    def _shown(self) -> Iterator[tuple[Sequence[str], Series]]:
        if self._labels:
            for key, series in self._series.items():
                yield ([key] if isinstance(key, str) else key), series
            return
        every = Series(self._fine)
        for series in self._series.values():
            every.counts = [one + other for one, other in zip(every.counts, series.counts, strict=True)]
            every.total += series.total
        yield (), every
