"""The rows of the table: what is measured, on which relays, and the goal."""

import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import monotonic, sleep

from lab.script import frame_size

from .relays import PATHS, Relay
from .work import BenchError, core_to_itself, cpu_of, load, memory_of_idle

Sample = tuple[float, ...]  # one measurement: one figure, or two, as median and 99th percentile


@dataclass(frozen=True)
class Setting:
    """What a measurement needs besides the relay."""

    upstream: Relay  # in the form of a relay, to measure requests that go there directly
    quick: bool  # the same work, but less of it


@dataclass(frozen=True)
class Scenario:
    """One row."""

    name: str
    what: str
    unit: str
    measure: Callable[[Relay, Setting], Sample]
    ratio: float | None = None  # goal: at most so many times the baseline, by the last figure
    bare: float | None = None  # goal: also at most so many times the bare relay
    limits: Sample = ()  # goal: each figure is below this, in the unit
    subject: str = "memory"  # the relay that the goal is for: the gateway, by its store or dialect
    baseline: str = "nginx"  # the relay that its ratio is to
    others: tuple[str, ...] = ("nginx", "bare")  # the relays measured beside it
    fresh: bool = False  # start a new process for each measurement: the first one changes it
    rounds: int = 5

    @property
    def contestants(self) -> tuple[str, ...]:
        """Return the names of the relays, in the order of each round."""
        return tuple(dict.fromkeys((*self.others, self.baseline, self.subject)))

    def reach(self) -> str:
        """Return the goal, as text."""
        if self.ratio is not None:
            also = "" if self.bare is None else f", {self.bare:g} x bare"
            return f"at most {self.ratio:g} x {self.baseline}{also}"
        return f"under {' / '.join(f'{limit:g}' for limit in self.limits)} {self.unit}" if self.limits else "—"


def paced(relay: Relay, setting: Setting) -> Sample:
    """Measure the CPU per token of 200 streams of 50 tokens per second, with their requests."""
    return (_microseconds_a_token(relay, f"paced-50-{25 if setting.quick else 250}", connections=200),)


def flood(relay: Relay, setting: Setting) -> Sample:
    """Measure the CPU per token of 8 streams at full speed."""
    with core_to_itself(relay, setting.upstream):
        return (_microseconds_a_token(relay, f"flood-{2000 if setting.quick else 20000}", connections=8),)


def short(relay: Relay, setting: Setting) -> Sample:
    """Measure the CPU of a request with 16 tokens, over 8 keep-alive connections."""
    seconds, result = cpu_of(relay, model="short-16", connections=8, requests=25 if setting.quick else 250)
    return (seconds / result["requests"] * 1e3,)


def first_token(relay: Relay, setting: Setting) -> Sample:
    """Measure what the relay adds to the median and the 99th percentile of the time to the first token."""
    seconds = 1 if setting.quick else 6
    result = load("first_token", relay, model="short-16", direct=setting.upstream.port, rate=50, seconds=seconds)
    return _added(result["relayed"], result["direct"])


def burst(relay: Relay, setting: Setting) -> Sample:
    """Measure the median time to the first token of 200 streams that open at once."""
    connections = 20 if setting.quick else 200
    model = "paced-50-50"
    waits = [load("streams", relay, model=model, connections=connections)["waits"]["p50"] for _ in range(3)]
    return (median(waits) * 1e3,)


def idle(relay: Relay, setting: Setting) -> Sample:
    """Measure the memory of an open stream that waits for its next token."""
    load(
        "streams", relay, model="short-16", connections=8, requests=25
    )  # so that what is allocated once is there already
    return (memory_of_idle(relay, 100 if setting.quick else 1000, "idle") / 1024,)


def cancel(relay: Relay, setting: Setting) -> Sample:
    """Measure the time from a client's leaving to the upstream's notice: median and largest."""
    count = 5 if setting.quick else 50
    times = load("disconnect", relay, model="idle", direct=setting.upstream.port, requests=count)["cancelled"]
    return times["p50"] * 1e3, times["max"] * 1e3


def token_latency(relay: Relay, setting: Setting) -> Sample:
    """Measure the latency that the relay adds to a token, at 10,000 tokens per second."""
    model = f"stamped-50-{25 if setting.quick else 150}"
    relayed = load("streams", relay, model=model, connections=200)["latencies"]
    direct = load("streams", setting.upstream, model=model, connections=200)["latencies"]
    return _added(relayed, direct)


STORED = "flood-20000"  # with 8 of these on the disk a cost that comes once, as a write-ahead log, hardly counts


