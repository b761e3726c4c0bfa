#!/usr/bin/env python3
"""Many slow readers at once on one SSE endpoint, to see what a server does with clients that fall behind.

Raw sockets, so that a reader takes exactly the bytes a second that it was told to (headers and framing included), and
none at all for 0. Bounded in number and time: it stops by itself. Plain HTTP only.

A server that gives a client up is noticed without reading: a RST shows on the reader's own socket, and because a FIN
cannot pass a full receive window, the other end of a connection within this machine is looked up in /proc/net/tcp.
From then on the reader takes all that is left at once, to see whether the response was whole.
"""

import argparse
import asyncio
import json
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import SplitResult, urlsplit

MOST_READERS = 10_000
LONGEST = 3600.0  # seconds
CONNECTING = 10.0  # seconds for one connection to be made and its request to be taken
CONNECTS = 100  # at a time, below the usual accept queue
TICK = 0.02  # seconds between two reads of one reader
GLANCE = 0.2  # seconds between two looks at the other ends of all connections
AT_ONCE = 262_144  # bytes of one read
HEAD = 16_384  # bytes in which the end of the response head is looked for

# FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK and CLOSING, as /proc/net/tcp writes them.
CLOSING = frozenset(("04", "05", "06", "09", "0B"))


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader met; times are seconds since its request was sent.

    The outcome is `finished` (the response came to its proper end), `detached` (the server closed before that),
    `reading` (still open when the time was up), `refused` (a status other than 200) or `unreachable` (no connection).
    """

    outcome: str
    bytes_read: int = 0  # at its own pace
    bytes_left: int = 0  # on their way when the server closed
    status: int | None = None  # None: did not read as far as that
    detached_at: float | None = None
    seconds: float = 0.0


class Reader:
    """One connection that has sent its request, read whenever someone calls `turn`."""

    def __init__(self, sock: socket.socket, bytes_per_second: float) -> None:
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self.bytes_read = 0
        self.reading: Reading | None = None  # once it is over
        self._pace = bytes_per_second
        self._began = time.monotonic()
        self._bytes_left = 0
        self._closed_at: float | None = None
        self._start = b""  # of the response, at least its head
        self._end = b""

    def turn(self, now: float) -> None:
        """Read what the pace allows by now; after the server has closed, all there is."""
        while self.reading is None:
            allowed = int(self._pace * (now - self._began)) - self.bytes_read
            size = AT_ONCE if self._closed_at is not None else min(allowed, AT_ONCE)
            if size <= 0:
                return
            try:
                data = self.sock.recv(size)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # reset: as much an end as a FIN
            self._take(data, now)

    def server_closed(self, now: float) -> None:
        """Note when the server closed its end; the first notice counts."""
        self._closed_at = self._closed_at or now

    def stop(self, now: float) -> None:
        """End it, because the time is up."""
        if self.reading is None:
            self._over("reading" if self._closed_at is None else "detached", now)

    def _take(self, data: bytes, now: float) -> None:
        if self._closed_at is None:
            self.bytes_read += len(data)
        else:
            self._bytes_left += len(data)
        if b"\r\n\r\n" not in self._start and len(self._start) < HEAD:
            self._start += data
        self._end = (self._end + data)[-1024:]
        whole = self._whole()
        if whole or not data:
            self.server_closed(now)
            refused = self._status() not in (200, None)
            self._over("refused" if refused else "finished" if whole else "detached", now)

    def _whole(self) -> bool:
        """Whether the response is there to its end, by whichever way its head says that it ends."""
        head, _, _ = self._start.lower().partition(b"\r\n\r\n")
        if b"\r\ntransfer-encoding: chunked" in head:
            return self._end.endswith(b"\r\n0\r\n\r\n")
        _, counted, length = head.partition(b"\r\ncontent-length:")
        if counted:
            return self.bytes_read + self._bytes_left >= len(head) + 4 + int(length.split(b"\r\n")[0])
        return b"data: [DONE]" in self._end or b"event: done" in self._end

    def _status(self) -> int | None:
        word = self._start[9:12]
        return int(word) if len(word) == 3 and word.isdigit() else None

    def _over(self, outcome: str, now: float) -> None:
        self.sock.close()
        detached_at = self._closed_at - self._began if outcome == "detached" and self._closed_at else None
        self.reading = Reading(
            outcome, self.bytes_read, self._bytes_left, self._status(), detached_at, seconds=now - self._began
        )


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
    """Let `count` readers read for `seconds` at most; POST the body, or GET if there is none.

    A header is a whole line. `rcvbuf` is SO_RCVBUF in bytes (0: the system's default, which grows). `progress` gets a
    line each second.
    """
    began = time.monotonic()
    target = urlsplit(url)
    if target.scheme != "http" or not target.hostname:
        raise ValueError(f"{url}: not an http:// URL")
    request = written(target, body, headers)
    at_once = asyncio.Semaphore(CONNECTS)
    readers: list[Reader] = []

    async def begin() -> None:
        async with at_once:
            if (sock := await connected(target, request, rcvbuf)) is not None:
                readers.append(Reader(sock, bytes_per_second))

    connecting = asyncio.gather(*(begin() for _ in range(count)))
    watch = Watch(target.port or 80)
    told = 0
    try:
        while (now := time.monotonic()) - began < seconds:
            running = [reader for reader in readers if reader.reading is None]
            if connecting.done() and not running:
                break
            watch.look(running, now)
            for reader in running:
                reader.turn(now)
            if progress is not None and int(now - began) > told:
                told = int(now - began)
                progress(state(told, readers, count))
            await asyncio.sleep(TICK)
    finally:
        connecting.cancel()
        for reader in readers:
            reader.stop(time.monotonic())
    met = [reader.reading for reader in readers if reader.reading is not None]
    return met + [Reading("unreachable")] * (count - len(met))


class Watch:
    """Tells readers that the server has closed, whether or not they read."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._next = 0.0

    def look(self, readers: list[Reader], now: float) -> None:
        """Look at the other ends, unless that was a moment ago."""
        if now < self._next:
            return
        self._next = now + GLANCE
        poll = select.poll()
        for reader in readers:
            poll.register(reader.sock, select.POLLRDHUP)
        gone = {fd for fd, _ in poll.poll(0)}
        ports = closing(self._server_port)
        for reader in readers:
            if reader.sock.fileno() in gone or reader.port in ports:
                reader.server_closed(now)


def closing(server_port: int) -> set[int]:
    """Give the client ports of the connections whose server end, on this machine, is being closed."""
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not (path := Path(table)).exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split(None, 4)
            if state in CLOSING and int(local[-4:], 16) == server_port:
                ports.add(int(remote[-4:], 16))
    return ports


async def connected(target: SplitResult, request: bytes, rcvbuf: int) -> socket.socket | None:
    """Connect and send the request; None if that cannot be done in time."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in (target.hostname or "") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if rcvbuf:  # before connecting: it decides the window that is offered
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        async with asyncio.timeout(CONNECTING):
            await loop.sock_connect(sock, (target.hostname, target.port or 80))
            await loop.sock_sendall(sock, request)
    except (OSError, TimeoutError):
        sock.close()
        return None
    except asyncio.CancelledError:
        sock.close()
        raise
    return sock


def written(target: SplitResult, body: dict[str, Any] | None, headers: Sequence[str]) -> bytes:
    """Write the request; the server is to close after it, as that is what a reader waits for."""
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {target.netloc}", "Connection: close"]
    payload = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    return "\r\n".join([*lines, "Accept: text/event-stream", *headers, "", ""]).encode() + payload


def state(second: int, readers: Sequence[Reader], count: int) -> str:
    """Say in one line how far the readers are."""
    over = [reader.reading.outcome for reader in readers if reader.reading is not None]
    ends = ", ".join(f"{over.count(outcome)} {outcome}" for outcome in sorted(set(over))) or "none over"
    total = sum(reader.bytes_read for reader in readers)
    return f"{second:4} s: {len(readers)} of {count} connected, {ends}, {total:,} bytes read"


def table(readings: Sequence[Reading]) -> str:
    """Show the readers in groups of the same outcome, as lowest, median and highest, and all of them in total."""
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
    """Give the lowest, the median and the highest of some values."""
    return " ".join(format(value, form) for value in (min(values), median(values), max(values))) if values else "-"


def main() -> None:
    """Read the command line, let the readers run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1/chat/completions")
    parser.add_argument("--count", type=int, default=10, help=f"readers, {MOST_READERS} at most")
    parser.add_argument("--bytes-per-second", type=float, default=0, help="of each reader; 0 never reads")
    parser.add_argument("--seconds", type=float, default=60, help=f"until all stop, {LONGEST:.0f} at most")
    parser.add_argument("--rcvbuf", type=int, default=4096, help="SO_RCVBUF in bytes; 0 leaves the system's default")
    parser.add_argument("--model", default="small")
    parser.add_argument("--body", type=json.loads, default={}, help="a JSON object with more fields for the request")
    parser.add_argument("--get", action="store_true", help="GET the URL instead, to read a stream that exists")
    parser.add_argument("--header", action="append", default=[], help="'Name: value'; may be given again")
    parser.add_argument("--json", action="store_true", help="report as JSON")
    args = parser.parse_args()
    if not (0 < args.count <= MOST_READERS and 0 < args.seconds <= LONGEST and args.bytes_per_second >= 0):
        parser.error("--count, --seconds or --bytes-per-second is out of its bounds")
    if not isinstance(args.body, dict):
        parser.error("--body is to be a JSON object")
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, args.count + 100)), most))
    asked = {"model": args.model, "messages": [{"role": "user", "content": "Tell me a long story."}], "stream": True}
    readings = asyncio.run(
        run(
            args.url,
            count=args.count,
            bytes_per_second=args.bytes_per_second,
            seconds=args.seconds,
            rcvbuf=args.rcvbuf,
            body=None if args.get else asked | args.body,
            headers=args.header,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps([asdict(reading) for reading in readings], indent=1) if args.json else table(readings))


if __name__ == "__main__":
    main()
