"""Finding logs in the SQLite store: their rows, and the journal, which is ahead of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from server.core.errors import StoreError
from server.core.records import Beginning, load_beginning, load_ending
from server.stores.ownership import Ownership
from server.stores.sqlite.database import Database
from server.stores.sqlite.journal import Mirror
from server.stores.sqlite.log import SqliteLog

PAGE = 500  # logs that are read at once for a list


class Row(NamedTuple):
    """A log's row, as `LOGS` reads it; `schema.py` says what is in it."""

    num: int
    id: str
    beginning: bytes
    body: bytes
    crc: int
    epoch: int
    target: str
    tail: int
    size: int
    lost: bytes
    lost_crc: int
    active: float
    ended: float | None
    ending: bytes | None
    ending_crc: int
    retention: float | None


LOGS = """SELECT num, id, beginning, body, crc, epoch, target, tail, size, CAST(lost AS BLOB), lost_crc, active, ended,
    ending, ending_crc, retention FROM logs"""


class Catalog:
    """Finds logs, and brings their objects up to date. `make` makes the object of a log."""

    def __init__(
        self,
        db: Database,
        mirror: Mirror,
        ownership: Ownership[SqliteLog],
        make: Callable[[int, Beginning], SqliteLog],
        retention: float,
    ) -> None:
        self._db = db
        self._mirror = mirror
        self._ownership = ownership
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
        """Bring logs up to date. Raises StoreError, also if one is gone."""
        asked = self._ownership.moment()
        await self.catch_up()
        by_num = {log.num: log for log in logs}
        nums = orjson.dumps(list(by_num)).decode()  # as json_each takes them
        for row in await self._rows("WHERE num IN (SELECT value FROM json_each(?))", nums):
            self._update(by_num.pop(row.num), row, asked)
        for log in by_num.values():
            raise StoreError(f"stream {log.beginning.id} is gone")

    async def find(self, stream_id: str) -> SqliteLog | None:
        """Return a log as it is now. Raises StoreError."""
        asked = self._ownership.moment()
        await self.catch_up()  # before the row is read: the row has what goes into a chunk in between
        for row in await self._rows("WHERE id = ?", stream_id):
            if not self._expired(row):
                log = self._log(row, asked)
                log.reread()
                return log
        return None

    async def logs(self) -> AsyncIterator[SqliteLog]:
        """Yield every log, oldest first. Raises StoreError."""
        async for log in self._pages("num > ?"):
            yield log

    async def orphans(self, boot: str) -> AsyncIterator[SqliteLog]:
        """Yield the logs without an ending that no instance of this `boot` of the machine holds. Raises StoreError."""
        orphaned = """num > ? AND ended IS NULL AND (instance IS NULL OR NOT EXISTS (
            SELECT 1 FROM instances WHERE name = logs.instance AND boot = ? AND expires > ?))"""
        async for log in self._pages(orphaned, boot, time.monotonic()):
            yield log

    async def _pages(self, where: str, *values: Any) -> AsyncIterator[SqliteLog]:
        """Yield logs, oldest first. Those of a page are brought up to date at once: the caller may be slow."""
        await self.catch_up()
        last = 0
        while True:
            asked = self._ownership.moment()
            rows = await self._rows(f"WHERE {where} ORDER BY num LIMIT ?", last, *values, PAGE)
            for log in [self._log(row, asked) for row in rows if not self._expired(row)]:
                yield log
            if len(rows) < PAGE:
                return
            last = rows[-1].num

    async def _rows(self, where: str, *values: Any) -> list[Row]:
        """Read rows that are as young as the mirror. Raises StoreError.

        The mirror forgets what has gone into a chunk, as all of a log does when it ends. If that happens while the row
        is read, the records may be in neither. The rows are read again then.
        """
        while True:
            with self._mirror.dropping() as dropped:
                rows = [Row(*row) for row in await self._db.rows(f"{LOGS} {where}", *values)]
            for row in rows:
                self._ownership.heard(row.id, row.epoch)
            if all(row.num not in dropped or row.id in self._ownership.held for row in rows):
                return rows

    def _expired(self, row: Row) -> bool:
        retention = self._retention if row.retention is None else row.retention
        return row.ended is not None and time.time() >= row.ended + retention

    def _log(self, row: Row, asked: int) -> SqliteLog:
        """Return the log of a row that was read after the moment `asked`. Raises StoreError."""
        log = self._ownership.log(row.id, partial(self._load, row))
        self._update(log, row, asked)
        return log

    def _load(self, row: Row) -> SqliteLog:
        self._db.verify(row.crc, row.beginning, row.body)
        return self._make(row.num, load_beginning(row.beginning, row.body))

    def _update(self, log: SqliteLog, row: Row, asked: int) -> None:
        """Bring a log up to date with its row and the mirror, unless it is written here. Raises StoreError."""
        if row.id in self._ownership.held or log.ending is not None or not self._ownership.fresh(log, asked, row.epoch):
            return
        self._db.verify(row.lost_crc, row.lost)
        self._db.verify(row.ending_crc, row.ending or b"")
        log.epoch = row.epoch
        log.target = log.stored_target = row.target
        tail, size = row.tail, row.size
        run = self._mirror.runs.get(log.num)
        if row.ended is None and run is not None and run.last > tail:
            tail, size = run.last, run.size
        log.tail, log.size = tail, size
        log.lost = [(first, last) for first, last in orjson.loads(row.lost)]
        log.last_activity = max(row.active, self._mirror.written.get(log.num, 0.0))
        log.ending = load_ending(row.ending) if row.ending is not None else None
