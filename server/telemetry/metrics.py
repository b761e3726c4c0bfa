"""The Prometheus metrics of a gateway. Those that every token touches are counted in plain integers."""

import asyncio
from collections import Counter as Counts
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from server.core.errors import Kind
from server.core.records import Beginning
from server.core.timing import Phases
from server.telemetry.histogram import PlainHistogram
from server.telemetry.stats import BOUNDS, Stats, bucket_of

TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
GAP_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PHASE_BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
FINE = sorted({*GAP_BUCKETS, *BOUNDS})  # the buckets in which gaps are counted


class GapHistogram(PlainHistogram):
    """Inter-token gaps by target.

    A gap is counted once, in buckets that are fine enough for the percentiles of `Stats`; Prometheus gets coarser ones.
    """

    def __init__(self) -> None:
        text = "Seconds between two tokens."
        super().__init__("sluiceway_inter_token_seconds", text, GAP_BUCKETS, ["target"], FINE)
        self._settled: dict[str, list[int]] = {}  # the counts at the last call of `settle`

    def settle(self) -> Iterator[tuple[str, Counts[int]]]:
        """Yield the gaps since the last call, as pairs of a target and the counts in `Stats`' buckets."""
        for (target,), gaps in self.series.items():
            counts = gaps.counts
            previous = self._settled.get(target)
            if previous != counts:
                increase: Counts[int] = Counts()
                for bound, count, old in zip((*FINE, FINE[-1]), counts, previous or [0] * len(counts), strict=True):
                    if count != old:
                        increase[bucket_of(bound)] += count - old
                self._settled[target] = counts.copy()
                yield target, increase


