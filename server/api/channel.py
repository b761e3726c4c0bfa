"""A channel: the way of one response to its client. Nothing else writes to a client.

The channel controls the flow at the transport. The kernel's buffers are bounded (`listener.py`), and a write never
waits by itself. `drain()` is awaited only while the transport is paused, under a clock that any acknowledged byte
restarts.
"""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from server.aio.aiohttp_internals.writing import (
    CHUNK,
    end_now,
    forget_head,
    stop_idle_clock,
    takes_chunks,
    write_now,
)
from server.aio.timers import timer_wheel
from server.api.connection import Connection
from server.api.tcp import AckClock, cut, unanswered
from server.config.settings import Flow
from server.core.openai.sse import HEARTBEAT, retry
from server.relay.stream import Stream
from server.telemetry.metrics import Metrics

VANISHED = 30.0  # seconds without any acknowledgement after which a client counts as gone, with its network
WATCH_INTERVAL = 5.0  # seconds between two looks at the acknowledgements


class StalledClientError(Exception):
    """A write was blocked, and the client acknowledged no byte for `drain_timeout`."""


class Channel:
    """Writes a stream's response. Between `_open` and `_close` it is a timer, which writes heartbeats.

    That is a timer and not a task, which would cost a request a twentieth, and an idle stream 2 KB.
    """

    __slots__ = (
        "_due",
        "_flow",
        "_in_chunks",
        "_is_open",
        "_loop",
        "_metrics",
        "_opened_at",
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
        self._writer: AbstractStreamWriter  # once it is open
        self._is_open = False
        self._opened_at = 0.0
        self._due = 0  # the slot of the timer; 0: it does not run
        self._in_chunks = False
        self._wrote_at = 0.0  # 0: nothing has been written

    async def _open(self, response: web.StreamResponse) -> None:
        writer = await response.prepare(self._request)
        assert writer is not None  # the response was not prepared before
        self._writer, self._is_open = writer, True
        forget_head(response)
        stop_idle_clock(self._protocol)
        assert isinstance(self._protocol, Connection)
        self._protocol.leave_timeouts_to_us()
        self._opened_at = self._loop.time()
        self._due_after(self._flow.heartbeat_interval)

    def _close(self) -> None:
        """Stop the timer."""
        if self._due:
            timer_wheel().drop(self._due, self)
            self._due = 0

    def _write(self, data: bytes) -> None:
        """Hand data to the transport. Raises ConnectionError if the client has gone."""
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._wrote_at = self._loop.time()
        if self._in_chunks:
            transport.write(CHUNK % (len(data), data))
        else:
            write_now(self._writer, data)
            self._in_chunks = takes_chunks(self._writer)  # the head has gone out with the first write

    async def _end(self, response: web.StreamResponse) -> None:
        """Write the end of the body. Raises StalledClientError, or ConnectionError if the client has gone."""
        if not end_now(self._writer):
            await self._patiently(response.write_eof())
        elif self._protocol.writing_paused:
            await self._patiently(self._writer.drain())

    async def _drain(self) -> None:
        """Wait for the transport to take more. After a timeout do not call it again: aiohttp's next `drain()` misfires.

        Raises StalledClientError, or ConnectionError if the client has gone.
        """
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
        """Wait for a write while the client acknowledges a byte now and then, at least one per `drain_timeout`.

        Raises StalledClientError.
        """
        request = self._request
        clock = AckClock(request.transport, lambda: request.protocol.writing_paused, self._flow.drain_timeout)
        try:
            async with clock:
                await write
        except TimeoutError:
            raise StalledClientError from None

    def _due_after(self, seconds: float) -> None:
        self._due = timer_wheel().put(self._loop.time() + min(seconds, WATCH_INTERVAL), self)

    def due(self) -> None:
        """Write a comment if nothing has been written for an interval: between events, and never while blocked.

        A client that has vanished is cut off. aiohttp then cancels the task that delivers.
        """
        if not self._due:
            return  # it was stopped in this tick
        transport, interval = self._request.transport, self._flow.heartbeat_interval
        silence = self._loop.time() - (self._wrote_at or self._opened_at)
        try:
            if unanswered(transport) >= VANISHED:
                raise ConnectionResetError("the client has vanished")
            if silence >= interval:
                silence = 0.0
                if self._protocol.writing_paused:
                    self._wrote_at = self._loop.time()  # the client has plenty to read
                else:
                    self._write(HEARTBEAT)
        except ConnectionError:
            self._due = 0
            cut(transport)
        else:
            self._due_after(interval - silence)

    async def hang_up(self, milliseconds: int) -> None:
        """Tell the client when to come back. Then cut the connection without an end, so that the client does."""
        # Without a response yet the client comes back unasked.
        if self._is_open and not self._request.protocol.writing_paused:
            with suppress(ConnectionError):  # the client has just gone by itself
                self._write(retry(milliseconds))
        if self._request.transport is not None:
            self._request.transport.abort()
