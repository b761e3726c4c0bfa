"""Appends to durable logs: what they have in common before their batch is committed and after it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from server.core.errors import Fenced, StoreError
from server.core.ports import Shown
from server.core.records import Birth, Ending, Record
from server.stores.batches import Write
from server.stores.packed import pack


class BatchedLog:
    """The writing half of a log whose appends are committed in batches; `put` adds to the next one."""

    def __init__(self, birth: Birth, put: Callable[["Append"], None]) -> None:
        self.birth = birth
        self.epoch = 1
        self.tail = 0
        self.bytes = 0
        self.lost: Sequence[tuple[int, int]] = ()
        self.ending: Ending | None = None
        self.last_activity = birth.created
        self.target = ""
        self.fenced = False
        self.failed: Exception | None = None  # of an append that nobody waited for: no later one may leave a hole
        self._put = put

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; returns when they are durable. Raises Fenced, StoreError."""
        write = Append(self, records, ending)
        self._put(write)
        await write.decided()

    def append_soon(self, records: Sequence[Record], shown: Shown) -> "Append":
        """Add records without waiting for it: as `server.core.ports.Log` says."""
        write = Append(self, records, None, shown)
        self._put(write)
        return write

    def hold(self, epoch: int) -> None:
        """Be the log's writer, from `epoch` on."""
        self.epoch, self.fenced, self.failed = epoch, False, None


class Append(Write):
    """Records that wait for their commit. `tail` and `bytes` are their log's up to and with them."""

    __slots__ = ("bytes", "ending", "log", "packed", "records", "shown", "tail")

    def __init__(
        self, log: BatchedLog, records: Sequence[Record], ending: Ending | None, shown: Shown | None = None
    ) -> None:
        super().__init__()
        self.log = log
        self.records = records
        self.packed = pack(records)
        self.ending = ending
        self.shown = shown
        self.tail = self.bytes = 0

    def succeed(self, result: object = None) -> None:
        """Answer that the records are durable; whoever did not wait shows them now."""
        super().succeed(result)
        if self.shown is not None:
            self.shown(self.records, self.tail, self.bytes)

    def fail(self, error: Exception) -> None:
        """Answer that they are not in the log."""
        if self.shown is not None and self.log.failed is None:
            self.log.failed = error
        super().fail(error)


class Draft:
    """What one batch adds to one log: records from `first` to `tail`, after `start` bytes and up to `bytes`."""

    def __init__(self, log: BatchedLog) -> None:
        self.first = log.tail + 1
        self.tail = log.tail
        self.start = self.bytes = log.bytes
        self.packed = b""
        self.ending: Ending | None = None
        self._log = log
        self._writes: list[Append] = []

    def take(self, write: Append) -> None:
        """Add one append."""
        self.packed += write.packed
        self.tail += len(write.records)
        for _, data in write.records:
            self.bytes += len(data)
        write.tail, write.bytes = self.tail, self.bytes
        self.ending = write.ending
        self._writes.append(write)

    def succeed(self, now: float) -> None:
        """Note in the log what was added, and tell the callers."""
        log = self._log
        log.tail, log.bytes, log.last_activity, log.ending = self.tail, self.bytes, now, self.ending
        for write in self._writes:
            write.succeed()

    def fail(self, error: StoreError) -> None:
        """Tell the callers that nothing was added."""
        for write in self._writes:
            write.fail(error)


Made = TypeVar("Made", bound=Draft)


def drafts(batch: Iterable[Append], make: Callable[[Any], Made]) -> list[Made]:
    """Sort appends by log, in the order of the calls; those that cannot be made are told."""
    found: dict[BatchedLog, Made] = {}
    for write in batch:
        log = write.log
        draft = found.get(log)
        if (error := _refusal(log, draft)) is not None:
            write.fail(error)
            continue
        if draft is None:
            draft = found[log] = make(log)
        draft.take(write)
    return list(found.values())


def fenced(log: BatchedLog) -> Fenced:
    """Return the error of a writer that has lost its log."""
    return Fenced(f"another instance has taken over stream {log.birth.id}")


def _refusal(log: BatchedLog, draft: Draft | None) -> Exception | None:
    """Return why nothing can be appended to a log, of which the same batch has `draft` already."""
    if log.fenced:
        return fenced(log)
    if log.failed is not None:
        return log.failed
    if log.ending is not None or (draft is not None and draft.ending is not None):
        return StoreError(f"stream {log.birth.id} has ended")
    return None
