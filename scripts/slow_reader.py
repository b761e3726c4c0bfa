#!/usr/bin/env python3
"""Connects many slow readers to one SSE endpoint, to see what a server does with clients that fall behind.

The readers use raw sockets. So each takes exactly the configured number of bytes per second, headers and framing
included; 0 reads nothing. Their number and the time are bounded, so the program stops by itself. Plain HTTP only.

The program notices without reading if the server closes a connection. A RST shows on the reader's own socket. A FIN
cannot pass a full receive window, so if the server runs on this machine, its end of the connection is looked up in
/proc/net/tcp. After the server has closed, the reader takes all that is left at once, to see whether the response was
whole.
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
CONNECT_TIMEOUT = 10.0  # seconds to connect and to send the request
MAX_CONNECTING = 100  # connections that are opened at the same time; fewer than a usual accept queue holds
READ_INTERVAL = 0.02  # seconds between two reads of one reader
WATCH_INTERVAL = 0.2  # seconds between two looks at the server's ends of all connections
READ_SIZE = 262_144  # most bytes of one read
MAX_HEAD = 16_384  # bytes in which the response head must end

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
    """One connection that has sent its request. Each call of `turn` reads from it."""

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
        """Read as much as the pace allows by now. After the server has closed, read everything."""
        while self.reading is None:
            allowed = int(self._pace * (now - self._began)) - self.bytes_read
            size = READ_SIZE if self._closed_at is not None else min(allowed, READ_SIZE)
            if size <= 0:
                return
            try:
                data = self.sock.recv(size)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # a reset is an end, like a FIN
            self._take(data, now)

    def server_closed(self, now: float) -> None:
        """Note when the server closed its end. Only the first call counts."""
        self._closed_at = self._closed_at or now

    def stop(self, now: float) -> None:
        """End the reader, because the time is up."""
        if self.reading is None:
            self._over("reading" if self._closed_at is None else "detached", now)

    def _take(self, data: bytes, now: float) -> None:
        if self._closed_at is None:
            self.bytes_read += len(data)
        else:
            self._bytes_left += len(data)
        if b"\r\n\r\n" not in self._start and len(self._start) < MAX_HEAD:
            self._start += data
        self._end = (self._end + data)[-1024:]
        whole = self._whole()
        if whole or not data:
            self.server_closed(now)
            refused = self._status() not in (200, None)
            self._over("refused" if refused else "finished" if whole else "detached", now)

    def _whole(self) -> bool:
        """Whether the response is whole, judged by what its head says about its end."""
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
    """Let `count` readers read for at most `seconds`. They POST the body; without a body they GET.

    Each header is a whole line. `rcvbuf` is SO_RCVBUF in bytes; 0 leaves the system's default, which grows. `progress`
    is called with a line once per second.
    """
    began = time.monotonic()
    target = urlsplit(url)
    if target.scheme != "http" or not target.hostname:
        raise ValueError(f"{url}: not an http:// URL")
    request = request_bytes(target, body, headers)
    limit = asyncio.Semaphore(MAX_CONNECTING)
    readers: list[Reader] = []

    async def begin() -> None:
        async with limit:
            if (sock := await connect(target, request, rcvbuf)) is not None:
                readers.append(Reader(sock, bytes_per_second))

    connecting = asyncio.gather(*(begin() for _ in range(count)))
    watch = Watch(target.port or 80)
    reported = 0  # the last second for which `progress` was called
    try:
        while (now := time.monotonic()) - began < seconds:
            running = [reader for reader in readers if reader.reading is None]
            if connecting.done() and not running:
                break
            watch.look(running, now)
            for reader in running:
                reader.turn(now)
            if progress is not None and int(now - began) > reported:
                reported = int(now - began)
                progress(progress_line(reported, readers, count))
            await asyncio.sleep(READ_INTERVAL)
    finally:
        connecting.cancel()
        for reader in readers:
            reader.stop(time.monotonic())
    readings = [reader.reading for reader in readers if reader.reading is not None]
    return readings + [Reading("unreachable")] * (count - len(readings))


class Watch:
    """Tells readers that the server has closed, even if they read nothing."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._next = 0.0

    def look(self, readers: list[Reader], now: float) -> None:
        """Look at the server's ends, unless the last look was a moment ago."""
        if now < self._next:
            return
        self._next = now + WATCH_INTERVAL
        poll = select.poll()
        for reader in readers:
            poll.register(reader.sock, select.POLLRDHUP)
        hung_up = {fd for fd, _ in poll.poll(0)}
        ports = closing_ports(self._server_port)
        for reader in readers:
            if reader.sock.fileno() in hung_up or reader.port in ports:
                reader.server_closed(now)


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


async def connect(target: SplitResult, request: bytes, rcvbuf: int) -> socket.socket | None:
    """Connect and send the request. Return None if that fails or takes too long."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in (target.hostname or "") else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if rcvbuf:  # set it before connecting: it decides the first window
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await loop.sock_connect(sock, (target.hostname, target.port or 80))
            await loop.sock_sendall(sock, request)
    except (OSError, TimeoutError):
        sock.close()
        return None
    except asyncio.CancelledError:
        sock.close()
        raise
    return sock


def request_bytes(target: SplitResult, body: dict[str, Any] | None, headers: Sequence[str]) -> bytes:
    """Return the request as bytes. It asks the server to close after the response: a reader waits for that."""
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {target.netloc}", "Connection: close"]
    payload = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    return "\r\n".join([*lines, "Accept: text/event-stream", *headers, "", ""]).encode() + payload


def progress_line(second: int, readers: Sequence[Reader], count: int) -> str:
    """Return one line about the readers' progress."""
    over = [reader.reading.outcome for reader in readers if reader.reading is not None]
    ends = ", ".join(f"{over.count(outcome)} {outcome}" for outcome in sorted(set(over))) or "none over"
    total = sum(reader.bytes_read for reader in readers)
    return f"{second:4} s: {len(readers)} of {count} connected, {ends}, {total:,} bytes read"


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
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1/chat/completions")
    parser.add_argument("--count", type=int, default=10, help=f"readers, {MOST_READERS} at most")
    parser.add_argument("--bytes-per-second", type=float, default=0, help="pace of each reader; 0 never reads")
    parser.add_argument(
        "--seconds", type=float, default=60, help=f"seconds until all readers stop, {LONGEST:.0f} at most"
    )
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
        parser.error("--body must be a JSON object")
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most, args.count + 100)), most))
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
