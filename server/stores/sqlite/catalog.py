"""What logs there are in the SQLite store, and how far they are: their rows, and the journal that runs before them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from server.core.errors import StoreError
from server.core.records import Beginning, load_beginning, load_ending
from server.stores.sqlite.database import Database
from server.stores.sqlite.journal import Mirror
from server.stores.sqlite.lease import Lease
from server.stores.sqlite.log import SqliteLog

PAGE = 500  # logs that are read at once for a list
LOGS = """SELECT num, beginning, body, epoch, target, tail, size, CAST(lost AS BLOB), active, ended, ending, crc,
    lost_crc, ending_crc FROM logs"""


class Catalog:
    """Finds logs: those that are held here as they are, others made by `make` from what can be read of them."""

    def __init__(
        self, db: Database, mirror: Mirror, lease: Lease, make: Callable[[int, Beginning], SqliteLog], retention: float
    ) -> None:
        self._db = db
        self._mirror = mirror
        self._lease = lease
        self._make = make
        self._retention = retention
        self._reading = asyncio.Lock()

    async def catch_up(self) -> None:
        """Read what other processes have written to the journal. Raises StoreError."""
        async with self._reading:
            query = "SELECT at, written, data, crc FROM journal WHERE at > ? ORDER BY at"
            rows = await self._db.rows(query, self._mirror.seen)
            for _, _, data, crc in rows:
                self._db.verify(crc, data)
            self._mirror.catch_up(row[:3] for row in rows)

    async def refresh(self, logs: Sequence[SqliteLog]) -> None:
        """Bring logs up to date. Raises StoreError, also where one is gone.

        A log that is written here knows best; only whether it still is is looked up.
        """
        await self.catch_up()
        by_num = {log.num: log for log in logs}
        wanted = orjson.dumps(list(by_num)).decode()  # as json_each takes them
        for row in await self._rows(", json_each(?) AS wanted WHERE num = wanted.value", wanted):
            log = by_num.pop(row[0])
            if self._held(row) is not log:
                self._fill(log, row)
        for log in by_num.values():
            raise StoreError(f"stream {log.beginning.id} is gone")

    async def find(self, stream_id: str) -> SqliteLog | None:
        """Return a log as it is now. Raises StoreError."""
        await self.catch_up()  # before its row is read: what becomes a chunk in between is seen there
        for row in await self._rows("WHERE id = ?", stream_id):
            if not self._expired(row):
                return self._held(row) or self._log(row)
        return None

    async def logs(self) -> AsyncIterator[SqliteLog]:
        """Yield every log, oldest first. Raises StoreError."""
        async for log in self._pages("num > ?"):
            yield log

    async def orphans(self) -> AsyncIterator[SqliteLog]:
        """Yield the logs without an ending whose holder has gone. Raises StoreError."""
        orphaned = """num > ? AND ended IS NULL AND (instance IS NULL OR NOT EXISTS (
            SELECT 1 FROM instances WHERE name = logs.instance AND boot = ? AND expires > ?))"""
        async for log in self._pages(orphaned, self._lease.boot, time.monotonic()):
            yield log

    async def _pages(self, where: str, *values: Any) -> AsyncIterator[SqliteLog]:
        """Yield logs, oldest first. Those of a page are made at once: whoever takes them may take his time."""
        await self.catch_up()
        last = 0
        while True:
            rows = await self._rows(f"WHERE {where} ORDER BY num LIMIT ?", last, *values, PAGE)
            for log in [self._held(row) or self._log(row) for row in rows if not self._expired(row)]:
                yield log
            if len(rows) < PAGE:
                return
            last = rows[-1][0]

    async def _rows(self, where: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read rows that are as young as the mirror. Raises StoreError.

        The mirror forgets what has gone into a chunk, as all of a log does when it ends. Where that happens while the
        row is read, it may be in neither; the rows are read again then.
        """
        while True:
            with self._mirror.dropping() as dropped:
                rows = await self._db.rows(f"{LOGS} {where}", *values)
            if all(row[0] not in dropped or self._held(row) for row in rows):
                return rows

    def _held(self, row: tuple[Any, ...]) -> SqliteLog | None:
        """Return the log of a row if it is written here: it knows best, unless the row tells that it was claimed."""
        held = self._lease.held.get(row[0])
        if held is not None:
            self._lease.fence(held, row[3])  # or it would be written with the epoch of who claimed it
        return held if held is not None and not held.fenced else None

    def _expired(self, row: tuple[Any, ...]) -> bool:
        ended: float | None = row[9]
        return ended is not None and time.time() >= ended + self._retention

    def _log(self, row: tuple[Any, ...]) -> SqliteLog:
        self._db.verify(row[11], row[1], row[2])
        log = self._make(row[0], load_beginning(row[1], row[2]))
        self._fill(log, row)
        return log

    def _fill(self, log: SqliteLog, row: tuple[Any, ...]) -> None:
        """Bring a log up to date with its row, as `_rows` reads it, and with the mirror. Raises StoreError."""
        _, _, _, epoch, target, tail, size, lost, active, ended, ending, _, lost_crc, ending_crc = row
        self._db.verify(lost_crc, lost)
        self._db.verify(ending_crc, ending or b"")
        if log.ending is not None:
            return  # this was read before it ended
        log.epoch, log.target = epoch, target
        log.stored_target = log.target
        run = self._mirror.runs.get(log.num)
        if ended is None and run is not None and run.last > tail:
            tail, size = run.last, run.size
        log.lost = [(first, last) for first, last in orjson.loads(lost)]
        log.last_activity = max(active, self._mirror.written.get(log.num, 0.0))
        log.tail, log.bytes = tail, size
        log.ending = load_ending(ending) if ending is not None else None
