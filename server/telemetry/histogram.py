"""A Prometheus histogram without locks.

prometheus_client takes two locks per observation, which a single event loop does not need.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Series:
    """Durations with the same labels. `counts` has their number per bucket of `bounds`, and those past the last one."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0  # seconds

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class PlainHistogram(Collector):
    """Durations in seconds, by labels. `buckets` are the bounds that Prometheus gets, among those of `fine`."""

    def __init__(
        self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str], fine: Sequence[float] = ()
    ) -> None:
        self._name = name
        self._text = text
        self._buckets = buckets
        self._labels = labels
        self._bounds = fine or buckets
        self.series: dict[tuple[str, ...], Series] = {}

    def of(self, *labels: str) -> Series:
        """Return the series of these labels."""
        series = self.series.get(labels)
        if series is None:
            series = self.series[labels] = Series(self._bounds)
        return series

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram in the form of prometheus_client."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, series in self.series.items():
            counts = series.counts
            buckets = [(str(bound), float(sum(counts[: self._bounds.index(bound) + 1]))) for bound in self._buckets]
            family.add_metric(labels, [*buckets, ("+Inf", float(sum(counts)))], series.total)
        yield family
