"""The memory store: nothing outlives the process, and an append costs next to nothing."""

import time
from array import array
from collections.abc import AsyncIterator, Sequence

from server.config import Settings
from server.core.errors import StoreError
from server.core.records import Birth, Ending, Record

# What a log costs beside its data: its own objects and its birth's, and the place and kind of a record.
LOG_OVERHEAD = 2048
RECORD_OVERHEAD = 16


class MemoryLog:
    """All data in one growing buffer, with the place where each record ends.

    An object a record would cost fifty bytes each, and make the garbage collector walk over every token retained.
    """

    __slots__ = ("_data", "_ends", "_kinds", "birth", "earliest", "ending", "last_activity", "tail")

    def __init__(self, birth: Birth) -> None:
        self.birth = birth
        self.tail = 0
        self.earliest = 1
        self.ending: Ending | None = None
        self.last_activity = birth.created
        self._data = bytearray()
        self._ends = array("Q")  # of record 1, 2, …: bytes of data up to and with it
        self._kinds: list[str] = []

    @property
    def bytes(self) -> int:
        """Size of all data."""
        return len(self._data)

    @property
    def footprint(self) -> int:
        """Memory that this log takes, in bytes, as near as counting gets."""
        return LOG_OVERHEAD + len(self.birth.body) + len(self._data) + RECORD_OVERHEAD * self.tail

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; never suspends."""
        if self.ending is not None:
            raise StoreError(f"stream {self.birth.id} has ended")
        data = self._data
        for kind, payload in records:
            data += payload
            self._ends.append(len(data))
            self._kinds.append(kind)
        self.tail += len(records)
        self.last_activity = time.time()
        self.ending = ending

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after `after`; never suspends."""
        start = self._ends[after - 1] if after else 0
        found: list[Record] = []
        for index in range(after, self.tail):
            end = self._ends[index]
            if found and end > start + max_bytes:
                break
            begin = self._ends[index - 1] if index else 0
            found.append(Record(self._kinds[index], bytes(self._data[begin:end])))
        return found

    async def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`; never suspends."""
        return self._ends[cursor - 1] if cursor else 0


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
