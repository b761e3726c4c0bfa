"""One live stream: its log, its readers, and the one number of its flow control.

The log is the only buffer. The relay appends to it. Every client connection is a reader, a cursor into it. *Lag* is how
far the tail is ahead of the fastest reader, in bytes. Above the high water the relay stops reading the upstream.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from server.aio.event import Event
from server.core.dialect import Dialect
from server.core.errors import StreamError
from server.core.lifecycle import State, advance
from server.core.ports import Log, PendingAppend
from server.core.records import RUNNING, Beginning, Ending, Record, size_of, target_of
from server.core.replay import LoggedTurn, Replay

READ_ALL = 1 << 40  # bytes; a log is bounded by max_stream_bytes
READ_STEP = 65_536  # bytes of a log that are read in one turn of the event loop
REPLAY_STEP = 250  # records of it that are parsed in one turn


async def in_steps(records: Sequence[Record]) -> AsyncIterator[Sequence[Record]]:
    """Yield records part by part, with a turn of the event loop for others between two parts."""
    for at in range(0, len(records), REPLAY_STEP):
        if at:
            await asyncio.sleep(0)
        yield records[at : at + REPLAY_STEP]


class Reader(Protocol):
    """One cursor into a stream's log.

    A reader that is `live` has seen everything, and gets new records in the turn of the event loop in which they came:
    to wake a task per token costs a third more. If it is not live, `wake` tells its own task that there is something to
    read.
    """

    cursor: int
    offset: int  # bytes of data up to the cursor
    live: bool
    wake: Event

    def push(self, data: bytes, tail: int, offset: int) -> None:
        """Write frames whose last one is that of record `tail`. Never raises."""


class Stream:
    """A log with its readers. `max_lag_bytes` is the high water; the low water is half of it."""

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_max_bytes",
        "_max_lag",
        "_noted",
        "_pending",
        "_room",
        "_under_way",
        "dialect",
        "drained",
        "ended",
        "fault",
        "held",
        "label",
        "log",
        "opened",
        "passed_on",
        "paused",
        "readers",
        "recoveries",
        "state",
    )

    def __init__(self, log: Log, dialect: Dialect, *, max_lag_bytes: int, max_stream_bytes: int) -> None:
        self.log = log
        self.dialect = dialect
        # On the clock of time.monotonic(): somebody may set the wall clock while the stream runs.
        self._accepted = time.monotonic() - max(0.0, time.time() - log.beginning.created)
        self._pending: PendingAppend | None = None  # the last append that was not waited for
        self._under_way = 0  # bytes of data of all such appends
        self._noted = -1  # the tail when `log.target` was changed
        self.state = State.STREAMING if log.tail else State.STARTING
        self.recoveries = 0
        self.label = ""  # of the target that was asked last, as configured
        self.passed_on: Mapping[str, str] = {}  # headers of the upstream's answer that the client gets
        self.drained = 0.0  # seconds that writes to its clients were blocked
        self.readers: list[Reader] = []  # a list: nearly every stream has one, and each token looks at it
        self.held = False  # paused until a stalled client comes back
        self.paused = False
        self.fault: StreamError | None = None  # the log is out of reach: readers get this instead of an ending
        self.opened = Event()  # there is a record
        self.ended = Event()
        self._max_lag = max_lag_bytes
        self._max_bytes = max_stream_bytes
        self._room = Event()
        self.refreshed()

    def refreshed(self) -> None:
        """Take in what the log says, and wake the readers: another instance may have written to it."""
        if self.log.tail:
            self.opened.set()
            if self.state is State.STARTING:
                self.state = State.STREAMING
        if self.log.ending:
            self.state = self.log.ending.state
            self.ended.set()
        for reader in self.readers:
            reader.wake.set()

    def relayed(self) -> None:
        """Begin anew for a relay: forget the pending append of an earlier one, and the fault that readers know."""
        self._pending, self._under_way = None, 0
        if self.fault is not None:
            self.fault = None
            self.ended.clear()
            if not self.log.tail:
                self.opened.clear()

    @property
    def beginning(self) -> Beginning:
        """What the stream began with. Once its log is deleted, the request is not in it any more."""
        return self.log.beginning

    @property
    def id(self) -> str:
        """The stream's id: at least 128 random bits."""
        return self.beginning.id

    @property
    def target(self) -> str:
        """The name of the target that is being asked, or that answered."""
        return target_of(self.log.target)

    @property
    def running(self) -> str:
        """The target's id of an answer that it goes on with, whether it is read or not; empty: it does not."""
        return self.log.target.partition(RUNNING)[2]

    def asks(self, target: str, running: str = "") -> None:
        """Note which target is being asked, or answers, and the id of its answer if that goes on by itself.

        The log has both with the next records, for another relay that has to go on.
        """
        noted = f"{target}{RUNNING}{running}" if running else target
        if noted != self.log.target:
            self.log.target, self._noted = noted, self.log.tail

    @property
    def is_running_known(self) -> bool:
        """Whether the log has what was noted last, so that another relay knows of a running answer."""
        return self.log.tail > self._noted

    @property
    def lag(self) -> int:
        """Bytes between the tail and the fastest reader. 0 without a reader."""
        fastest = 0
        for reader in self.readers:
            if reader.live:
                return 0
            fastest = max(fastest, reader.offset)
        return self.log.size - fastest if self.readers else 0

    def move(self, state: State) -> None:
        """Change the state, as the lifecycle's table allows."""
        self.state = advance(self.state, state)

    def append_now(self, records: Sequence[Record]) -> bool:
        """Log records without waiting; they are shown as soon as the log has them. This is the path of every token.

        Return whether the upstream may be read on at once. If not, wait for `room`.

        Raises:
            StreamError: the log is past `max_stream_bytes`.
            StoreError: the log cannot be written, or an earlier append has failed. Such records are not shown.

        """
        log = self.log
        if log.size > self._max_bytes:
            self.bound(log.size)
        if self._pending is not None and self._pending.error is not None:
            raise self._pending.error
        pending = log.put(records, self._durable)
        if pending is None:
            self._show(records, log.tail, log.size)
            if log.size > self._max_bytes:
                self.bound(log.size)
        else:
            self._pending = pending
            self._under_way += size_of(records)
            if self._under_way > self._max_lag:
                return False
        readers = self.readers
        return not self.held if len(readers) == 1 and readers[0].live else not self.must_pause

    def _durable(self, records: Sequence[Record], tail: int, size: int) -> None:
        """Show records that were under way."""
        self._under_way -= size_of(records)
        if not self._under_way:
            self._pending = None
        self._show(records, tail, size)

    async def turns(self, choices: int) -> list[LoggedTurn]:
        """Return what the log says, turn by turn, for a request of so many choices. Raises StoreError."""
        return await self.replayed(await self.records(), choices)

    async def records(self) -> Sequence[Record]:
        """Return everything that was logged so far. Raises StoreError.

        A log may be large. So this reads it in steps, between which the tokens of other streams have their turn.
        """
        if self._pending is not None:
            await self._pending.decided()
        if self.log.lost:
            return await self.log.read(0, READ_ALL)
        records = list(await self.log.read(0, READ_STEP))
        while len(records) < self.log.tail:
            await asyncio.sleep(0)
            if not (more := await self.log.read(len(records), READ_STEP)):
                break  # the log was deleted
            records += more
        return records

    async def replayed(self, records: Sequence[Record], choices: int) -> list[LoggedTurn]:
        """Return what these records say, in steps as well."""
        replay = Replay(self.dialect.reader(self.beginning), choices)
        async for part in in_steps(records):
            replay.feed(part)
        return replay.turns

    async def append(self, records: Sequence[Record]) -> None:
        """Log records and show them.

        Raises:
            StreamError: the log is past `max_stream_bytes`.
            StoreError: the log cannot be written.

        """
        if not records:
            return
        self.append_now(records)  # it shows them even if the caller is cancelled meanwhile
        if self._pending is not None:
            await self._pending.decided()
        self.bound(self.log.size)

    def bound(self, size: int) -> None:
        """Raise StreamError if `size` bytes are more than one log may hold."""
        if size > self._max_bytes:
            raise StreamError(f"The stream is larger than {self._max_bytes} bytes.", "stream_too_large", 502)

    async def finish(self, records: Sequence[Record], ending: Ending) -> None:
        """Log the last records with the ending, once, and show them."""
        try:
            await self.log.append(records, ending)
        finally:  # a cancelled call may have been made, and another instance may have ended the log instead
            if self.log.ending == ending and not self.ended.is_set():
                self.move(ending.state)
                self.ended.set()
                self._show(records, self.log.tail, self.log.size)
                for reader in self.readers:
                    reader.wake.set()
                self._room.set()

    def _show(self, records: Sequence[Record], tail: int, size: int) -> None:
        """Write records to the readers that have seen everything before them. The last record is number `tail`."""
        first = tail - len(records) + 1
        frames = b""
        for reader in self.readers:
            # A reader may have missed an append, for example one of another instance.
            if reader.live and reader.cursor + 1 == first:
                frames = frames or self.dialect.frames(first, records)
                reader.push(frames, tail, size)
            else:
                reader.wake.set()
        if first == 1:
            self.opened.set()

    @property
    def wanted(self) -> bool:
        """Whether another attempt is worth it: a client reads or may come back, or the stream outlives its clients."""
        return bool(self.readers) or self.held or self.beginning.policy == "continue"

    @property
    def must_pause(self) -> bool:
        """Whether the upstream must wait for a stalled client to come back, the fastest reader or the store."""
        return self.held or self._under_way > self._max_lag or self.lag > self._max_lag

    async def room(self) -> None:
        """Return when the upstream may be read: when `must_pause` is over. Raises StoreError if an append failed."""
        while self.must_pause:
            if self._under_way > self._max_lag and self._pending is not None:
                await self._pending.decided()
                continue
            self.paused = True
            self._room.clear()
            await self._room.wait()
        self.paused = False

    def fail(self, fault: StreamError) -> None:
        """Tell all who wait that the log can no longer be written or read."""
        self.fault = fault
        self.opened.set()
        self.ended.set()
        for reader in self.readers:
            reader.wake.set()

    def progressed(self) -> None:
        """Note that a reader has moved, come or left. Below the low water the relay may go on."""
        if self.paused and not self.held and self.lag <= self._max_lag // 2:
            self._room.set()

    def view(self) -> dict[str, Any]:
        """Return the stream as `GET /v1/streams` lists it. Times are in seconds since the epoch."""
        log = self.log
        ending = log.ending
        return {
            "id": self.id,
            "object": "stream",
            "model": self.beginning.model,
            "target": ending.target if ending else self.target,
            "state": (ending.state if ending else self.state).value,
            "paused": self.paused and ending is None,
            "created": self.beginning.created,
            "last_activity": log.last_activity,
            "records": log.tail,
            "bytes": log.size,
            "lag": 0 if ending else self.lag,
            "readers": len(self.readers),
            "recoveries": ending.recoveries if ending else self.recoveries,
        }

    def detail(self) -> dict[str, Any]:
        """Return the state of this stream: the fields of the list, with usage and error."""
        ending = self.log.ending
        return {
            **self.view(),
            "usage": ending.usage if ending else None,
            "error": ending.error["error"] if ending and ending.error else None,
        }

    @property
    def age(self) -> float:
        """Seconds since the stream was accepted."""
        return time.monotonic() - self._accepted
