"""Group commit: what many streams write within a few milliseconds becomes durable together.

A durable log is written by putting an `Append` into the store's `Batches`. The store commits one batch at a time and
answers every write in it.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any, Generic, Optional, TypeVar

import structlog

from server.core.errors import Fenced, StoreError
from server.core.ports import Shown
from server.core.records import Beginning, Ending, Record, size_of
from server.stores.runs import pack

logger = structlog.get_logger("sluiceway.stores")
WriteT = TypeVar("WriteT", bound="Write")
LogT = TypeVar("LogT", bound="BatchedLog")


# --- batches -------------------------------------------------------------------------------------------------------


class Write:
    """Something that waits for its batch. The code that commits the batch answers it."""

    __slots__ = ("_answered", "_error", "_result", "_waiter")

    def __init__(self) -> None:
        self._answered = False
        self._result: object = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # made only if somebody waits

    @property
    def error(self) -> Exception | None:
        """Why it was not made, or may not have been; None if it was, or has no answer yet."""
        return copy(self._error)  # what is kept is never raised: it would know the frames of the stream that waits

    def succeed(self, result: object = None) -> None:
        """Answer that it was made."""
        self._answered = True
        self._result = result
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Answer that it was not made, unless it has an answer already."""
        if not self._answered:
            self._error = error
            self.succeed()

    async def decided(self) -> Any:
        """Wait for the answer. If the caller is cancelled meanwhile, it is so only then.

        A caller that left earlier would not know what is in the log: it would read the log back and miss what is still
        to come.
        """
        cancelled: asyncio.CancelledError | None = None
        while not self._answered:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            try:
                raise cancelled.with_traceback(None)
            finally:
                del cancelled  # the error knows this frame
        if self._error is not None:
            raise copy(self._error)  # see `error`
        return self._result


class Batches(Generic[WriteT]):
    """Gathers writes and commits them, one batch at a time, in the order in which they were put.

    At most one batch begins per `window` seconds. Without that, quick commits would make small batches, and each batch
    costs a hand-over to a thread or a server. A write that comes after a quiet time does not wait.

    `commit` begins to commit a batch. Whatever happens, it answers every write and then calls its second argument.
    """

    def __init__(self, commit: Callable[[list[WriteT], Callable[[], None]], None], window: float) -> None:
        self._commit = commit
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._waiting: list[WriteT] = []
        self._running = False
        self._began = -window
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, write: WriteT) -> None:
        """Add one write to the next batch."""
        self._waiting.append(write)
        if not self._running and len(self._waiting) == 1:
            self._idle.clear()
            self._schedule()

    def _schedule(self) -> None:
        self._loop.call_at(max(self._loop.time(), self._began + self._window), self._begin)

    def _begin(self) -> None:
        self._began = self._loop.time()
        self._running = True
        batch, self._waiting = self._waiting, []
        self._commit(batch, self._next)

    def _next(self) -> None:
        self._running = False
        if self._waiting:
            self._schedule()
        else:
            self._idle.set()

    async def flush(self) -> None:
        """Wait until everything that was put has been committed."""
        await self._idle.wait()


@contextmanager
def answering(batch: Iterable[Write]) -> Iterator[None]:
    """If the block raises, fail every write that it has not answered: such a write would hold its stream for ever."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 — whatever it is
        if not isinstance(error, StoreError):
            logger.error("batch failed", error=type(error).__name__)  # its message may quote what was to be written
            error = StoreError("The store has failed.")
        for write in batch:
            write.fail(copy(error))  # the error itself knows the frames that it has passed, and by them the batch


# --- logs and what is appended to them -----------------------------------------------------------------------------


class BatchedLog:
    """The writing half of a log whose appends are committed in batches. There is one object per log in a process.

    `epoch` is the newest one that this object knows. While the log is held here, that is the epoch to write with.
    `fenced`: another instance has claimed the log since it was held here. `moment` is a number of
    `server.stores.ownership`: what was read of the log before it is older than what this object says.
    """

    in_doubt = False  # whether a failed append may have been made all the same

    def __init__(self, beginning: Beginning, put: Callable[["Append[Any]"], None]) -> None:
        self.beginning = beginning
        self.epoch = 0
        self.moment = 0
        self.tail = 0
        self.size = 0
        self.lost: Sequence[tuple[int, int]] = ()
        self.ending: Ending | None = None
        self.last_activity = beginning.created
        self.target = ""
        self.fenced = False
        self.failed: Exception | None = None  # why an append is missing, or may be: no later one takes its place
        self.followed_to: tuple[int, Ending | None] | None = None  # `state` when `follow` returned last
        self._put = put

    def put(self, records: Sequence[Record], shown: Shown) -> "Append[Any]":
        """Add records without waiting; see `server.core.ports.Log`."""
        write = Append(self, records, None, shown)
        self._put(write)
        return write

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; returns when they are durable. Raises Fenced, StoreError."""
        write = Append(self, records, ending)
        self._put(write)
        await write.decided()

    def forget(self) -> None:
        """Let the request go: the log is deleted. A slow reader may keep this object for long."""
        self.beginning = replace(self.beginning, body=b"")

    @property
    def state(self) -> tuple[int, Ending | None]:
        """What a follower waits for a change of."""
        return self.tail, self.ending


