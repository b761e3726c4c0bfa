"""Delivery: one client's response, and the only place that writes to a client.

Explicit transport-level flow control: kernel buffers are bounded (`listener.py`), a write never waits by itself, and
`drain()` is awaited only while the transport is paused, under a clock that any acknowledged byte restarts.
"""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Literal

import structlog
from aiohttp import web
from aiohttp.http import StreamWriter

from server.api.tcp import AckClock, cut, mind_own_clock, unanswered
from server.config import Flow
from server.core.errors import StoreError, StreamError
from server.core.forms import frames
from server.core.gaps import fault_event, gap_event, resume_at
from server.core.records import Form
from server.core.sse import HEARTBEAT, retry
from server.flag import Flag
from server.stream import Stream
from server.telemetry.metrics import Metrics
from server.wheel import wheel

READ_BYTES = 16_384  # of the log at once: what fits the transport without waiting
VANISHED = 30.0  # seconds without any answer until a client counts as gone (its network is)
WATCH_INTERVAL = 5.0  # seconds between two looks at that

Leaving = Literal["gone", "stalled", "ended"]
log = structlog.get_logger("sluiceway.http")


def out_of_reach(error: StoreError) -> StreamError:
    """Return what a reader is told of a log that cannot be read."""
    log.warning("log out of reach", error=str(error))
    return StreamError("The log of this stream is out of reach.", "store_unavailable", 503, retryable=True)


class StalledClientError(Exception):
    """A write was blocked for `drain_timeout` without one acknowledged byte."""


class Delivery:
    """A reader of a stream that writes to a `StreamResponse`. `cursor`: the last record that the client has."""

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
        "cursor",
        "live",
        "offset",
        "wake",
        "whole",
    )

    def __init__(self, request: web.Request, stream: Stream, cursor: int, flow: Flow, metrics: Metrics) -> None:
        self.cursor = cursor
        self.offset = 0
        self.live = False
        self.wake = Flag()
        self.whole = False  # the response has been written to its end
        self._request = request
        self._protocol = request.protocol
        self._stream = stream
        self._flow = flow
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._writer: StreamWriter
        self._in_chunks = False
        self._wrote_at = 0.0

    async def run(self, response: web.StreamResponse) -> Leaving:
        """Open the response, deliver to the stream's ending, close it; return how it ended.

        One task group ties this connection's tasks together: whichever ends first ends the others. aiohttp cancels
        this task, and so the group, when the client closes its side. Raises StoreError before anything is written.
        """
        self.offset = await self._stream.log.offset(self.cursor)
        leaving: Leaving = "ended"
        try:
            async with asyncio.TaskGroup() as group:
                await self._open(response)
                heartbeat = group.create_task(self._heartbeat())
                await self._follow_safely()
                heartbeat.cancel()
                await self._patiently(response.write_eof())
                self.whole = True
        except* StalledClientError:
            leaving = "stalled"
        except* ConnectionError:
            leaving = "gone"
        if leaving != "ended":
            cut(self._request.transport)
        return leaving

    async def _open(self, response: web.StreamResponse) -> None:
        writer = await response.prepare(self._request)
        assert isinstance(writer, StreamWriter)
        self._writer = writer
        response.headers.clear()  # the head is written as bytes: as objects it would be 2 KB of an open stream
        # Ends the clock of a connection without a request, which begins anew after this one: half a KB.
        self._protocol.keep_alive(True)
        mind_own_clock(self._request.transport)

    def push(self, data: bytes, tail: int, offset: int) -> None:
        """Write frames in the relay's own turn. If they fill the transport, the delivery's own task takes over."""
        self.cursor, self.offset = tail, offset
        try:
            self._write(data)
        except ConnectionError:
            self._step_aside()  # its own task is told by aiohttp, too
        else:
            if self._protocol.writing_paused:
                self._step_aside()

    def _step_aside(self) -> None:
        self.live = False
        self.wake.set()

    @property
    def form(self) -> Form:
        """What this client is shown."""
        return self._stream.birth.form

    async def _follow_safely(self) -> None:
        """Write the stream; where its log is out of reach, say so and end: the client may come back for the rest."""
        try:
            await self._follow()
            fault = None if self._stream.log.ending else self._stream.fault
        except StoreError as error:
            fault = out_of_reach(error)
        if fault is not None:
            self._write(fault_event(self.form, fault.body()["error"]))

    def _skip_lost(self) -> bool:
        """Pass over records that the store has lost, and say so; return whether there were any."""
        opened = self._stream.log
        at = resume_at(opened.lost, self.cursor)
        if at == self.cursor:
            return False
        self._write(gap_event(self.form, self.cursor + 1, at + 1, opened.tail))
        self.cursor = at
        return True

    async def _follow(self) -> None:
        """Write what is in the log after the cursor, then be live, until the ending has been written."""
        stream = self._stream
        while True:
            if self._protocol.writing_paused:
                await self._drain()
            stream.progressed()
            records = await stream.log.read(self.cursor, READ_BYTES)
            if records:
                first = self.cursor + 1
                self.cursor += len(records)
                self.offset += sum(len(data) for _, data in records)
                self._write(frames(stream.birth, first, records))
            elif stream.log.lost and self._skip_lost():
                continue
            elif self.cursor < stream.log.tail:
                continue  # appended while a store's read was under way: the ending must not be taken for delivered
            elif stream.ended.is_set():
                return
            else:
                self.live = True
                self.wake.clear()
                await self.wake.wait()
                self.live = False

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
            await wheel().sleep(min(interval - silence, WATCH_INTERVAL))
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
