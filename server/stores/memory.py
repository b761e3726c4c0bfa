"""The memory store: nothing outlives the process, and an append costs next to nothing."""

import time
from array import array
from collections.abc import AsyncIterator, Sequence

from server.config import Settings
from server.core.errors import StoreError
from server.core.records import Birth, Ending, Record

# What a log costs beside its data, measured with tracemalloc: objects of the log and its birth; a live record.
LOG_OVERHEAD = 2048
RECORD_OVERHEAD = 120


class MemoryLog:
    """A list of records while live; one packed blob once it has ended (a tenth of the objects)."""

    __slots__ = ("_data_ends", "_kinds", "_packed", "_records", "birth", "bytes", "earliest", "ending", "last_activity",
                 "tail")  # fmt: skip

    def __init__(self, birth: Birth) -> None:
        self.birth = birth
        self.tail = 0
        self.earliest = 1
        self.bytes = 0
        self.ending: Ending | None = None
        self.last_activity = birth.created
        self._records: list[Record] = []
        self._packed = b""
        self._data_ends = array("Q")
        self._kinds: list[str] = []

    @property
    def footprint(self) -> int:
        """Memory that this log takes, in bytes, as near as counting gets."""
        return LOG_OVERHEAD + len(self.birth.body) + self.bytes + len(self._records) * RECORD_OVERHEAD + 16 * self.tail

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; never suspends."""
        if self.ending is not None:
            raise StoreError(f"stream {self.birth.id} has ended")
        self._records += records
        self.tail += len(records)
        for record in records:
            self.bytes += len(record.data)
        self.last_activity = time.time()
        if ending is not None:
            self.ending = ending
            self._pack()

    def _pack(self) -> None:
        end = 0
        for record in self._records:
            end += len(record.data)
            self._data_ends.append(end)
        self._kinds = [record.kind for record in self._records]
        self._packed = b"".join(record.data for record in self._records)
        self._records = []

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after `after`; never suspends."""
        size = 0
        found: list[Record] = []
        for index in range(after, self.tail):
            record = self._records[index] if self.ending is None else self._unpack(index)
            size += len(record.data)
            if found and size > max_bytes:
                break
            found.append(record)
        return found

    def _unpack(self, index: int) -> Record:
        start = self._data_ends[index - 1] if index else 0
        return Record(self._kinds[index], self._packed[start : self._data_ends[index]])

    async def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`; never suspends."""
        if self.ending is not None:
            return self._data_ends[cursor - 1] if cursor else 0
        return sum(len(record.data) for record in self._records[:cursor])


class MemoryStore:
    """All logs of this process, oldest first."""

    durable = False

    def __init__(self, settings: Settings) -> None:
        self._retention = settings.streams.retention
        self._max_bytes = settings.store.max_bytes
        self._logs: dict[str, MemoryLog] = {}
        self._keys: dict[tuple[str, str], MemoryLog] = {}  # by owner and idempotency key

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to flush."""

    async def problem(self) -> str | None:
        """Memory is always there."""
        return None

    async def create(self, birth: Birth) -> MemoryLog:
        """Begin a log, or return the one that has the idempotency key."""
        if birth.idempotency is not None:
            known = self._keys.get((birth.owner, birth.idempotency[0]))
            if known is not None:
                return known
        log = self._logs[birth.id] = MemoryLog(birth)
        if birth.idempotency is not None:
            self._keys[birth.owner, birth.idempotency[0]] = log
        return log

    async def find(self, stream_id: str) -> MemoryLog | None:
        """Return a log, unless its retention is over and only the sweep has not come by yet."""
        log = self._logs.get(stream_id)
        return None if log is None or self._expired(log, time.time()) else log

    async def release_key(self, log: MemoryLog) -> None:
        """Forget the idempotency key of a log."""
        key = log.birth.idempotency
        if key is not None and self._keys.get((log.birth.owner, key[0])) is log:
            del self._keys[log.birth.owner, key[0]]

    async def logs(self) -> AsyncIterator[MemoryLog]:
        """Yield every log, oldest first."""
        now = time.time()
        for log in list(self._logs.values()):
            if not self._expired(log, now):
                yield log

    def _expired(self, log: MemoryLog, now: float) -> bool:
        return log.ending is not None and now >= log.ending.at + self._retention

    async def sweep(self, now: float) -> None:
        """Delete what is over: by retention, then the oldest ended ones while all are past the bound."""
        for log in [log for log in self._logs.values() if self._expired(log, now)]:
            await self._delete(log)
        total = sum(log.footprint for log in self._logs.values())
        for log in list(self._logs.values()):
            if total <= self._max_bytes:
                break
            if log.ending is not None:
                total -= log.footprint
                await self._delete(log)

    async def _delete(self, log: MemoryLog) -> None:
        await self.release_key(log)
        del self._logs[log.birth.id]
