"""One log of the SQLite store, and what a batch adds to it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from server.core.gaps import upper_bound
from server.core.records import Birth, Ending, Record
from server.stores.batches import Batches, Write
from server.stores.packed import Run, pack
from server.stores.sqlite_file import Connection
from server.stores.sqlite_journal import Mirror, entry

CHUNK = 65_536  # bytes of a log that are gathered before they become a chunk


class Store(Protocol):
    """What a log needs of its store."""

    mirror: Mirror
    batches: "Batches[Append | Call]"

    async def chunk(self, num: int, number: int) -> Run:
        """Read the chunk with a record. Raises StoreError."""


class SqliteLog:
    """One log: held here, or as it was found; `follow` brings that up to date."""

    def __init__(self, store: Store, num: int, birth: Birth, epoch: int) -> None:
        self.num = num
        self.birth = birth
        self.epoch = epoch
        self.tail = 0
        self.bytes = 0
        self.lost: Sequence[tuple[int, int]] = ()
        self.ending: Ending | None = None
        self.last_activity = birth.created
        self.target = ""
        self.stored_target = ""
        self.fenced = False
        self._store = store
        self._chunk = Run(1, 0)  # the one that was read last

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; returns when they are durable. Raises Fenced, StoreError."""
        write = Append(self, pack(records), ending)
        self._store.batches.put(write)
        await write.decided()

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


class Append(Write):
    """Records that wait for their commit."""

    __slots__ = ("ending", "log", "packed")

    def __init__(self, log: SqliteLog, packed: bytes, ending: Ending | None) -> None:
        super().__init__()
        self.log = log
        self.packed = packed
        self.ending = ending


class Call(Write):
    """Anything else that waits for a commit."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Connection], Any]) -> None:
        super().__init__()
        self.function = function


class Draft:
    """What one batch adds to one log."""

    def __init__(self, log: SqliteLog, run: Run | None) -> None:
        self.log = log
        self.first = log.tail + 1
        self.start = log.bytes
        self.new = Run(self.first, self.start)
        self.ending: Ending | None = None
        self.writes: list[Append] = []
        self._run = run if run is not None and run.last == log.tail else None

    def take(self, write: Append) -> None:
        """Add one append."""
        self.new.add(write.packed)
        self.ending = write.ending
        self.writes.append(write)

    @property
    def whole(self) -> bool:
        """Whether it is time for a chunk."""
        gathered = len(self._run.packed) if self._run else 0
        return self.ending is not None or gathered + len(self.new.packed) >= CHUNK

    def chunk(self) -> Run:
        """Return everything that no chunk holds yet."""
        if self._run is None:
            return self.new
        return Run(self._run.first, self._run.start, bytes(self._run.packed + self.new.packed))

    def entry(self) -> bytes:
        """Return what the journal says of it."""
        if self.whole:
            return entry(self.log.num, self.new.last + 1, self.new.size, b"")
        return entry(self.log.num, self.first, self.start, bytes(self.new.packed))
