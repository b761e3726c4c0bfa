"""A channel: the way of one response to its client, and the only place that writes to one.

Explicit transport-level flow control: kernel buffers are bounded (`listener.py`), a write never waits by itself, and
`drain()` is awaited only while the transport is paused, under a clock that any acknowledged byte restarts.
"""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress

from aiohttp import web
from aiohttp.http import StreamWriter

from server.aio.timers import timer_wheel
from server.api.tcp import AckClock, leave_timeouts_to_us, unanswered
from server.config.settings import Flow
from server.core.openai.sse import HEARTBEAT, retry
from server.relay.stream import Stream
from server.telemetry.metrics import Metrics

VANISHED = 30.0  # seconds without any answer until a client counts as gone (its network is)
WATCH_INTERVAL = 5.0  # seconds between two looks at that


class StalledClientError(Exception):
    """A write was blocked for `drain_timeout` without one acknowledged byte."""


class Channel:
    """Writes a stream's response."""

    __slots__ = (
        "_flow",
        "_in_chunks",
        "_loop",
        "_metrics",
        "_protocol",
        "_request",
        "_stream",
        "_writer",
        "_wrote_at",
    )

    def __init__(self, request: web.Request, stream: Stream, flow: Flow, metrics: Metrics) -> None:
        self._request = request
        self._protocol = request.protocol
        self._stream = stream
        self._flow = flow
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._writer: StreamWriter
        self._in_chunks = False
        self._wrote_at = 0.0

    async def _open(self, response: web.StreamResponse) -> None:
        writer = await response.prepare(self._request)
        assert isinstance(writer, StreamWriter)
        self._writer = writer
        response.headers.clear()  # the head is written as bytes: as objects it would be 2 KB of an open stream
        # Ends the clock of a connection without a request, which begins anew after this one: half a KB.
        self._protocol.keep_alive(True)
        leave_timeouts_to_us(self._request.transport)

    def _write(self, data: bytes) -> None:
        """Hand data to the transport. Raises ConnectionError where the client has gone.

        After the head a chunk of HTTP/1.1 (RFC 9112, 7.1) is written here: what aiohttp's own `write` adds to that, for
        compression and for bodies of a known length, costs as much as the rest of a token's way to its client.
        """
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._wrote_at = self._loop.time()
        if self._in_chunks:
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        try:
            self._writer.write(data, drain=False).send(None)  # a coroutine, which never suspends without `drain`
        except StopIteration:
            self._in_chunks = self._writer.chunked  # the head has gone out with the first write
        else:
            raise RuntimeError("aiohttp's write has suspended")

    async def _drain(self) -> None:
        """Wait for the transport to take more. Once only: after a timed-out `drain()` aiohttp's next one misfires."""
        started = time.monotonic()
        try:
            await self._patiently(self._writer.drain())
        finally:
            blocked = time.monotonic() - started
            self._stream.drained += blocked
            self._metrics.observe_drain(self._stream.label, blocked)
        if self._request.transport is None or self._request.transport.is_closing():
            raise ConnectionResetError("the client has gone")  # a drain that the loss woke returns silently

    async def _patiently(self, write: Awaitable[None]) -> None:
        """Wait for a write as long as the client acknowledges anything within `drain_timeout`, to the last byte."""
        request = self._request
        clock = AckClock(request.transport, lambda: request.protocol.writing_paused, self._flow.drain_timeout)
        try:
            async with clock:
                await write
        except TimeoutError:
            raise StalledClientError from None

    async def _heartbeat(self) -> None:
        """Write a comment whenever nothing has been written for an interval; only between events, never blocked.

        A response that opens with nothing to tell begins with one: aiohttp sends the head with the first write.
        """
        interval = self._flow.heartbeat_interval
        while True:
            silence = self._loop.time() - self._wrote_at
            if silence >= interval:
                if self._request.protocol.writing_paused:
                    self._wrote_at = self._loop.time()  # there is plenty under way
                else:
                    self._write(HEARTBEAT)
                silence = 0.0
            await timer_wheel().sleep(min(interval - silence, WATCH_INTERVAL))
            if unanswered(self._request.transport) >= VANISHED:
                raise ConnectionResetError("the client has vanished")

    async def hang_up(self, milliseconds: int) -> None:
        """Tell the client when to come back and cut the connection without an end, so that it knows to."""
        begun = hasattr(self, "_writer")  # otherwise its response has not opened, and a cut connection says it all
        if begun and not self._request.protocol.writing_paused:
            with suppress(ConnectionError):  # it has just gone by itself
                self._write(retry(milliseconds))
        if self._request.transport is not None:
            self._request.transport.abort()
