"""One log of the SQLite store."""

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from server.core.errors import Deleted
from server.core.records import Beginning, Ending, Record, dump_ending, resume_at, upper_bound
from server.stores.group_commit import BatchedLog, Batches
from server.stores.runs import Run
from server.stores.sqlite.journal import Mirror

CHUNKS_KEPT = 4  # readers of one log may be at different places


class Store(Protocol):
    """What a log needs of its store."""

    mirror: Mirror
    batches: Batches[Any]

    async def chunk(self, num: int, number: int) -> Run:
        """Read the chunk with a record. Raises StoreError."""


class SqliteLog(BatchedLog):
    """One log: written here, or as it was when it was read last. `num` is its number in the database."""

    def __init__(self, store: Store, num: int, beginning: Beginning) -> None:
        super().__init__(beginning, store.batches.put)
        self.num = num
        self.stored_target = ""
        self._store = store
        self._chunks: deque[Run] = deque(maxlen=CHUNKS_KEPT)  # those that were read last

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; see `server.core.ports.Log`. An ending that cannot be written fails here, not in the batch."""
        if ending is not None:
            dump_ending(ending)
        await super().append(records, ending)

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after `after`. Those of a live log nearly always come from memory. Raises StoreError."""
        if resume_at(self.lost, after) > after:
            return []
        end = upper_bound(self.lost, after, self.tail)
        records: list[Record] = []
        room = max_bytes
        while after < end and room > 0:
            some = (await self._run(after + 1)).read(after, room)[: end - after]
            if records and len(some[0].data) > room:
                break
            records += some
            after += len(some)
            room -= sum(len(data) for _, data in some)
        return records

    async def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`. Raises StoreError."""
        for first, last in reversed(self.lost):
            if first <= cursor <= last:
                cursor = first - 1  # what was lost counts as nothing
        if cursor == 0:
            return 0
        return self.size if cursor == self.tail else (await self._run(cursor)).offset(cursor)

    def reread(self) -> None:
        """Read chunks from the database again: the log may be deleted, though all that was read of it is still here."""
        self._chunks.clear()

    def forget(self) -> None:
        """Let the request go, and what was read of the log."""
        super().forget()
        self._chunks.clear()

    async def _run(self, number: int) -> Run:
        """Return the run with a record. Raises StoreError: Deleted if the log is gone."""
        for run in (self._store.mirror.runs.get(self.num), *self._chunks):
            if run is not None and run.first <= number <= run.last:
                return run
        chunk = await self._store.chunk(self.num, number)
        if number > chunk.last:
            raise Deleted(f"stream {self.beginning.id} is gone")
        self._chunks.append(chunk)
        return chunk
