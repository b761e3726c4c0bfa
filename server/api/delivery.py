"""Delivery: one client's response. It reads its stream's log, and writes what it reads, at the pace of the client."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Literal

import structlog
from aiohttp import web

from server.aio.event import Event
from server.api.channel import Channel, StalledClientError
from server.api.tcp import cut
from server.config.settings import Flow
from server.core.dialect import Dialect
from server.core.errors import Deleted, StoreError
from server.core.gaps import resume_at
from server.core.records import Record
from server.relay.stream import Stream
from server.streams.live import out_of_reach
from server.telemetry.metrics import Metrics

READ_BYTES = 16_384  # of the log at once: what fits the transport without waiting

Leaving = Literal["gone", "stalled", "ended"]
log = structlog.get_logger("sluiceway.http")


class Delivery(Channel):
    """A reader of a stream that writes to a `StreamResponse`. `cursor`: the last record that the client has."""

    pushed: ClassVar[bool] = True  # by the relay, in its own turn, as long as the client keeps up

    __slots__ = ("cursor", "live", "offset", "wake", "whole")

    def __init__(self, request: web.Request, stream: Stream, cursor: int, flow: Flow, metrics: Metrics) -> None:
        super().__init__(request, stream, flow, metrics)
        self.cursor = cursor
        self.offset = 0
        self.live = False
        self.wake = Event()
        self.whole = False  # the response has been written to its end

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
    def dialect(self) -> Dialect:
        """What this client is shown the stream in."""
        return self._stream.dialect

    async def _follow_safely(self) -> None:
        """Write the stream, and where that cannot be done to its end, say so: nobody takes a part for the whole."""
        opened = self._stream.log
        try:
            with suppress(Deleted):  # told below, as where the log just gives nothing
                await self._follow()
            fault = None if opened.ending else self._stream.fault or out_of_reach()
        except StoreError as error:
            log.warning("log out of reach", error=str(error))
            fault = out_of_reach()
        if fault is not None:  # the client may come back for the rest
            self._write(self.dialect.fault(fault.body()["error"]))
        elif opened.ending is not None and self.cursor < opened.tail:  # its retention is over, or it had to make room
            log.warning("log deleted under its reader", stream_id=self._stream.id, cursor=self.cursor)
            self._write(self.dialect.broken_off(self.cursor, opened.tail, opened.ending))

    async def _follow(self) -> None:
        """Write what is in the log after the cursor, then what comes, until the ending or what is left before it."""
        stream, opened = self._stream, self._stream.log
        while True:
            if self._protocol.writing_paused:
                await self._drain()
            stream.progressed()
            known = opened.tail
            records = await opened.read(self.cursor, READ_BYTES)
            if records:
                self._show(records)
            elif (opened.lost and self._skip_lost()) or opened.tail > known:
                continue  # appended while a store's read was under way: the ending must not be taken for delivered
            elif stream.ended.is_set():
                return
            else:
                await self._news()

    def _show(self, records: Sequence[Record]) -> None:
        """Write the records after the cursor, and move it."""
        first = self.cursor + 1
        self._passed(records)
        self._write(self.dialect.frames(first, records))

    def _passed(self, records: Sequence[Record]) -> None:
        """Move the cursor behind records."""
        self.cursor += len(records)
        self.offset += sum(len(data) for _, data in records)

    def _skip_lost(self) -> bool:
        """Pass over records that the store has lost, and say so; return whether there were any."""
        opened = self._stream.log
        at = resume_at(opened.lost, self.cursor)
        if at == self.cursor:
            return False
        self._write(self.dialect.gap(self.cursor + 1, at + 1, opened.tail))
        self.cursor = at
        return True

    async def _news(self) -> None:
        """Wait for what comes next, live where everything has been read.

        What cannot be read of a log that goes on was lost by its server. The next append finds out: its relay must not
        wait for this reader.
        """
        opened = self._stream.log
        if self.cursor < opened.tail:
            self.offset = opened.size
            self._stream.progressed()
        else:
            self.live = self.pushed
        self.wake.clear()
        await self.wake.wait()
        self.live = False