def disk(relay: Relay, setting: Setting) -> Sample:
    """Measure how many bytes the files of the store grow per token."""
    before = _bytes_in(relay)
    tokens = load("streams", relay, model="flood-500" if setting.quick else STORED, connections=8)["tokens"]
    sleep(2.5)  # each second the sweep of the store gives back what it does not need
    return ((_bytes_in(relay) - before) / tokens,)


def resume(relay: Relay, setting: Setting) -> Sample:
    """Measure the time to the first byte of a stream of 10,000 records that is resumed in its middle."""
    records = 1000 if setting.quick else 10000
    stream = load("streams", relay, model=f"flood-{records}")["streams"][0]
    request = urllib.request.Request(
        f"http://127.0.0.1:{relay.port}/v1/streams/{stream}", headers={"Last-Event-ID": str(records // 2)}
    )
    times = []
    for _ in range(5):
        began = monotonic()
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            answer.read(1)
            times.append((monotonic() - began) * 1e3)
            if records // 2 > answer.read().count(b"\n\n"):
                raise BenchError(f"resumed, stream {stream} was not whole")
    return (median(times),)


def _microseconds_a_token(relay: Relay, model: str, connections: int) -> float:
    seconds, result = cpu_of(relay, model=model, connections=connections)
    tokens: int = result["tokens"]
    return seconds / tokens * 1e6


def _added(relayed: dict[str, float], direct: dict[str, float]) -> Sample:
    """Return the milliseconds that the relay adds to the median and to the 99th percentile."""
    return tuple((relayed[name] - direct[name]) * 1e3 for name in ("p50", "p99"))


def _bytes_in(relay: Relay) -> int:
    """Return the size of the store: all files in the relay's folder but its log."""
    return sum(
        file.stat().st_size for file in relay.folder.rglob("*") if file.is_file() and not file.name.endswith("log")
    )


def _store_row(
    store: str,
    name: str,
    what: str,
    unit: str,
    measure: Callable[[Relay, Setting], Sample],
    *,
    ratio: float | None = None,
    baseline: str = "memory",
    limits: Sample = (),
    fresh: bool = False,
) -> Scenario:
    """Build a row of a durable store, beside the gateway with the memory store."""
    return Scenario(
        f"{store}-{name}",
        f"{store}: {what}",
        unit,
        measure,
        ratio=ratio,
        limits=limits,
        subject=store,
        baseline=baseline,
        others=(),
        fresh=fresh,
        rounds=3,
    )


PACED = "CPU per token, 200 streams of 50 tokens/s"
ROWS = [
    Scenario("paced", PACED, "µs", paced, ratio=2.0, bare=0.85),
    Scenario("flood", "CPU per token, 8 streams unpaced", "µs", flood, ratio=0.8, rounds=9),
    Scenario("short", "CPU of a 16-token request", "ms", short, ratio=3.2, baseline="bare"),
    Scenario(
        "latency",
        "added latency of a token at 10,000 tokens/s, p50 / p99",
        "ms",
        token_latency,
        ratio=1.0,
        baseline="bare",
    ),
    Scenario("burst", "time to first token, 200 at once, median", "ms", burst, ratio=1.1, baseline="bare"),
    Scenario(
        "ttft", "added time to first token at 50 requests/s, p50 / p99", "ms", first_token, limits=(2, 10), rounds=3
    ),
    Scenario("idle", "memory of an open idle stream", "KB", idle, limits=(28,), fresh=True, rounds=3),
    Scenario(
        "cancel", "upstream cancelled after a disconnect, median / max of 50", "ms", cancel, limits=(20, 100), rounds=3
    ),
]
STORE_ROWS = [
    row
    for store, request in (("sqlite", 4.2), ("redis", 4.8))
    for row in (
        _store_row(
            store, "paced", "CPU per token, 200 streams of 50 tokens/s", "µs", paced, ratio=2.5, baseline="nginx"
        ),
        _store_row(store, "short", "CPU of a 16-token request", "ms", short, ratio=request, baseline="bare"),
        _store_row(
            store,
            "latency",
            "added latency of a token at 10,000 tokens/s, p50 / p99",
            "ms",
            token_latency,
            limits=(3, 20),
        ),
        _store_row(
            store,
            "disk",
            f"bytes on disk per token, whose frame has {frame_size(STORED)}",
            "B",
            disk,
            limits=(1.2 * frame_size(STORED),),
            fresh=True,
        ),
        _store_row(store, "resume", "first byte of a 10,000-record stream read again", "ms", resume, limits=(50,)),
    )
]
DIALECT_ROWS = [
    Scenario(
        name, f"{name}: {PACED}, beside chat's", "µs", paced, ratio=1.5, subject=name, baseline="memory", others=()
    )
    for name in PATHS
]
SCENARIOS = {row.name: row for row in (*ROWS, *STORE_ROWS, *DIALECT_ROWS)}
