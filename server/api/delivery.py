"""Delivery: the response of one client. It reads the stream's log and writes to the client, at the client's pace."""

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Literal

import structlog
from aiohttp import web

from server.aio.event import Event
from server.aio.pacing import StartPacer
from server.api.channel import Channel, StalledClientError
from server.api.tcp import cut
from server.config.settings import Flow
from server.core.dialect import Dialect
from server.core.errors import Deleted, StoreError
from server.core.openai.sse import HEARTBEAT
from server.core.projection import Projection
from server.core.records import Record, resume_at
from server.relay.stream import Stream
from server.streams.live import out_of_reach
from server.telemetry.metrics import Metrics

READ_BYTES = 16_384  # of the log per read: this much fits the transport without waiting
KEEPS_UP = 16  # records that a reader of a live stream may be behind

Leaving = Literal["gone", "stalled", "ended"]
log = structlog.get_logger("sluiceway.http")


class Delivery(Channel):
    """A stream's reader that writes to a `StreamResponse`. `cursor`: the number of the client's last record."""

    pushed: ClassVar[bool] = True  # the relay writes to it, in its own turn, as long as the client keeps up

    __slots__ = ("_early", "cursor", "live", "offset", "wake", "whole")

    def __init__(self, request: web.Request, stream: Stream, cursor: int, flow: Flow, metrics: Metrics) -> None:
        super().__init__(request, stream, flow, metrics)
        self.cursor = cursor
        self.offset = 0
        self.live = False
        self.wake = Event()
        self.whole = False  # the response was written to its end
        self._early: list[bytes] | None = None  # what was pushed before the response was open; None: it is written

    def expect(self) -> None:
        """Let what comes before the response is open be kept here. A log would have to be read for it, maybe far away.

        Only a reader that begins with its stream can do so.
        """
        if self.pushed and not self.cursor and not self._stream.log.tail:
            self._early, self.live = [], True

    async def run(self, response: web.StreamResponse) -> Leaving:
        """Open the response, deliver to the stream's ending, close it; return how it ended.

        When the client closes its side, aiohttp cancels this task.

        Raises:
            StoreError: the log cannot be read. Nothing was written yet.

        """
        if self._early is None:
            self.offset = await self._stream.log.offset(self.cursor)
        leaving: Leaving = "ended"
        try:
            await self._open(response)
            await self._follow_safely()
            await self._end(response)
            self.whole = True
        except StalledClientError:
            leaving = "stalled"
        except ConnectionError:
            leaving = "gone"
        finally:
            self._close()
        if leaving != "ended":
            cut(self._request.transport)
        return leaving

    def push(self, data: bytes, tail: int, offset: int) -> None:
        """Write frames in the relay's own turn. If they fill the transport, the delivery's own task takes over."""
        self.cursor, self.offset = tail, offset
        if self._early is not None:
            self._early.append(data)
            if offset > READ_BYTES:
                self._step_aside()
            return
        try:
            self._write(data)
        except ConnectionError:
            self._step_aside()  # aiohttp also tells the delivery's own task
        else:
            if self._protocol.writing_paused:
                self._step_aside()

    def _step_aside(self) -> None:
        self.live = False
        self.wake.set()

    @property
    def dialect(self) -> Dialect:
        """The dialect in which this client gets the stream."""
        return self._stream.dialect

    async def _follow_safely(self) -> None:
        """Write the stream. If that breaks off, tell the client, so that it does not take a part for the whole."""
        stream_log = self._stream.log
        try:
            with suppress(Deleted):  # handled below, like a deleted log that returns no records
                await self._follow()
            fault = None if stream_log.ending else self._stream.fault or out_of_reach()
        except StoreError as error:
            log.warning("log out of reach", error=str(error))
            fault = out_of_reach()
        if fault is not None:  # the client may come back for the rest
            self._write(self.dialect.fault(fault.body()["error"]))
        elif stream_log.ending is not None and self.cursor < stream_log.tail:
            # The store deleted the log under its reader: its retention is over, or the store needed the room.
            log.warning("log deleted under its reader", stream_id=self._stream.id, cursor=self.cursor)
            self._write(self.dialect.broken_off(self.cursor, stream_log.tail, stream_log.ending))

    async def _follow(self) -> None:
        """Write the records after the cursor, and then the new ones, to the ending or to the end of a deleted log."""
        stream, stream_log = self._stream, self._stream.log
        self._write_early()
        while True:
            if self._protocol.writing_paused:
                await self._drain()
            stream.progressed()
            tail_before = stream_log.tail
            records = await self._read()
            if records:
                self._show(records)
            elif (stream_log.lost and self._skip_lost()) or stream_log.tail > tail_before:
                continue  # a record came during the read; otherwise an undelivered ending would count as delivered
            elif stream.ended.is_set():
                return
            else:
                await self._wait_for_more()

    def _write_early(self) -> None:
        """Write what was pushed before the response was open. From here on pushes are written at once."""
        frames, self._early = self._early, None
        self.live = False
        if frames:
            self._write(b"".join(frames))

    async def _read(self) -> Sequence[Record]:
        """Return records after the cursor."""
        return await self._stream.log.read(self.cursor, READ_BYTES)

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
        """Skip records that the store has lost, and tell the client. Return whether there were any."""
        stream_log = self._stream.log
        at = resume_at(stream_log.lost, self.cursor)
        if at == self.cursor:
            return False
        self._write(self.dialect.gap(self.cursor + 1, at + 1, stream_log.tail))
        self.cursor = at
        return True

    async def _wait_for_more(self) -> None:
        """Wait for the next records. A reader that has read everything is live meanwhile.

        If there are records that cannot be read, the store's server has lost them. The next append finds that out. So
        the relay must not wait for this reader before it appends.
        """
        stream_log = self._stream.log
        if self.cursor < stream_log.tail:
            self.offset = stream_log.size
            self._stream.progressed()
        else:
            self.live = self.pushed
        if not self._wrote_at:
            # The head goes out with the first write: the client learns that its response is open.
            self._write(HEARTBEAT)
        self.wake.clear()
        await self.wake.wait()
        self.live = False


