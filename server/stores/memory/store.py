"""The memory store: nothing outlives the process, and an append costs next to nothing."""

import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import chain

from server.config.settings import Settings
from server.core.errors import StoreError
from server.core.ports import Shown
from server.core.records import Beginning, Ending, Record, Tokens, size_of
from server.stores.memory.segments import BLOCK, Segments

SMALL_BLOCK = 4  # records in a block of a slow stream
SLOW = 0.25  # seconds since the last record: there is time to pack, and a whole block would take long to come
UNPACKED_OVERHEAD = 41  # bytes of a record that is an object of its own
LOG_OVERHEAD = 2048  # bytes of a log beside its records: its own objects, its beginning's

# NamedTuple's own constructor is a Python function. This one saves that call per record.
_record = tuple.__new__


class MemoryLog:
    """One log. Nearly all records are of the kind of the record before them, so kinds are kept as runs."""

    __slots__ = (
        "_kind",
        "_packed",
        "_run_kinds",
        "_run_starts",
        "_store",
        "_unpacked",
        "beginning",
        "ending",
        "last_activity",
        "lost",
        "size",
        "tail",
        "target",
    )

    def __init__(self, beginning: Beginning, store: "MemoryStore") -> None:
        self.beginning = beginning
        self.tail = 0
        self.size = 0
        self.lost: Sequence[tuple[int, int]] = ()
        self.ending: Ending | None = None
        self.last_activity = beginning.created
        self.target = ""
        self._store = store
        self._packed = Segments()
        self._unpacked: list[bytes] = []  # the last records, fewer than a block
        self._kind = ""  # of the last record
        self._run_starts = array("Q")  # of each run of records of one kind: the number of its first record
        self._run_kinds: list[str] = []

    @property
    def footprint(self) -> int:
        """Memory that this log takes, in bytes, as near as counting gets."""
        unpacked = self.size - self._packed.size + UNPACKED_OVERHEAD * len(self._unpacked)
        return LOG_OVERHEAD + len(self.beginning.body) + self._packed.footprint + unpacked

    def put(self, records: Sequence[Record], shown: Shown | None = None) -> None:  # noqa: ARG002 — the Log protocol's
        """Add records, which may be shown at once. Raises StoreError after the ending."""
        if self.ending is not None:
            raise StoreError(f"stream {self.beginning.id} has ended")
        if isinstance(records, Tokens):
            self._put_tokens(records)
            return
        if len(self._unpacked) >= BLOCK:
            self._pack()  # not before: a short answer that came at once is read, and need not be packed for that
        for kind, data in records:
            self._unpacked.append(data)
            self.size += len(data)
            self.tail += 1
            if kind != self._kind:
                self._begin_run(kind, self.tail)
        now = time.time()
        if now - self.last_activity > SLOW and len(self._unpacked) >= SMALL_BLOCK:
            self._pack()
        self.last_activity = now

    def _put_tokens(self, tokens: Tokens) -> None:
        """Add tokens. They are packed at once: to keep them whole meanwhile costs a tenth of a token."""
        if self._unpacked:
            self._pack()
        if tokens.kind != self._kind:
            self._begin_run(tokens.kind, self.tail + 1)
        self._packed.put((tokens.before, tokens.after), tokens.texts)
        self.tail += len(tokens.texts)
        self.size += size_of(tokens)
        self.last_activity = time.time()

    def _begin_run(self, kind: str, first: int) -> None:
        self._kind = kind
        self._run_starts.append(first)
        self._run_kinds.append(kind)

    def _pack(self) -> None:
        self._packed.add(self._unpacked)
        self._unpacked = []

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; never suspends. Raises StoreError after the ending."""
        self.put(records)
        if ending is not None:
            self.ending = ending
            self._store.note_ending(self)

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after `after`; never suspends."""
        if after >= self.tail:
            return []
        unpacked = self._unpacked[max(0, after - self._packed.tail) :]
        records: list[Record] = []
        starts, kinds = self._run_starts, self._run_kinds
        run = bisect_right(starts, after + 1) - 1
        kind, following = kinds[run], starts[run + 1] if run + 1 < len(starts) else 0
        for number, data in enumerate(chain(self._packed.read(after), unpacked), after + 1):
            if len(data) > max_bytes and records:
                break
            if number == following:
                run += 1
                kind, following = kinds[run], starts[run + 1] if run + 1 < len(starts) else 0
            records.append(_record(Record, (kind, data)))
            max_bytes -= len(data)
        return records

    async def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`; never suspends."""
        unpacked = cursor - self._packed.tail
        if unpacked <= 0:
            return self._packed.offset(cursor)
        return self._packed.size + sum(map(len, self._unpacked[:unpacked]))

    def forget(self) -> None:
        """Let records and request go: the log is deleted. A slow reader may keep this object for long."""
        self.beginning = replace(self.beginning, body=b"")
        self._packed, self._unpacked = Segments(), []


def _ended_at(log: MemoryLog) -> float:
    assert log.ending is not None
    return log.ending.at


class MemoryStore:
    """All logs of this process, oldest first.

    The sweep runs every second, and there may be 100,000 retained logs. So it looks only at live logs and at those that
    it deletes: ended logs of one retention wait in the order of their endings, and a running total keeps their sizes.
    """

    durable = False

    def __init__(self, settings: Settings) -> None:
        self._retention = settings.streams.retention
        self._max_bytes = settings.store.max_bytes
        self._logs: dict[str, MemoryLog] = {}
        self._live: dict[str, MemoryLog] = {}
        self._ended: dict[float, OrderedDict[str, MemoryLog]] = {}  # by retention, then by id
        self._ended_bytes = 0
        self._keys: dict[tuple[str, str], MemoryLog] = {}  # by owner and idempotency key

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to flush."""

    async def problem(self) -> str | None:
        """Memory is always there."""
        return None

    async def create(self, beginning: Beginning) -> MemoryLog:
        """Begin a log, or return the one that has the idempotency key."""
        if beginning.idempotency is not None:
            known = self._keys.get((beginning.owner, beginning.idempotency[0]))
            if known is not None and not self._expired(known, time.time()):
                return known
        log = self._logs[beginning.id] = self._live[beginning.id] = MemoryLog(beginning, self)
        if beginning.idempotency is not None:
            self._keys[beginning.owner, beginning.idempotency[0]] = log
        return log

    async def find(self, stream_id: str) -> MemoryLog | None:
        """Return a log, unless its retention is over and the sweep has only not deleted it yet."""
        log = self._logs.get(stream_id)
        return None if log is None or self._expired(log, time.time()) else log

    async def release_key(self, log: MemoryLog) -> None:
        """Forget the idempotency key of a log."""
        key = log.beginning.idempotency
        if key is not None and self._keys.get((log.beginning.owner, key[0])) is log:
            del self._keys[log.beginning.owner, key[0]]

    async def logs(self) -> AsyncIterator[MemoryLog]:
        """Yield every log, oldest first."""
        now = time.time()
        for log in list(self._logs.values()):
            if not self._expired(log, now):
                yield log

    def _expired(self, log: MemoryLog, now: float) -> bool:
        return log.ending is not None and now >= log.ending.at + log.beginning.kept_for(self._retention)

    def note_ending(self, log: MemoryLog) -> None:
        """Count a log that has just ended."""
        beginning = log.beginning
        del self._live[beginning.id]
        self._ended.setdefault(beginning.kept_for(self._retention), OrderedDict())[beginning.id] = log
        self._ended_bytes += log.footprint

    async def delete(self, log: MemoryLog) -> bool:
        """Delete an ended log; never suspends."""
        if log.ending is None or self._logs.get(log.beginning.id) is not log:
            return False
        await self._drop(log)
        return True

    async def _drop(self, log: MemoryLog) -> None:
        beginning = log.beginning
        retention = beginning.kept_for(self._retention)
        del self._ended[retention][beginning.id]
        if not self._ended[retention]:
            del self._ended[retention]
        self._ended_bytes -= log.footprint
        await self.release_key(log)
        del self._logs[beginning.id]
        log.forget()

    async def sweep(self, now: float) -> None:
        """Delete logs whose retention is over, and the oldest ended ones while all are larger than the bound."""
        room = self._max_bytes - sum(log.footprint for log in self._live.values())
        for ended in list(self._ended.values()):
            while ended and self._expired(log := next(iter(ended.values())), now):
                await self._drop(log)
        while self._ended and self._ended_bytes > room:
            await self._drop(min((next(iter(ended.values())) for ended in self._ended.values()), key=_ended_at))

    # --- one process, one instance: nothing is ever held elsewhere ------------------------------------------------

    async def claim(self, log: MemoryLog, *, force: bool = False) -> bool:  # noqa: ARG002 — the Store protocol's
        """Refuse: the relay of a log is here, or has gone for good."""
        return False

    async def renew(self) -> Sequence[MemoryLog]:
        """There is no lease."""
        return ()

    async def refresh(self, log: MemoryLog) -> None:
        """Every log is up to date."""

    async def follow(self, log: MemoryLog) -> None:
        """Return at once."""

    async def followed(self, log: MemoryLog) -> bool:  # noqa: ARG002
        """Nobody else reads."""
        return False

    async def orphans(self) -> AsyncIterator[MemoryLog]:
        """Yield nothing."""
        none: tuple[MemoryLog, ...] = ()
        for log in none:
            yield log
