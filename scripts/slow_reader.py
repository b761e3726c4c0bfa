#!/usr/bin/env python3
"""Connects many slow readers to one SSE endpoint, to see what a server does with clients that fall behind.

Each takes exactly the configured number of bytes per second, headers and framing
included; 0 reads nothing. Their number and the time are bounded, so the program stops by itself. Plain HTTP only.

The program notices without reading if the server closes a connection. A RST shows on the reader's own socket. A FIN
cannot pass a full receive window, so if the server runs on this machine, its end of the connection is looked up in
/proc/net/tcp. After the server has closed, the reader takes all that is left at once, to see whether the response was
whole.
"""

import argparse
import asyncio
import json
import math
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import SplitResult, urlsplit

from lab.options import most_descriptors, number
from lab.reader import Gone, PacedConnection, Response, WrongError, request

MOST_READERS = 10_000
LONGEST = 3600.0  # seconds
CONNECT_TIMEOUT = 10.0  # seconds
MAX_CONNECTING = 100  # connections that are opened at the same time; fewer than a usual accept queue holds
WATCH_INTERVAL = 0.2  # seconds between two looks at the server's ends of all connections
LAST_EVENTS = (b"data: [DONE]", b"event: done")

# FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK and CLOSING in the notation of /proc/net/tcp.
CLOSING = frozenset(("04", "05", "06", "09", "0B"))


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one reader. Times are seconds since its request was sent.

    `outcome` is `finished` (the response was whole), `detached` (the server closed before its end), `reading` (the
    response was still open at the end), `refused` (the status was not 200) or `unreachable` (there was no connection).
    """

    outcome: str
    bytes_read: int = 0  # at its own pace
    bytes_left: int = 0  # read after the server had closed
    status: int | None = None  # None: the reader did not read the status line
    detached_at: float | None = None
    seconds: float = 0.0


class Reader:
    """One client, and the receiver of its connection. `reading` is its result once it is over."""

    def __init__(self, bytes_per_second: float) -> None:
        self.connection = PacedConnection(bytes_per_second)
        self.connected = False
        self.descriptor = self.port = 0  # of its socket
        self.bytes_read = 0
        self.reading: Reading | None = None
        self.done = self.over = False
        self._response = Response()
        self._began = 0.0
        self._bytes_left = 0
        self._closed_at: float | None = None
        self._end = b""

    async def run(
        self, target: SplitResult, message: bytes, rcvbuf: int, until: float, connecting: asyncio.Semaphore
    ) -> None:
        """Connect, send the request, and read until the response or the time is over (CLOCK_MONOTONIC, seconds)."""
        try:
            async with connecting, asyncio.timeout(min(CONNECT_TIMEOUT, until - time.monotonic())):
                await self.connection.open(target.port or 80, host=target.hostname or "", window=rcvbuf)
        except OSError:  # TimeoutError is one
            self.reading = Reading("unreachable")
            return
        sock = self.connection.transport.get_extra_info("socket")
        self.descriptor, self.port = sock.fileno(), sock.getsockname()[1]
        self.connected, self._began = True, time.monotonic()
        try:
            async with asyncio.timeout(until - self._began):
                await self.connection.exchange(message, self)
            outcome = "finished"
        except TimeoutError:
            self._over("detached" if self._closed_at else "reading")
            return
        except (Gone, WrongError):
            self.server_closed()
            outcome = "detached"
        finally:
            self.connection.close()
        self._over(outcome if self._response.status in (0, 200) else "refused")

    def server_closed(self) -> None:
        """Note when the server closed its end, and read what is left at once. Only the first call counts."""
        if self._closed_at is None:
            self._closed_at = time.monotonic()
            self.connection.hurry()

    def take(self, data: bytes, now: float) -> float:  # noqa: ARG002 - other receivers need the time
        """Count bytes, and judge by what the head says whether they end the response."""
        if self._closed_at is None:
            self.bytes_read += len(data)
        else:
            self._bytes_left += len(data)
        self._end = (self._end + self._response.feed(data))[-1024:]
        self.done = self._response.over
        if not (self._response.chunked or self._response.counted):  # its end would be that of the connection
            self.done = any(event in self._end for event in LAST_EVENTS)
        return 0.0

    def place(self) -> str:
        """Return how much it has read."""
        return f"after {self.bytes_read + self._bytes_left} bytes"

    def _over(self, outcome: str) -> None:
        now, status = time.monotonic(), self._response.status or None
        at = self._closed_at - self._began if outcome == "detached" and self._closed_at else None
        self.reading = Reading(outcome, self.bytes_read, self._bytes_left, status, at, seconds=now - self._began)


async def run(
    url: str,
    *,
    count: int,
    bytes_per_second: float = 0,
    seconds: float,
    rcvbuf: int = 4096,
    body: dict[str, Any] | None = None,
    headers: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> list[Reading]:
    """Let `count` readers read for at most `seconds`. They POST the body; without a body they GET.

    Each header is a whole line. `rcvbuf` is SO_RCVBUF in bytes; 0 leaves the system's default, which grows. `progress`
    is called with a line once per second.
    """
    until = time.monotonic() + seconds
    target = urlsplit(url)
    if target.scheme != "http" or not target.hostname:
        raise ValueError(f"{url}: not an http:// URL")
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    # The server closes after the response: a reader waits for that.
    message = request(target.netloc, path, body, ["Connection: close", *headers])
    connecting = asyncio.Semaphore(MAX_CONNECTING)
    readers = [Reader(bytes_per_second) for _ in range(count)]
    watching = asyncio.create_task(watch(readers, target.port or 80, progress))
    try:
        await asyncio.gather(*(reader.run(target, message, rcvbuf, until, connecting) for reader in readers))
    finally:
        watching.cancel()
    return [reader.reading or Reading("unreachable") for reader in readers]


async def watch(readers: list[Reader], server_port: int, progress: Callable[[str], None] | None) -> None:
    """Tell readers that the server has closed, even if they read nothing. Tell their progress once per second."""
    began, told = time.monotonic(), 0
    while True:
        await asyncio.sleep(WATCH_INTERVAL)
        running = [reader for reader in readers if reader.connected and reader.reading is None]
        poll, ports = select.poll(), closing_ports(server_port)
        for reader in running:
            poll.register(reader.descriptor, select.POLLRDHUP)
        hung_up = {descriptor for descriptor, _ in poll.poll(0)}
        for reader in running:
            if reader.descriptor in hung_up or reader.port in ports:
                reader.server_closed()
        if progress is not None and (second := int(time.monotonic() - began)) > told:
            told = second
            progress(progress_line(second, readers))


def closing_ports(server_port: int) -> set[int]:
    """Return the client ports of connections whose server end is on this machine and is being closed."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not (path := Path(table)).exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split(None, 4)
            if state in CLOSING and int(local[-4:], 16) == server_port:
                ports.add(int(remote[-4:], 16))
    return ports