class Metrics:
    """Every metric of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        def plain(name: str, text: str, buckets: Sequence[float], labels: Sequence[str]) -> PlainHistogram:
            own = PlainHistogram(name, text, buckets, labels)
            registry.register(own)
            return own

        self._active = Gauge("sluiceway_streams_active", "Live streams.", registry=registry)
        self.active = 0
        self.buffered = Gauge("sluiceway_buffered_bytes", "Bytes logged but not yet written to the fastest reader.",
                              registry=registry)  # fmt: skip
        self.breaker = Gauge("sluiceway_breaker_state", "Circuit: 0 closed, 1 half open, 2 open.", ["target"],
                             registry=registry)  # fmt: skip
        self._streams = counter("sluiceway_streams_total", "Streams by how they ended.", ["status"])
        self.ended: Counts[str] = Counts()  # streams by status, since the last call of `text`
        self._tokens = counter("sluiceway_tokens_total", "Chunks delivered.")
        self.delivered = 0  # counted here first: a counter with a lock is too expensive per token
        self.disconnects = counter("sluiceway_client_disconnects_total", "Readers that left early.", ["reason"])
        self.recoveries = counter("sluiceway_recoveries_total", "Recoveries after content.", ["strategy", "outcome"])
        self.takeovers = counter("sluiceway_takeovers_total", "Takeovers of orphaned streams.", ["strategy", "outcome"])
        self.errors = counter("sluiceway_upstream_errors_total", "Failed attempts.", ["target", "kind"])
        self._ttft = plain("sluiceway_ttft_seconds", "Seconds from acceptance to the first token.", TTFT_BUCKETS,
                           ["target"])  # fmt: skip
        self._phase = plain("sluiceway_upstream_phase_seconds", "Seconds of an attempt's phases.", PHASE_BUCKETS,
                            ["phase", "target"])  # fmt: skip
        self._drain = histogram("sluiceway_client_drain_seconds", "Seconds that a write to a client was blocked.",
                                TTFT_BUCKETS)  # fmt: skip
        self._overhead = plain("sluiceway_overhead_seconds", "Seconds of the gateway's own before its request.",
                               PHASE_BUCKETS, ["target"])  # fmt: skip
        self._loop_lag = histogram("sluiceway_loop_lag_seconds", "Seconds that the event loop's timers were late.",
                               PHASE_BUCKETS)  # fmt: skip
        self._usage = counter("sluiceway_usage_tokens_total", "Tokens of all attempts, counted or estimated.",
                              ["key", "model", "kind"])  # fmt: skip
        self._used: Counts[tuple[str, str, str]] = Counts()  # since the last call of `text`
        self._requests = counter("sluiceway_plain_requests_total", "Requests of plain paths by how they ended.",
                                 ["path", "outcome"])  # fmt: skip
        self._request_time = plain("sluiceway_plain_seconds", "Seconds of whole requests of plain paths.",
                                   TTFT_BUCKETS, ["path"])  # fmt: skip
        self.tools_given_up = counter(
            "sluiceway_tool_calls_given_up_total", "Calls of tools that were given up and did not end."
        )
        self.tools_hanging = Gauge("sluiceway_tool_calls_hanging", "Calls that were given up and still run.",
                                   registry=registry)  # fmt: skip
        # Tasks, memory and descriptors must not grow while streams come and go. ProcessCollector has the latter two.
        self.tasks = Gauge("sluiceway_tasks", "Tasks of the event loop.", registry=registry)
        ProcessCollector(registry=registry)
        self.stats = Stats()
        self.gaps = GapHistogram()
        registry.register(self.gaps)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        self._tokens.inc(self.delivered)
        self.delivered = 0
        self._active.set(self.active)
        for status, count in self.ended.items():
            self._streams.labels(status).inc(count)
        self.ended.clear()
        for labels, count in self._used.items():
            self._usage.labels(*labels).inc(count)
        self._used.clear()
        self.tasks.set(len(asyncio.all_tasks()))
        return generate_latest(self.registry)

    def observe_ttft(self, target: str, seconds: float) -> None:
        """Count one time to first token."""
        self._ttft.of(target).observe(seconds)
        self.stats.count("ttft", seconds, target)

    def observe_drain(self, target: str, seconds: float) -> None:
        """Count one blocked write to a client; `target` is "" for a stream that had ended before this process."""
        self._drain.observe(seconds)
        self.stats.count("drain", seconds, target)

    def observe_lag(self, seconds: float) -> None:
        """Count how late a timer of the event loop was. Everything else that the loop runs was as late."""
        self._loop_lag.observe(seconds)
        self.stats.count("loop_lag", seconds)

    def settle(self) -> None:
        """Add the gaps since the last call to the percentiles. Call this about once a second."""
        for target, counts in self.gaps.settle():
            self.stats.add("inter_token", counts, target)

    def observe_phases(self, target: str, phases: Phases, beginning: Beginning, failure: Kind | None = None) -> None:
        """Count the phases of one attempt, and note how it failed, if it did. `beginning` is that of its stream."""
        durations = self._phases(target, phases)
        if (overhead := phases.overhead) is not None:
            self._overhead.of(target).observe(overhead)
            self.stats.count("overhead", overhead, target)
        error = None if failure is None else failure.value
        self.stats.attempt(beginning.id, beginning.owner, target, durations, error)

    def observe_plain_phases(self, target: str, phases: Phases) -> None:
        """Count the phases of an attempt of a plain path."""
        self._phases(target, phases)

    def count_request(self, path: str, outcome: str, seconds: float) -> None:
        """Count one request of a plain path. `path` is the name of its route."""
        self._requests.labels(path, outcome).inc()
        self._request_time.of(path).observe(seconds)

    def count_usage(self, key: str, model: str, tokens: Mapping[str, int]) -> None:
        """Count tokens by kind. `key` and `model` are names of the configuration: clients must not add series."""
        for kind, count in tokens.items():
            self._used[key, model, kind] += count

    def observe_connecting(self, upstream: str, phases: Phases) -> None:
        """Count the phases of a connection that was opened ahead, and not by an attempt."""
        self._phases(f"{upstream}/*", phases)

    def _phases(self, target: str, phases: Phases) -> dict[str, float]:
        durations = phases.durations()
        for phase, seconds in durations.items():
            self._phase.of(phase, target).observe(seconds)
            self.stats.count(phase, seconds, target)
        return durations