class Append(Write, Generic[LogT]):
    """Records that wait for their commit, in the epoch in which they were put.

    `place` sets where in the log they are: `first` is the number of the first record, `start` the bytes of data before
    it. `tail` and `size` are the log's with these records. `before` is what the same batch adds to the log before them.
    """

    __slots__ = ("before", "ending", "epoch", "first", "log", "packed", "records", "shown", "size", "start", "tail")

    tail: int
    size: int

    def __init__(self, log: LogT, records: Sequence[Record], ending: Ending | None, shown: Shown | None = None) -> None:
        self._answered, self._error, self._waiter = False, None, None  # as Write's own, which would be one more call
        self.log = log
        self.epoch = log.epoch
        self.records = records
        self.packed = pack(records)
        self.ending = ending
        self.shown = shown

    def place(self, before: Optional["Append[LogT]"]) -> None:
        """Take the place after all that is in the log, and after what the same batch adds to it before."""
        after = before or self.log
        self.before = before
        self.first = after.tail + 1
        self.start = after.size
        self.tail = after.tail + len(self.records)
        self.size = after.size + size_of(self.records)

    @property
    def outdated(self) -> bool:
        """Whether the log has had a later epoch since: what it says already includes these records, or never will."""
        return self.epoch != self.log.epoch

    def commit(self, now: float) -> None:
        """Note in the log that the records are durable, answer, and show them.

        An outdated append is answered as fenced. It must not take the log back to where it was in an earlier epoch.
        """
        log = self.log
        if self.epoch != log.epoch:
            self.fail(fenced(log))
            return
        log.tail = self.tail
        log.size = self.size
        log.last_activity = now
        log.ending = self.ending
        self.succeed()
        if self.shown is not None:
            self.shown(self.records, self.tail, self.size)

    def fail(self, error: Exception) -> None:
        """Answer that the records are not in the log, or may not be.

        If nobody waits for the answer, or nobody knows it, the log takes nothing more in this epoch: a later append
        would stand in the place of this one.
        """
        log = self.log
        if log.failed is None and not self._answered and not self.outdated and (self._waiter is None or log.in_doubt):
            log.failed = error
        super().fail(error)
        self.shown = None  # it knows the stream, which keeps its last append to learn of the failure


def placed(batch: Iterable[Append[LogT]]) -> list[Append[LogT]]:
    """Return the appends that can be made, each with its place in its log. The others are failed."""
    possible: list[Append[LogT]] = []
    last: dict[LogT, Append[LogT]] = {}
    for write in batch:
        log = write.log
        before = last.get(log)
        if log.fenced or write.epoch != log.epoch or log.failed is not None or (before or log).ending is not None:
            write.fail(_refusal(write))
        else:
            write.place(before)
            last[log] = write
            possible.append(write)
    return possible


def fenced(log: BatchedLog) -> Fenced:
    """Return the error of a writer that has lost its log."""
    return Fenced(f"another instance has taken over stream {log.beginning.id}")


def _refusal(write: Append[Any]) -> Exception:
    """Return why an append cannot be made."""
    log: BatchedLog = write.log
    if log.fenced or write.outdated:
        return fenced(log)
    return log.failed or StoreError(f"stream {log.beginning.id} has ended")
