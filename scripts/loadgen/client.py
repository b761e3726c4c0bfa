"""The client process. `python -m loadgen.client PLAN` prints a line of figures per second, then the result, as JSON."""

import asyncio
import json
import signal
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import uvloop
from lab.options import most_descriptors
from lab.reader import Gone, WrongError

from .histogram import Histogram
from .plan import Plan
from .streams import Refused, Streams

COMPLAINTS = 20  # the most that are kept
NOTICE_TIME = 0.5  # seconds after the last stream until the upstream must have seen every client leave


class Client:
    """Runs a plan. SIGINT ends it early, with the result so far."""

    def __init__(self, plan: Plan, port: int, upstream_port: int) -> None:
        self._plan = plan
        self._upstream_port = upstream_port
        self._streams = Streams(plan, port, self)
        self._began = 0.0
        self._started = self._ended = self._open = self._failed = 0
        self._tokens = self._bytes = 0
        self._tick_latency = Histogram()
        self._latency = Histogram()  # of tokens after the ramp
        self._ttft = Histogram()  # of all streams
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._resumed: Counter[str] = Counter()
        self._complaints: list[str] = []
        self._stop = asyncio.Event()

    def arrived(self, size: int, events: int, ages: list[float], now: float) -> None:
        """Count what a connection received."""
        self._bytes += size
        self._tokens += events
        if ages:
            counted = self._measuring(now)
            for age in ages:
                self._tick_latency.add(age)
                if counted:
                    self._latency.add(age)

    def _measuring(self, now: float) -> bool:
        return self._plan.ramp <= now - self._began < self._plan.ramp + self._plan.seconds

    async def run(self) -> dict[str, Any]:
        """Run the plan to its end; return the result."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._stop.set)
        self._began = monotonic()
        ticking = asyncio.create_task(self._tick())
        load = asyncio.create_task(self._load())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({load, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in (load, stop, ticking):
            task.cancel()
        for task in (load, stop, ticking):
            with suppress(asyncio.CancelledError):
                await task
        self._line()
        self._streams.close()
        notified = await asyncio.to_thread(self._notified) if self._streams.left else Histogram()
        return {
            "seconds": monotonic() - self._began,
            "interrupted": self._stop.is_set(),
            "started": self._started,
            "ended": self._ended,
            "failed": self._failed,
            "tokens": self._tokens,
            "bytes": self._bytes,
            "latency": self._latency.plain(),
            "ttft": self._ttft.plain(),
            "outcomes": self._outcomes,
            "durations": {kind: each.plain() for kind, each in self._durations.items()},
            "resumed": self._resumed,
            "told": notified.plain(),
            "complaints": self._complaints,
        }

    async def _load(self) -> None:
        plan, kinds = self._plan, self._plan.kinds()
        until = self._began + plan.ramp + plan.seconds
        async with asyncio.TaskGroup() as group:
            for start in plan.starts():
                await asyncio.sleep(max(0.0, self._began + start - monotonic()))
                group.create_task(self._slot(kinds, until) if plan.open else self._one(next(kinds)))

    async def _slot(self, kinds: Iterator[str], until: float) -> None:
        while monotonic() < until and self._started < self._plan.count:
            await self._one(next(kinds))

    async def _one(self, kind: str) -> None:
        number, began = self._started, monotonic()
        self._started += 1
        self._open += 1
        left = self._began + self._plan.ramp + self._plan.seconds + self._plan.settle - began
        try:
            async with asyncio.timeout(left):
                response, resumed = await self._streams.run(kind, number)
        except asyncio.CancelledError:
            self._outcomes[kind]["interrupted"] += 1
            raise
        except (WrongError, Refused, Gone, OSError) as wrong:  # TimeoutError is an OSError
            self._fail(kind, number, wrong)
            return
        finally:
            self._open -= 1
        self._ended += 1
        self._resumed[kind] += resumed
        self._outcomes[kind]["left" if kind == "leaves" else "whole"] += 1
        self._durations[kind].add(monotonic() - began)
        self._ttft.add(response.first_token_at - began)

    def _fail(self, kind: str, number: int, wrong: Exception) -> None:
        self._failed += 1
        match wrong:
            case WrongError():
                outcome = wrong.kind
            case Refused():
                outcome = f"refused {str(wrong)[:3]}"
            case Gone():
                outcome = "connection lost"
            case TimeoutError():
                outcome = "unfinished"
            case _:
                outcome = "no connection"
        self._outcomes[kind][outcome] += 1
        if len(self._complaints) < COMPLAINTS:
            self._complaints.append(f"{kind} {number}: {outcome}: {wrong}")

    async def _tick(self) -> None:
        number = 0
        while True:
            number += 1
            await asyncio.sleep(max(0.0, self._began + number - monotonic()))
            self._line()

    def _line(self) -> None:
        latency, self._tick_latency = self._tick_latency, Histogram()
        figures = {
            "at": monotonic() - self._began,
            "open": self._open,
            "started": self._started,
            "ended": self._ended,
            "failed": self._failed,
            "tokens": self._tokens,
            "p50": latency.percentile(0.5),
            "p99": latency.percentile(0.99),
        }
        print(json.dumps(figures), flush=True)

    def _notified(self) -> Histogram:
        """Return how long after each client had left its upstream was told of it. If it was not, that is a failure."""
        delays = Histogram()
        left = self._streams.left
        time.sleep(NOTICE_TIME)
        with urllib.request.urlopen(f"http://127.0.0.1:{self._upstream_port}/closed") as response:
            closed = json.load(response)
        for tag, when in left.items():
            if tag in closed:
                delays.add(closed[tag] - when)
            else:
                self._failed += 1
                self._outcomes["leaves"]["upstream not told"] += 1
                self._outcomes["leaves"]["left"] -= 1
        return delays


def main() -> None:
    """Read the plan, run it, and print the result."""
    arguments = json.loads(sys.argv[1])
    port, upstream_port = arguments.pop("port"), arguments.pop("upstream_port")
    most_descriptors()

    async def run() -> dict[str, Any]:
        return await Client(Plan(**arguments), port, upstream_port).run()

    print(json.dumps({"result": uvloop.run(run())}), flush=True)


if __name__ == "__main__":
    main()
