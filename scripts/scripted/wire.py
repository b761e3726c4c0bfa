"""The body of one response on its way to the socket: compression, cuts into writes, HTTP chunks, backpressure."""

import asyncio
import random
import zlib
from collections.abc import Iterator

from scripted.connection import Connection
from scripted.script import Script

# Bytes of one write of a stream without a rate: enough to cost little per token, and few enough not to hold the loop.
BIG_WRITE = 32_768


class Wire:
    """Collects a body and sends it at `flush`. An HTTP chunk is one event, or one piece if the script cuts the body."""

    def __init__(self, connection: Connection, script: Script, *, chunked: bool, gzipped: bool) -> None:
        self._connection = connection
        self._script = script
        self._chunked = chunked
        self._gzip = zlib.compressobj(wbits=31) if gzipped else None
        self._cuts = sizes(script)
        self._delay = script.split_delay
        self._waiting: list[bytes] = []
        self._size = 0
        self._plain = script.split is None

    @property
    def full(self) -> bool:
        """Whether enough bytes wait for a write."""
        return self._size >= BIG_WRITE

    def head(self, head: bytes) -> None:
        """Send the status line and headers; the cuts begin after them."""
        self._connection.write(head)

    def send(self, data: bytes, *, bad_header: bool = False) -> None:
        """Add one event to the body."""
        if self._gzip is not None:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        self._add(b"not-hex\r\n" + data + b"\r\n" if bad_header else self._framed(data))

    async def flush(self) -> None:
        """Write what waits, then wait for the client to take it."""
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        if self._plain:
            self._connection.write(data)
            await self._connection.drain()
            return
        start = 0
        while start < len(data):
            piece = data[start : start + next(self._cuts)]
            start += len(piece)
            self._connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)
            await self._connection.drain()
            await asyncio.sleep(self._delay)  # at least one turn of the loop, so that this write is sent alone

    async def finish(self) -> None:
        """End the body as its transfer coding demands."""
        if self._gzip is not None:
            self._add(self._framed(self._gzip.flush()))
        await self.flush()
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        else:
            self._connection.end()

    def _add(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)

    def _framed(self, data: bytes) -> bytes:
        """Make data an HTTP chunk, unless it will be cut or the body has no chunks."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and self._plain else data


def sizes(script: Script) -> Iterator[int]:
    """Yield the sizes of the pieces that a script cuts its body into, without end."""
    match script.split:
        case "byte":
            fixed = 1
        case "random":
            chance = random.Random(script.seed)  # noqa: S311  # it must be reproducible
            while True:
                yield chance.randint(1, 64)
        case int(size):
            fixed = size
        case list(first):
            yield from first
            fixed = BIG_WRITE
        case _:
            fixed = BIG_WRITE
    while True:
        yield fixed
