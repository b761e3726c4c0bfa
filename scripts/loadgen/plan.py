"""The plan of a run: how many streams, of what kinds, for how long."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from .hostile import TOKENS

MOST_OPEN = 20_000
MOST_RATE = 5_000.0  # requests per second
MOST_COUNT = 1_000_000
LONGEST = 3_600.0  # seconds

KINDS = {
    "fast": "reads as fast as it can; the upstream keeps the pace",
    "unpaced": "reads as fast as it can, and so does the upstream write",
    "slow": "reads a few thousand bytes per second of an unpaced upstream",
    "stalled": "stops reading until the gateway has given it up, and resumes by Last-Event-ID",
    "leaves": "closes in the middle; the upstream must be told",
    "resumes": "is cut three times, and resumes by Last-Event-ID each time",
    "cut": "its upstream resets in the middle, and must be asked again",
    "fails": "its upstream answers 500 first",
}


@dataclass(frozen=True)
class Plan:
    """One run. Times are in seconds. Exactly one of `open` and `rate` is not 0."""

    name: str = "mixed"
    open: int = 100  # streams at the same time
    rate: float = 0.0  # requests per second, whether answers come or not
    count: int = MOST_COUNT  # the most streams in all
    ramp: float = 5.0
    seconds: float = 30.0  # after the ramp
    settle: float = 60.0  # until the last streams must have ended
    pace: int = 20  # tokens per second of a paced stream; 0: everything in one write
    tokens: int = 100  # of one paced stream
    unpaced_tokens: int = 1000
    slow_pace: float = 40_000.0  # bytes per second of a slow reader
    drain_timeout: float = 3.0  # the gateway's
    retention: float = 600.0  # the gateway's
    mix: dict[str, int] = field(default_factory=lambda: {"fast": 10, **{kind: 1 for kind in KINDS if kind != "fast"}})
    key: str = ""  # the token of the client; "": the gateway has no keys
    attacks: float = 0.0  # per second, by another owner and its upstream
    tasks: bool = True  # count the tasks of the gateway, which takes a scrape of /metrics

    def model(self, kind: str) -> str:
        """Return the upstream's model for a kind of stream."""
        if kind in ("unpaced", "slow", "stalled"):
            return f"flood-{self.unpaced_tokens}"
        if not self.pace:
            return f"short-{self.tokens}"
        # A restart must repeat the same text. A stamped token cannot be repeated: it holds the time of its sending.
        return f"{'stamped' if kind == 'fast' else 'paced'}-{self.pace}-{self.tokens}"

    def kinds(self) -> Iterator[str]:
        """Yield the kind of each next stream, without end. Rare kinds are spread evenly."""
        owed = dict.fromkeys(self.mix, 0.0)
        total = sum(self.mix.values())
        while True:
            for kind, share in self.mix.items():
                owed[kind] += share / total
            kind = max(owed, key=lambda name: owed[name])
            owed[kind] -= 1
            yield kind

    def starts(self) -> Iterator[float]:
        """Yield the seconds after which each stream begins, or with `open` each slot for one stream after another."""
        if self.open:
            yield from (self.ramp * number / self.open for number in range(self.open))
            return
        ramped = self.rate * self.ramp / 2
        for number in range(self.count):
            start = math.sqrt(2 * number * self.ramp / self.rate) if number < ramped else self.ramp + (
                number - ramped) / self.rate  # fmt: skip
            if start >= self.ramp + self.seconds:
                return
            yield start

    @property
    def most_open(self) -> int:
        """The most streams that may be open at the same time. Each takes two descriptors of the gateway."""
        return self.open or math.ceil(min(self.count, self.rate * 10))


PRESETS = {
    "mixed": Plan(),
    # A stream has ramp + seconds tokens, one per second: all are open from the end of the ramp to the first ending.
    "open": Plan("open", open=9000, ramp=60, seconds=60, pace=1, tokens=120, settle=90, mix={"fast": 1}, tasks=False),
    "short": Plan("short", open=0, rate=200, ramp=2, seconds=60, pace=0, tokens=16, settle=20, mix={"fast": 1}),
    # Ended logs stay for the retention. It is shorter than the run, so that any further growth of memory is a leak.
    "soak": Plan(
        "soak", open=64, count=200_000, ramp=1, seconds=1800, pace=0, tokens=16, settle=20, retention=5, mix={"fast": 1}
    ),
    # Another owner and its upstream attack, as often as an ordinary key may ask.
    "hostile": Plan(
        "hostile", open=20, count=20_000, ramp=2, seconds=600, settle=40, retention=5, tasks=False,
        key=TOKENS["victim"], attacks=8, mix={"fast": 8, "resumes": 1, "slow": 1},
    ),
}  # fmt: skip
