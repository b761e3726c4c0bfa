"""One connection of a client, and the response that comes on it.

A *receiver* takes what comes and says what is next. So one connection serves every client: one that only collects,
which costs a load the least; one that checks each event at once; one that stops reading for a while.
"""

import asyncio
import math
import socket
from collections.abc import Iterable
from time import monotonic
from typing import NamedTuple, Protocol, Self, cast

import orjson

LAST_CHUNK = b"0\r\n\r\n"
SMALL_WINDOW = 8192  # bytes that the kernel takes for a slow reader: few, so that the server soon cannot write
INTERVAL = 0.05  # seconds that a paced reader rests when it has read all that it may
MOST = 262_144  # bytes that a paced reader reads at once


class WrongError(Exception):
    """What came is not what must come. `kind` says how: lost, repeated, altered, cut or an error of the server."""

    def __init__(self, kind: str, what: bytes) -> None:
        super().__init__(f"{kind}: {what[:300]!r}")
        self.kind = kind


class Gone(ConnectionError):
    """The server closed the connection, or reset it, before the receiver was done."""


class Receiver(Protocol):
    """Takes the bytes of one response."""

    done: bool  # the client wants nothing more
    over: bool  # the response has ended, so that the connection can be used again

    def take(self, data: bytes, now: float) -> float:
        """Take bytes that came at `now` (CLOCK_MONOTONIC, seconds). Return the seconds to rest before the next read.

        Raises WrongError.
        """

    def place(self) -> str:
        """Return how far it came, for an error."""


