"""One log of the Redis store, and what a batch adds to it."""

import struct
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from server.core.errors import Fenced, StoreError
from server.core.gaps import upper_bound
from server.core.records import Birth, Ending, Record
from server.stores.batches import Batches, Write
from server.stores.packed import Run, pack

ENTRY = struct.Struct("<QQ")  # number of the first record, bytes of data before it; the records follow


class Store(Protocol):
    """What a log needs of its store."""

    batches: "Batches[Append]"

    async def run_of(self, log: "RedisLog", number: int) -> list[Run]:
        """Return the runs from the one with a record on. Raises StoreError."""


def entry_run(entry: bytes) -> Run:
    """Return the records of one entry."""
    first, start = ENTRY.unpack_from(entry)
    return Run(first, start, entry[ENTRY.size :])


class RedisLog:
    """One log: held here, or as it was found."""

    def __init__(self, store: Store, key: str, birth: Birth) -> None:
        self.key = key
        self.birth = birth
        self.epoch = 1
        self.tail = 0
        self.bytes = 0
        self.lost: Sequence[tuple[int, int]] = ()
        self.ending: Ending | None = None
        self.last_activity = birth.created
        self.target = ""
        self.fenced = False
        self._store = store

    def fill(self, facts: Sequence[Any], ending: Ending | None) -> None:
        """Take in what the server says: epoch, tail, size, lost, active, target, and the ending."""
        epoch, tail, size, lost, active, target, *_ = facts
        self.epoch, self.tail, self.bytes = int(epoch), int(tail), int(size)
        self.lost = [(first, last) for first, last in orjson.loads(lost)]
        self.last_activity, self.target, self.ending = float(active), target.decode(), ending

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; returns when the server has them. Raises Fenced, StoreError."""
        write = Append(self, pack(records), ending)
        self._store.batches.put(write)
        await write.decided()

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after `after`. Raises StoreError."""
        end = upper_bound(self.lost, after, self.tail)
        found: list[Record] = []
        while after < end:
            runs = await self._store.run_of(self, after + 1)
            before = after
            for run in runs:
                records = run.read(after, max_bytes)[: end - after]
                if found and (not records or len(records[0].data) > max_bytes):
                    return found
                found += records
                after += len(records)
                max_bytes -= sum(len(data) for _, data in records)
                if max_bytes <= 0 or after < run.last:
                    return found
            if after == before:
                return found
        return found

    async def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`. Raises StoreError."""
        if cursor in (0, self.tail):
            return self.bytes if cursor else 0
        runs = await self._store.run_of(self, cursor)
        return runs[0].offset(max(cursor, runs[0].first - 1)) if runs else self.bytes


class Append(Write):
    """Records that wait for their batch."""

    __slots__ = ("ending", "log", "packed")

    def __init__(self, log: RedisLog, packed: bytes, ending: Ending | None) -> None:
        super().__init__()
        self.log = log
        self.packed = packed
        self.ending = ending

    def refused(self, draft: "Draft | None") -> bool:
        """Whether this cannot be appended; the caller is told."""
        if self.log.fenced:
            self.fail(fenced(self.log))
        elif self.log.ending or (draft and draft.ending):
            self.fail(StoreError(f"stream {self.log.birth.id} has ended"))
        else:
            return False
        return True


def fenced(log: RedisLog) -> Fenced:
    """Return the error of a writer that has lost its log."""
    return Fenced(f"another instance has taken over stream {log.birth.id}")


class Draft:
    """What one batch adds to one log."""

    def __init__(self, log: RedisLog) -> None:
        self.log = log
        self.new = Run(log.tail + 1, log.bytes)
        self.ending: Ending | None = None
        self._writes: list[Append] = []

    def take(self, write: Append) -> None:
        """Add one append."""
        self.new.add(write.packed)
        self.ending = write.ending
        self._writes.append(write)

    def arguments(self, now: float, ending: bytes) -> list[Any]:
        """Return what the script takes for this log."""
        log, new = self.log, self.new
        ended = repr(self.ending.at) if self.ending else ""
        facts = f"{log.birth.id} {log.epoch} {new.first} {new.last} {new.size} {now!r} {log.target} {ended}"
        return [facts, ENTRY.pack(new.first, new.start) + new.packed, ending]

    def settle(self, answer: str, now: float) -> None:
        """Take in the script's answer and tell the callers."""
        log = self.log
        error: StoreError | None = None
        if answer == "fenced":
            log.fenced, error = True, fenced(log)
        elif answer in ("gone", "ended"):
            error = StoreError(f"stream {log.birth.id} is {answer}")
        else:
            log.tail, log.bytes, log.last_activity, log.ending = self.new.last, self.new.size, now, self.ending
            if answer != "ok":
                log.lost = [(first, last) for first, last in orjson.loads(answer)]
        for write in self._writes:
            if error is not None:
                write.fail(error)
            else:
                write.succeed()