class ProjectedDelivery(Delivery):
    """A reader that translates in its own task. It reads every record from the first, and is never live.

    To translate one read takes a millisecond, and to get through a long log a second. So the readers that have much to
    read take turns by `pacer`: in one turn of the event loop, one of them reads.
    """

    pushed = False

    def __init__(
        self,
        request: web.Request,
        stream: Stream,
        dialect: Dialect,
        projection: Projection,
        pacer: StartPacer,
        flow: Flow,
        metrics: Metrics,
    ) -> None:
        super().__init__(request, stream, 0, flow, metrics)
        self._dialect = dialect
        self._projection = projection
        self._pacer = pacer

    @property
    def dialect(self) -> Dialect:
        """The dialect in which this client gets the stream."""
        return self._dialect

    async def _read(self) -> Sequence[Record]:
        """Return records after the cursor. A reader that keeps up need not wait for its turn."""
        if self._stream.log.tail - self.cursor > KEEPS_UP:
            await self._pacer.take()
        return await super()._read()

    def _show(self, records: Sequence[Record]) -> None:
        """Write the frames of records in the other dialect, if there are any."""
        self._passed(records)
        if frames := self._projection.frames(records):
            self._write(frames)

    def _skip_lost(self) -> bool:
        """Skip lost records, in the projection as well."""
        skipped = super()._skip_lost()
        if skipped:
            self._projection.skip_to(self.cursor)
        return skipped


class WholeDelivery(Delivery):
    """A reader that writes nothing before the stream has ended. The relay need not wait for it."""

    def __init__(self, request: web.Request, stream: Stream, cursor: int, flow: Flow, metrics: Metrics) -> None:
        super().__init__(request, stream, cursor, flow, metrics)
        self.live = True

    def push(self, data: bytes, tail: int, offset: int) -> None:  # noqa: ARG002 — the protocol's
        """Let records pass."""
        self.cursor, self.offset = tail, offset
