"""Prometheus metrics (the contract's names), cheap enough for every token."""

import asyncio
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from server.core.records import Birth
from server.core.timing import Phases
from server.telemetry.histogram import Histogram
from server.telemetry.stats import Stats

TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
GAP_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PHASE_BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)


class Metrics:
    """Every metric of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
            made = Histogram(name, text, buckets, labels)
            registry.register(made)
            return made

        self.active = Gauge("sluiceway_streams_active", "Live streams.", registry=registry)
        self.buffered = Gauge("sluiceway_buffered_bytes", "Bytes logged but not yet written to the fastest reader.",
                              registry=registry)  # fmt: skip
        self.breaker = Gauge("sluiceway_breaker_state", "Circuit: 0 closed, 1 half open, 2 open.", ["target"],
                             registry=registry)  # fmt: skip
        self.streams = counter("sluiceway_streams_total", "Streams by how they ended.", ["status"])
        self._tokens = counter("sluiceway_tokens_total", "Chunks delivered.")
        self.delivered = 0  # counted here first: a locked counter a token is too dear
        self.disconnects = counter("sluiceway_client_disconnects_total", "Readers that left early.", ["reason"])
        self.recoveries = counter("sluiceway_recoveries_total", "Recoveries after content.", ["strategy", "outcome"])
        self.errors = counter("sluiceway_upstream_errors_total", "Failed attempts.", ["target", "kind"])
        self._ttft = histogram("sluiceway_ttft_seconds", "Seconds from acceptance to the first token.", TTFT_BUCKETS,
                               ["target"])  # fmt: skip
        self._phases = histogram("sluiceway_upstream_phase_seconds", "Seconds of an attempt's phases.", PHASE_BUCKETS,
                                 ["phase", "target"])  # fmt: skip
        self.gaps = histogram("sluiceway_inter_token_seconds", "Seconds between two tokens.", GAP_BUCKETS, ["target"])
        self._drain = histogram("sluiceway_client_drain_seconds", "Seconds that a write to a client was blocked.",
                                TTFT_BUCKETS)  # fmt: skip
        self._overhead = histogram("sluiceway_overhead_seconds", "Seconds of the gateway's own before its request.",
                                   PHASE_BUCKETS, ["target"])  # fmt: skip
        self._late = histogram("sluiceway_loop_lag_seconds", "Seconds that the event loop's timers were late.",
                               PHASE_BUCKETS)  # fmt: skip
        # What must not grow while streams come and go; memory and descriptors are ProcessCollector's.
        self.tasks = Gauge("sluiceway_tasks", "Tasks of the event loop.", registry=registry)
        ProcessCollector(registry=registry)
        self.stats = Stats()
        self._windowed = {"ttft": self._ttft, "inter_token": self.gaps, "drain": self._drain,
                          "overhead": self._overhead, "loop_lag": self._late}  # fmt: skip

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        self._tokens.inc(self.delivered)
        self.delivered = 0
        self.tasks.set(len(asyncio.all_tasks()))
        return generate_latest(self.registry)

    def observe_ttft(self, target: str, seconds: float) -> None:
        """Count one time to first token."""
        self._ttft.of(target).observe(seconds)

    def observe_drain(self, target: str, seconds: float) -> None:
        """Count one blocked write to a client; `target` is "" for a stream that had ended before this process."""
        self._drain.of(target).observe(seconds)

    def observe_lag(self, seconds: float) -> None:
        """Count how late a timer of the event loop was: whatever runs on it was as late."""
        self._late.of("").observe(seconds)

    def observe_phases(self, target: str, phases: Phases, birth: Birth) -> None:
        """Count the phases of one attempt of the stream with this birth."""
        durations = self._observe(target, phases)
        if (overhead := phases.overhead) is not None:
            self._overhead.of(target).observe(overhead)
        self.stats.attempt(birth.id, birth.owner, target, durations)

    def observe_connecting(self, upstream: str, phases: Phases) -> None:
        """Count how a connection to an upstream was made that no attempt had asked for."""
        self._observe(f"{upstream}/*", phases)

    def _observe(self, target: str, phases: Phases) -> dict[str, float]:
        durations = phases.durations()
        for phase, seconds in durations.items():
            self._phases.of((phase, target)).observe(seconds)
        return durations

    def settle(self) -> Stats:
        """Bring all that was counted so far to the percentiles, and return them. To be called every second or so."""
        for name, histogram in self._windowed.items():
            for target, counts in histogram.settle():
                self.stats.add(name, counts, str(target))
        for key, counts in self._phases.settle():
            assert isinstance(key, tuple)
            phase, target = key
            self.stats.add(phase, counts, target)
        return self.stats
