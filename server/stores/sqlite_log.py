"""One log of the SQLite store, and what a batch adds to it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from server.core.gaps import upper_bound
from server.core.records import Birth, Record
from server.stores.appends import Append, BatchedLog, Draft
from server.stores.batches import Batches, Write
from server.stores.packed import Run
from server.stores.sqlite_file import Connection
from server.stores.sqlite_journal import Mirror, Part

CHUNK = 65_536  # bytes of a log that are gathered before they become a chunk


class Store(Protocol):
    """What a log needs of its store."""

    mirror: Mirror
    batches: "Batches[Append | Call]"

    async def chunk(self, num: int, number: int) -> Run:
        """Read the chunk with a record. Raises StoreError."""


class SqliteLog(BatchedLog):
    """One log: held here, or as it was found; `follow` brings that up to date."""

    def __init__(self, store: Store, num: int, birth: Birth) -> None:
        super().__init__(birth, store.batches.put)
        self.num = num
        self.stored_target = ""
        self._store = store
        self._chunk = Run(1, 0)  # the one that was read last

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after `after`; those of a live log nearly always from memory. Raises StoreError."""
        end = upper_bound(self.lost, after, self.tail)
        found: list[Record] = []
        room = max_bytes
        while after < end and room > 0:
            run = await self._run(after + 1)
            records = run.read(after, room)[: end - after]
            if not records or (found and len(records[0].data) > room):
                break
            found += records
            after += len(records)
            room -= sum(len(data) for _, data in records)
        return found

    async def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`. Raises StoreError."""
        if cursor == 0:
            return 0
        return self.bytes if cursor == self.tail else (await self._run(cursor)).offset(cursor)

    async def _run(self, number: int) -> Run:
        """Return the run with a record, or an empty one that begins at it."""
        for run in (self._store.mirror.runs.get(self.num), self._chunk):
            if run is not None and run.first <= number <= run.last:
                return run
        self._chunk = await self._store.chunk(self.num, number)
        return self._chunk


class Call(Write):
    """Anything else that waits for a commit."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Connection], Any]) -> None:
        super().__init__()
        self.function = function


class Addition(Draft):
    """What one batch adds to one log, after `run`: what the journal has of it."""

    def __init__(self, log: SqliteLog, run: Run | None) -> None:
        super().__init__(log)
        self.log = log
        self._run = run if run is not None and run.last == log.tail else None

    @property
    def whole(self) -> bool:
        """Whether it is time for a chunk."""
        gathered = len(self._run.packed) if self._run else 0
        return self.ending is not None or gathered + len(self.packed) >= CHUNK

    def chunk(self) -> Run:
        """Return everything that no chunk holds yet."""
        if self._run is None:
            return Run(self.first, self.start, self.packed)
        return Run(self._run.first, self._run.start, bytes(self._run.packed + self.packed))

    def part(self) -> Part:
        """Return what the journal says of it."""
        if self.whole:
            return Part(self.log.num, self.tail + 1, self.bytes)
        return Part(self.log.num, self.first, self.start, self.packed, self.tail, self.bytes)