def request(host: str, path: str, body: object = None, fields: Iterable[str] = ()) -> bytes:
    """Build a request for an event stream: a POST of JSON, or without a body a GET. Each field is a whole line."""
    data = b"" if body is None else orjson.dumps(body)
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", f"Host: {host}"]
    lines += [] if body is None else ["Content-Type: application/json"]
    lines += ["Accept: text/event-stream", *fields]
    lines += [] if body is None else [f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


class Response:
    """One HTTP response as its bytes come. It keeps nothing of the body."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  # by their names in lower case
        self.over = False
        self._raw = b""  # what is not whole yet: the head, or a chunk
        self.chunked = False
        self.counted = False  # it has a length. With neither, it ends with the connection
        self._left = math.inf  # bytes to come of a body that has no chunks

    def feed(self, data: bytes) -> bytes:
        """Take bytes; return what they make whole of the body, without HTTP's framing. Raises WrongError."""
        raw = self._raw + data if self._raw else data
        if not self.status:
            head, found, rest = raw.partition(b"\r\n\r\n")
            if not found:
                self._raw = raw
                return b""
            self._head(head.decode("latin-1"))
            self._raw, raw = b"", rest
        if not self.chunked:
            self._left -= len(raw)
            self.over = self._left <= 0
            return raw
        body, start = b"", 0
        while (end := raw.find(b"\r\n", start)) >= 0:
            try:
                size = int(raw[start:end].partition(b";")[0], 16)
            except ValueError:
                raise WrongError("framing", raw[start:]) from None
            if len(raw) < end + size + 4:
                break
            body += raw[end + 2 : end + 2 + size]
            start = end + size + 4
            if size == 0:
                self.over = True
                break
        self._raw = raw[start:]
        return body

    def _head(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        try:
            self.status = int(first.split()[1])
        except (IndexError, ValueError):
            raise WrongError("framing", first.encode()) from None
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        self.counted = "content-length" in self.headers
        self._left = float(self.headers.get("content-length", math.inf))


class Event(NamedTuple):
    """One event of a stream: its id (None: it has none) and its data."""

    id: int | None
    data: bytes


class EventStream(Response):
    """A response with an event stream, whose events are told. Of a response with another status it keeps the body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self._text = b""  # of an event that is not whole yet

    def events(self, data: bytes) -> list[Event]:
        """Take bytes; return the events that they make whole. Raises WrongError."""
        text = self.feed(data)
        if self.status != 200:
            self.body += text
            return []
        *blocks, self._text = (self._text + text).split(b"\n\n")
        return [event for block in blocks if (event := _event(block)) is not None]


def _event(block: bytes) -> Event | None:
    """Return the event of a block of lines; None for a block of comments."""
    identity, data = None, None
    for line in block.split(b"\n"):
        if line.startswith(b"id: "):
            identity = int(line[4:])
        elif line.startswith(b"data: "):
            data = line[6:]
    return None if data is None else Event(identity, data)


class Collected:
    """The receiver for a load: it only notes when what came, and looks for the end. The parts are checked later."""

    def __init__(self, until: bytes = b"") -> None:
        self.parts: list[tuple[float, bytes]] = []  # arrival in seconds of CLOCK_MONOTONIC, and data
        self.done = self.over = False
        self._until = until  # what ends the exchange for the client, if it comes in one part; empty: only the end

    def take(self, data: bytes, now: float) -> float:
        """Note bytes."""
        self.parts.append((now, data))
        # No event stream has a carriage return. So this can only be HTTP's last chunk, which may come in pieces.
        if data.endswith(LAST_CHUNK) or (len(data) < len(LAST_CHUNK) and self._tail().endswith(LAST_CHUNK)):
            self.done = self.over = True
        elif self._until and self._until in data:
            self.done = True
        return 0.0

    def place(self) -> str:
        """Return the last bytes."""
        return f"after {self._tail()[-300:]!r}"

    def _tail(self) -> bytes:
        return b"".join(data for _, data in self.parts[-len(LAST_CHUNK) :])


class Connection(asyncio.BaseProtocol):  # not Protocol: uvloop would not take PacedConnection for a BufferedProtocol
    """Sends one request at a time, and gives what comes to its receiver."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.usable = True  # for another request
        self._receiver: Receiver | None = None
        self._over: asyncio.Future[None] | None = None

    async def open(self, port: int, *, host: str = "127.0.0.1", window: int = 0) -> Self:
        """Connect; return itself. `window` is SO_RCVBUF in bytes; 0 leaves the system's default, which grows."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            sock.setblocking(False)
            if window:  # set it before connecting: it decides the first window
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            await loop.sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        await loop.create_connection(lambda: self, sock=sock)
        return self

    async def exchange(self, message: bytes, receiver: Receiver) -> None:
        """Send a request; return when the receiver is done.

        Raises:
            WrongError: the receiver found something wrong.
            Gone: the server closed, or reset.

        """
        self._receiver, self._over = receiver, asyncio.get_running_loop().create_future()
        self.transport.write(message)
        try:
            await self._over
        finally:
            self.usable = self.usable and receiver.over
            self._receiver = self._over = None

    def close(self) -> None:
        """Leave at once."""
        self.usable = False
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Let the receiver take what has come, and do what it says."""
        receiver = self._receiver
        if receiver is None:
            return
        try:
            rest = receiver.take(data, monotonic())
        except WrongError as wrong:
            self._end(wrong)
            return
        if receiver.done:
            self._end(None)
        elif rest:
            self.rest(rest)

    def rest(self, seconds: float) -> None:
        """Read nothing for so long."""
        self.transport.pause_reading()
        if seconds < math.inf:
            asyncio.get_running_loop().call_later(seconds, self.go_on)

    def go_on(self) -> None:
        """Read again."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> None:
        """Let the transport close."""

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the exchange that is under way."""
        self.usable = False
        if self._receiver is not None:
            self._end(Gone(f"{error or 'closed'} {self._receiver.place()}"))

    def _end(self, error: Exception | None) -> None:
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)


class PacedConnection(Connection, asyncio.BufferedProtocol):
    """Reads exactly so many bytes per second, counted from its request, headers and framing included."""

    def __init__(self, pace: float) -> None:
        super().__init__()
        self._pace = pace  # 0: it reads nothing
        self._buffer = bytearray(min(MOST, int(pace) + 1))
        self._began = 0.0
        self._read = 0  # bytes

    async def exchange(self, message: bytes, receiver: Receiver) -> None:
        """Send a request; return when the receiver is done. Raises as any connection does."""
        self._began, self._read = monotonic(), 0
        self._slow_down()
        await super().exchange(message, receiver)

    def hurry(self) -> None:
        """Read all that is left at once."""
        self._pace, self._buffer = math.inf, bytearray(MOST)
        self.go_on()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the pace decides
        """Give room for as much as it may read by now."""
        return memoryview(self._buffer)[: max(1, self._allowed())]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self._read += nbytes
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))
        self._slow_down()

    def go_on(self) -> None:
        """Read again, unless the pace does not allow it yet."""
        if self._allowed() > 0:
            super().go_on()
        else:
            self.rest(INTERVAL)

    def _allowed(self) -> int:
        if self._pace == math.inf:
            return MOST
        return int(self._pace * (monotonic() - self._began)) - self._read

    def _slow_down(self) -> None:
        if self._allowed() <= 0 and not self.transport.is_closing():
            self.rest(INTERVAL if self._pace else math.inf)
