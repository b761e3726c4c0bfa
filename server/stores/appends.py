"""Appends to durable logs, and their creation: what is the same before a batch is committed and after it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Optional, TypeVar

from server.core.errors import Fenced, StoreError
from server.core.ports import Shown
from server.core.records import Beginning, Ending, Record
from server.stores.batches import Write
from server.stores.runs import pack

Own = TypeVar("Own", bound="BatchedLog")


class BatchedLog:
    """The writing half of a log whose appends are committed in batches; `put` adds to the next one."""

    in_doubt = False  # whether an append that has failed may have been made all the same

    def __init__(self, beginning: Beginning, put: Callable[["Append[Any]"], None]) -> None:
        self.beginning = beginning
        self.epoch = 1
        self.tail = 0
        self.bytes = 0
        self.lost: Sequence[tuple[int, int]] = ()
        self.ending: Ending | None = None
        self.last_activity = beginning.created
        self.target = ""
        self.fenced = False
        self.failed: Exception | None = None  # why an append is missing, or may be: no later one takes its place
        self._put = put

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; returns when they are durable. Raises Fenced, StoreError."""
        write = Append(self, records, ending)
        self._put(write)
        await write.decided()

    def append_soon(self, records: Sequence[Record], shown: Shown) -> "Append[Any]":
        """Add records without waiting for it: as `server.core.ports.Log` says."""
        write = Append(self, records, None, shown)
        self._put(write)
        return write

    def hold(self, epoch: int) -> None:
        """Be the log's writer, from `epoch` on."""
        self.epoch, self.fenced, self.failed = epoch, False, None


class Append(Write, Generic[Own]):
    """Records that wait for their commit.

    `place` tells where in their log they are: `first` is the number of the first one, `start` the bytes of data before
    it, `tail` and `bytes` are the log's with them. `before` is what the same batch adds to the log before them.
    """

    __slots__ = ("before", "bytes", "ending", "first", "log", "packed", "records", "shown", "start", "tail")

    tail: int
    bytes: int

    def __init__(self, log: Own, records: Sequence[Record], ending: Ending | None, shown: Shown | None = None) -> None:
        self._answered, self._error, self._waiter = False, None, None  # as Write's own, which would be one more call
        self.log = log
        self.records = records
        self.packed = pack(records)
        self.ending = ending
        self.shown = shown

    def place(self, before: Optional["Append[Own]"]) -> None:
        """Take the place after all that is in the log, and after what its batch adds to it before."""
        after = before or self.log
        self.before = before
        tail = after.tail
        self.start = size = after.bytes
        for _, data in self.records:
            size += len(data)
        self.first = tail + 1
        self.tail = tail + len(self.records)
        self.bytes = size

    def commit(self, now: float) -> None:
        """Note in the log that the records are durable, and tell whoever waits; who did not wait shows them now."""
        log = self.log
        log.tail = self.tail
        log.bytes = self.bytes
        log.last_activity = now
        log.ending = self.ending
        self.succeed()
        if self.shown is not None:
            self.shown(self.records, self.tail, self.bytes)

    def fail(self, error: Exception) -> None:
        """Tell that they are not in the log, or may not be."""
        if self.log.failed is None and (self.shown is not None or self.log.in_doubt):
            self.log.failed = error
        super().fail(error)


class Creation(Write):
    """A log that waits to be made; the answer is what the store calls it, or the log that has its idempotency key."""

    __slots__ = ("beginning",)

    def __init__(self, beginning: Beginning) -> None:
        super().__init__()
        self.beginning = beginning


def placed(batch: Iterable[Append[Own]]) -> list[Append[Own]]:
    """Return the appends that can be made, each with its place in its log; the others are told."""
    made: list[Append[Own]] = []
    last: dict[Own, Append[Own]] = {}
    for write in batch:
        log = write.log
        before = last.get(log)
        if log.fenced or log.failed is not None or (before or log).ending is not None:
            write.fail(_refusal(log))
        else:
            write.place(before)
            last[log] = write
            made.append(write)
    return made


def fenced(log: BatchedLog) -> Fenced:
    """Return the error of a writer that has lost its log."""
    return Fenced(f"another instance has taken over stream {log.beginning.id}")


def _refusal(log: BatchedLog) -> Exception:
    """Return why nothing can be appended to a log."""
    if log.fenced:
        return fenced(log)
    return log.failed or StoreError(f"stream {log.beginning.id} has ended")