def progress_line(second: int, readers: Sequence[Reader]) -> str:
    """Return one line about the readers' progress."""
    over = [reader.reading.outcome for reader in readers if reader.reading is not None]
    ends = ", ".join(f"{over.count(outcome)} {outcome}" for outcome in sorted(set(over))) or "none over"
    connected, total = (sum(getattr(reader, name) for reader in readers) for name in ("connected", "bytes_read"))
    return f"{second:4} s: {connected} of {len(readers)} connected, {ends}, {total:,} bytes read"


def table(readings: Sequence[Reading]) -> str:
    """Return a table with one line per outcome (lowest, median and highest values), and a line with the total."""
    lines = [f"{'outcome':<12} {'status':>6} {'readers':>7}  {'bytes read':>32}  {'detached at, s':>26}"]
    groups: dict[tuple[str, int | None], list[Reading]] = {}
    for reading in readings:
        groups.setdefault((reading.outcome, reading.status), []).append(reading)
    for (outcome, status), group in sorted(groups.items(), key=str):
        read = spread([reading.bytes_read for reading in group], "10,.0f")
        left = spread([at for reading in group if (at := reading.detached_at) is not None], "8.2f")
        lines.append(f"{outcome:<12} {status or '-':>6} {len(group):>7}  {read:>32}  {left:>26}")
    total = sum(reading.bytes_read for reading in readings)
    lines.append(f"{'total':<12} {'':>6} {len(readings):>7}  {total:>32,}")
    return "\n".join(lines)


def spread(values: Sequence[float], form: str) -> str:
    """Return the lowest, the median and the highest value as text."""
    return " ".join(format(value, form) for value in (min(values), median(values), max(values))) if values else "-"


def main() -> None:
    """Read the command line, run the readers, and print a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8080/v1/chat/completions")
    readers, pace, seconds = number(int, 1, MOST_READERS), number(float, 0, math.inf), number(float, 0.01, LONGEST)
    add("--count", type=readers, default=10, help=f"readers, {MOST_READERS} at most")
    add("--bytes-per-second", type=pace, default=0, help="pace of each reader; 0 never reads")
    add("--seconds", type=seconds, default=60, help=f"seconds until all readers stop, {LONGEST:.0f} at most")
    add("--rcvbuf", type=int, default=4096, help="SO_RCVBUF in bytes; 0 leaves the system's default")
    add("--model", default="small")
    add("--body", type=json.loads, default={}, help="a JSON object with more fields for the request")
    add("--get", action="store_true", help="GET the URL instead, to read a stream that exists")
    add("--header", action="append", default=[], help="'Name: value'; may be given again")
    add("--json", action="store_true", help="report as JSON")
    args = parser.parse_args()
    if not isinstance(args.body, dict):
        parser.error("--body must be a JSON object")
    most_descriptors()
    default_body = {
        "model": args.model,
        "messages": [{"role": "user", "content": "Tell me a long story."}],
        "stream": True,
    }
    readings = asyncio.run(
        run(
            args.url,
            count=args.count,
            bytes_per_second=args.bytes_per_second,
            seconds=args.seconds,
            rcvbuf=args.rcvbuf,
            body=None if args.get else default_body | args.body,
            headers=args.header,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps([asdict(reading) for reading in readings], indent=1) if args.json else table(readings))


if __name__ == "__main__":
    main()
