"""One log of the Redis store, and what is written to it, in the form that the server's scripts take and answer."""

import struct
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from server.core.errors import StoreError
from server.core.records import Beginning, Ending, Record, dump_ending, load_ending, upper_bound, writable
from server.stores.group_commit import Append, BatchedLog, Batches, Write, fenced
from server.stores.ownership import Ownership
from server.stores.redis.server import PREFIX
from server.stores.runs import Run

ENTRY = struct.Struct("<QQ")  # number of the first record, bytes of data before it; the records follow
FACTS = ("epoch", "tail", "size", "lost", "active", "target", "ended", "ending")  # as `fill` takes them


class Store(Protocol):
    """What a log needs of its store."""

    batches: Batches[Any]

    async def runs_from(self, log: "RedisLog", number: int) -> list[Run]:
        """Return the runs from the one with a record on. Raises StoreError."""


def entry_run(entry_id: bytes, entry: bytes) -> Run:
    """Return the records of one entry, whose id begins with the number of the last one.

    The run finds its records only when it is read: an entry of thousands that is fetched in vain costs nothing more.
    """
    first, start = ENTRY.unpack_from(entry)
    run = Run(first, start)
    run.add(entry[ENTRY.size :], int(entry_id.partition(b"-")[0]), start)
    return run


class RedisLog(BatchedLog):
    """One log: written here, or as it was when it was read last."""

    in_doubt = True  # the answer may have been lost

    def __init__(self, store: Store, beginning: Beginning) -> None:
        super().__init__(beginning, store.batches.put)
        self.key = f"{PREFIX}log:{beginning.id}"
        self._store = store

    def fill(self, facts: Sequence[Any]) -> None:
        """Take in what the server says: the values of FACTS."""
        if self.ending is not None:
            return  # this was read before it ended
        epoch, tail, size, lost, active, target, _, ending = facts
        self.epoch, self.tail, self.size = int(epoch), int(tail), int(size)
        self.lost = [(first, last) for first, last in orjson.loads(lost)]
        self.last_activity, self.target = float(active), target.decode("utf-8", "replace")
        self.ending = load_ending(ending) if ending is not None else None

    async def append(self, records: Sequence[Record], ending: Ending | None = None) -> None:
        """Add records; see `server.core.ports.Log`. An ending that cannot be written fails here, not in the batch."""
        if ending is not None:
            dump_ending(ending)
        await super().append(records, ending)

    async def read(self, after: int, max_bytes: int) -> Sequence[Record]:
        """Return records after `after`. Raises StoreError."""
        end = upper_bound(self.lost, after, self.tail)
        records: list[Record] = []
        while after < end:
            runs = await self._store.runs_from(self, after + 1)
            before = after
            for run in runs:
                some = run.read(after, max_bytes)[: end - after]
                if records and (not some or len(some[0].data) > max_bytes):
                    return records
                records += some
                after += len(some)
                max_bytes -= sum(len(data) for _, data in some)
                if max_bytes <= 0 or after < run.last:
                    return records
            if after == before:
                return records
        return records

    async def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`. Raises StoreError."""
        if cursor in (0, self.tail):
            return self.size if cursor else 0
        runs = await self._store.runs_from(self, cursor)
        return runs[0].offset(max(cursor, runs[0].first - 1)) if runs else self.size


class Release(Write):
    """An idempotency key that waits to be forgotten."""

    __slots__ = ("beginning",)

    def __init__(self, beginning: Beginning) -> None:
        super().__init__()
        self.beginning = beginning


def argument(write: Append[RedisLog]) -> bytes:
    """Return an append as `append.lua` takes it: a line of facts, the target's name, the ending, the records."""
    log, end = write.log, write.ending
    target = writable(log.target).encode()
    ending = dump_ending(end) if end else b""
    sizes = f"{len(target)} {len(ending)}"
    facts = f"{log.beginning.id} {write.epoch} {write.first} {write.tail} {write.size} {sizes}\n"
    return b"".join((facts.encode(), target, ending, ENTRY.pack(write.first, write.start), write.packed))


def settle(write: Append[RedisLog], answer: str | None, now: float, ownership: Ownership[RedisLog]) -> None:
    """Take in the script's answer to an append; None: it was simply added."""
    log = write.log
    if answer == "fenced":
        ownership.refused(log, write.epoch)
        write.fail(fenced(log))
        return
    if answer == "unwritable":
        write.fail(StoreError(f"stream {log.beginning.id} cannot be written"))
        return
    if answer in ("gone", "ended"):
        write.fail(StoreError(f"stream {log.beginning.id} is {answer}"))
        return
    if answer is not None and not write.outdated:
        log.lost = [(first, last) for first, last in orjson.loads(answer)]
    write.commit(now)
    if log.ending is not None:
        ownership.ended(log.beginning.id)
