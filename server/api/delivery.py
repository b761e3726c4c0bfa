"""Delivery: one client's response, and the only place that writes to a client.

Explicit transport-level flow control: kernel buffers are bounded (`listener.py`), a write never waits by itself, and
`drain()` is awaited only while the transport is paused, under a clock that any acknowledged byte restarts.
"""

import asyncio
import socket
import struct
import time
from typing import Literal

from aiohttp import web
from aiohttp.http import StreamWriter

from server.config import Flow
from server.core.forms import frames
from server.core.sse import HEARTBEAT, retry
from server.flag import Flag
from server.stream import Stream
from server.telemetry.metrics import Metrics

READ_BYTES = 16_384  # of the log at once: what fits the transport without waiting
CLOSE_TIMEOUT = 5.0  # seconds for the last chunk
TCP_INFO = 11
BYTES_ACKED = struct.Struct("=120xQ")  # struct tcp_info: tcpi_bytes_acked is the 64-bit counter at 120 (linux/tcp.h)


Leaving = Literal["gone", "stalled", "ended"]


class StalledClientError(Exception):
    """A write was blocked for `drain_timeout` without one acknowledged byte."""


class Delivery:
    """A reader of a stream that writes to a `StreamResponse`. `cursor`: the last record that the client has."""

    def __init__(self, request: web.Request, stream: Stream, cursor: int, flow: Flow, metrics: Metrics) -> None:
        self.cursor = cursor
        self.offset = 0
        self.live = False
        self.wake = Flag()
        self._request = request
        self._stream = stream
        self._flow = flow
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._writer: StreamWriter
        self._wrote_at = 0.0

    async def run(self, response: web.StreamResponse) -> Leaving:
        """Open the response, deliver to the stream's ending, close it; return how it ended.

        One task group ties this connection's tasks together: whichever ends first ends the others. aiohttp cancels
        this task, and so the group, when the client closes its side.
        """
        leaving: Leaving = "ended"
        try:
            async with asyncio.TaskGroup() as group:
                await self._open(response)
                heartbeat = group.create_task(self._heartbeat())
                await self._follow()
                heartbeat.cancel()
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await response.write_eof()
        except* StalledClientError:
            leaving = "stalled"
        except* (ConnectionError, TimeoutError):
            leaving = "gone"
        if leaving != "ended":
            self._reset()
        return leaving

    def _reset(self) -> None:
        """Cut the connection with a RST: a FIN queues behind what a client does not read, so it would never learn."""
        transport = self._request.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def _open(self, response: web.StreamResponse) -> None:
        self.offset = await self._stream.log.offset(self.cursor)
        writer = await response.prepare(self._request)
        assert isinstance(writer, StreamWriter)
        self._writer = writer

    async def push(self, data: bytes, tail: int, offset: int) -> None:
        """Write frames in the relay's own turn. If they fill the transport, the delivery's own task takes over."""
        self.cursor, self.offset = tail, offset
        try:
            await self._write(data)
        except ConnectionError:
            self._step_aside()  # its own task is told by aiohttp, too
        else:
            if self._request.protocol.writing_paused:
                self._step_aside()

    def _step_aside(self) -> None:
        self.live = False
        self.wake.set()

    async def _follow(self) -> None:
        """Write what is in the log after the cursor, then be live, until the ending has been written."""
        stream = self._stream
        while True:
            if self._request.protocol.writing_paused:
                await self._drain()
            stream.progressed()
            records = await stream.log.read(self.cursor, READ_BYTES)
            if records:
                first = self.cursor + 1
                self.cursor += len(records)
                self.offset += sum(len(data) for _, data in records)
                await self._write(frames(stream.birth, first, records))
            elif stream.ended.is_set():
                if stream.fault is None:
                    return
                raise ConnectionAbortedError(stream.fault.message)
            else:
                self.live = True
                self.wake.clear()
                await self.wake.wait()
                self.live = False

    async def _write(self, data: bytes) -> None:
        if self._request.transport is None:
            raise ConnectionResetError("the client has gone")
        self._wrote_at = self._loop.time()
        await self._writer.write(data, drain=False)

    async def _drain(self) -> None:
        """Wait for the transport to take more, as long as the client acknowledges anything.

        One `drain()` only: after a timed-out one, aiohttp's next drain raises a spurious CancelledError.
        """
        started = time.monotonic()
        clock = _AckClock(self._request, self._flow.drain_timeout)
        try:
            async with clock.running():
                await self._writer.drain()
        except TimeoutError:
            raise StalledClientError from None
        finally:
            self._metrics.drain.observe(time.monotonic() - started)
        if self._request.transport is None or self._request.transport.is_closing():
            raise ConnectionResetError("the client has gone")  # a drain that the loss woke returns silently

    async def _heartbeat(self) -> None:
        """Write a comment whenever nothing has been written for an interval; only between events, never blocked."""
        interval = self._flow.heartbeat_interval
        while True:
            silence = self._loop.time() - self._wrote_at
            if silence >= interval:
                if self._request.protocol.writing_paused:
                    self._wrote_at = self._loop.time()  # there is plenty under way
                else:
                    await self._write(HEARTBEAT)
                silence = 0.0
            await asyncio.sleep(interval - silence)

    async def hang_up(self, milliseconds: int) -> None:
        """Tell the client when to come back and cut the connection without an end, so that it knows to."""
        if not self._request.protocol.writing_paused:
            await self._write(retry(milliseconds))
        if self._request.transport is not None:
            self._request.transport.abort()


class _AckClock:
    """The drain timeout of one blocked write: any byte that the client acknowledges restarts it."""

    def __init__(self, request: web.Request, limit: float) -> None:
        self._request = request
        self._limit = limit
        self._poll = min(1.0, limit / 8)
        self._loop = asyncio.get_running_loop()
        self._acked = self._bytes_acked()
        self._since = self._loop.time()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def running(self) -> asyncio.Timeout:
        """Return the context to wait in; it raises TimeoutError when the clock runs out or the peer is gone."""
        self._timer = self._loop.call_later(self._poll, self._look)
        return self._timeout

    def _look(self) -> None:
        transport, now, acked = self._request.transport, self._loop.time(), self._bytes_acked()
        if acked != self._acked:
            self._acked, self._since = acked, now
        if transport is None or not self._request.protocol.writing_paused:
            return
        if now - self._since >= self._limit or transport.is_closing():
            self._timeout.reschedule(now)
        else:
            self._timer = self._loop.call_later(min(self._poll, self._since + self._limit - now), self._look)

    def _bytes_acked(self) -> int:
        transport = self._request.transport
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is None:
            return 0
        try:
            acked: int = BYTES_ACKED.unpack(sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, BYTES_ACKED.size))[0]
        except (OSError, struct.error):
            return 0
        return acked
