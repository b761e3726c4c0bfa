"""One log of the SQLite store."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from server.core.errors import Deleted
from server.core.gaps import resume_at, upper_bound
from server.core.records import Beginning, Record
from server.stores.appends import Append, BatchedLog, Creation
from server.stores.batches import Batches, Write
from server.stores.runs import Run
from server.stores.sqlite.database import Connection
from server.stores.sqlite.journal import Mirror


class Store(Protocol):
    """What a log needs of its store."""

    mirror: Mirror
    batches: "Batches[Append[SqliteLog] | Creation | Call]"

    async def chunk(self, num: int, number: int) -> Run:
        """Read the chunk with a record. Raises StoreError."""


class SqliteLog(BatchedLog):
    """One log: held here, or as it was found; `follow` brings that up to date."""

    def __init__(self, store: Store, num: int, beginning: Beginning) -> None:
        super().__init__(beginning, store.batches.put)
        self.num = num
        self.stored_target = ""
        self._store = store
        self._chunk = Run(1, 0)  # the one that was read last

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after `after`; those of a live log nearly always from memory. Raises StoreError."""
        if resume_at(self.lost, after) > after:
            return []
        end = upper_bound(self.lost, after, self.tail)
        found: list[Record] = []
        room = max_bytes
        while after < end and room > 0:
            records = (await self._run(after + 1)).read(after, room)[: end - after]
            if found and len(records[0].data) > room:
                break
            found += records
            after += len(records)
            room -= sum(len(data) for _, data in records)
        return found

    async def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`. Raises StoreError."""
        for first, last in reversed(self.lost):
            if first <= cursor <= last:
                cursor = first - 1  # what was lost counts as nothing
        if cursor == 0:
            return 0
        return self.bytes if cursor == self.tail else (await self._run(cursor)).offset(cursor)

    async def _run(self, number: int) -> Run:
        """Return the run with a record. Raises StoreError: Deleted where the log is gone."""
        for run in (self._store.mirror.runs.get(self.num), self._chunk):
            if run is not None and run.first <= number <= run.last:
                return run
        self._chunk = await self._store.chunk(self.num, number)
        if number > self._chunk.last:
            raise Deleted(f"stream {self.beginning.id} is gone")
        return self._chunk


class Call(Write):
    """Anything else that waits for a commit."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Connection], Any]) -> None:
        super().__init__()
        self.function = function
