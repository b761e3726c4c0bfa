"""The upkeep of the SQLite store: whether it can be used, what is deleted from it, and the space that it gives back."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import orjson

from server.aio.cancelling import cancel
from server.stores.sqlite.commit import Chunk, put_chunk, put_row
from server.stores.sqlite.database import Connection, Database
from server.stores.sqlite.journal import entry

TRIAL = 65_536  # bytes: a smaller write may still find room on a disk that is too full for streams
PATIENCE = 1.0  # seconds that a caller waits for a trial
AT_ONCE = 1000  # logs deleted in one transaction: streams wait for it
PAGES = 2000  # given back to the disk at once
CLAIMS_KEPT = 10  # leases

Laggard = tuple[int, Chunk, int, int]  # a log's number, all of it that is in the journal, its tail and its size then


# --- health --------------------------------------------------------------------------------------------------------


class Health:
    """What was wrong when a database was used last, until a trial shows that it is over.

    A commit that succeeds does not show that: the few bytes of a lease still fit when no stream does.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._problem: str | None = None
        self._trial: asyncio.Task[None] | None = None  # one at a time: each may wait for a lock

    def failed(self, error: Exception) -> None:
        """Note that a commit has failed."""
        self._problem = str(error)

    async def problem(self) -> str | None:
        """Return what is wrong, in one sentence, or None. Damage stays: it does not mend itself."""
        await self._database.look()
        if lasting := self._database.damage or self._database.gone:
            return lasting
        if self._problem is not None:
            if self._trial is None or self._trial.done():
                self._trial = asyncio.create_task(self._try(), name="sqlite trial")
            await asyncio.wait([self._trial], timeout=PATIENCE)
        return self._problem

    async def _try(self) -> None:
        try:
            await self._database.write(_put_trial)
            await self._database.write(_take_trial_away)
        except Exception as error:  # noqa: BLE001 — whatever it is, the database cannot be used
            self.failed(error)
        else:
            self._problem = None

    async def close(self) -> None:
        """End a trial that is under way."""
        if self._trial is not None:
            await cancel([self._trial])


def _put_trial(db: Connection) -> None:
    query = "INSERT OR REPLACE INTO chunks (log, first, start, data, crc) VALUES (0, 0, 0, zeroblob(?), 0)"
    db.execute(query, (TRIAL,))


def _take_trial_away(db: Connection) -> None:
    db.execute("DELETE FROM chunks WHERE log = 0")  # no log has this number


# --- sweeping ------------------------------------------------------------------------------------------------------


def put_into_chunks(db: Connection, laggards: Sequence[Laggard], now: float) -> tuple[int, int]:
    """Put logs into chunks that hold the oldest rows of the journal.

    Return the number of the row that tells other processes so, and its size; zeros if there is none.
    """
    if not laggards:
        return 0, 0
    for num, chunk, tail, size in laggards:
        put_chunk(db, num, chunk)
        db.execute("UPDATE logs SET tail = ?, size = ? WHERE num = ? AND tail < ?", (tail, size, num, tail))
    row = b"".join(entry(num, tail + 1, size) for num, _, tail, size in laggards)
    return put_row(db, now, row), len(row)


KEPT = "SELECT num FROM logs WHERE retention IS NOT NULL AND ended + retention <= ? LIMIT ?"
OTHER = "SELECT num FROM logs WHERE retention IS NULL AND ended <= ? LIMIT ?"
ORPHANED = """SELECT num, coalesce(retention, ?1) FROM logs
    WHERE ended IS NULL AND active + coalesce(retention, ?1) <= ?2 AND (instance IS NULL OR NOT EXISTS (
        SELECT 1 FROM instances WHERE name = logs.instance AND boot = ?3 AND expires > ?4)) LIMIT ?5"""


def delete(db: Connection, now: float, retention: float, boot: str, written: Mapping[int, float]) -> None:
    """Delete the logs whose retention is over, and those that nobody has taken over for as long.

    `written`: when logs in the journal were appended to.
    """
    for query, over in ((KEPT, now), (OTHER, now - retention)):
        _delete(db, [num for (num,) in db.execute(query, (over, AT_ONCE)).fetchall()])
    rows = db.execute(ORPHANED, (retention, now, boot, time.monotonic(), AT_ONCE)).fetchall()
    _delete(db, [num for num, kept in rows if written.get(num, 0.0) + kept <= now])


def delete_ended(log: int, db: Connection) -> bool:
    """Delete one log, if it is there and has ended; return whether it was."""
    found = db.execute("SELECT num FROM logs WHERE num = ? AND ended IS NOT NULL", (log,)).fetchall()
    _delete(db, [num for (num,) in found])
    return bool(found)


def forget_instances(db: Connection, boot: str, lease: float) -> None:
    """Delete the instances whose lease has run out, and old claims.

    The instances that are left have seen these claims. Any other one looks at its logs themselves.
    """
    old = time.time() - CLAIMS_KEPT * lease  # before the other clock is read: this process may stand still, too
    db.execute("DELETE FROM instances WHERE boot <> ? OR expires < ?", (boot, time.monotonic()))
    db.execute("DELETE FROM claims WHERE made < ?", (old,))


def shrink(db: Connection, max_bytes: int) -> None:
    """Delete the oldest ended logs while the file holds more than `max_bytes`."""
    (pages,), (free,), (size,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    excess = (pages - free) * size - max_bytes
    if excess <= 0:
        return
    oldest = []
    query = "SELECT num, size + length(body) FROM logs WHERE ended IS NOT NULL ORDER BY ended LIMIT ?"
    for num, taken in db.execute(query, (AT_ONCE,)).fetchall():
        if excess <= 0:
            break
        oldest.append(num)
        excess -= taken
    _delete(db, oldest)


def _delete(db: Connection, logs: list[int]) -> None:
    if logs:
        nums = (orjson.dumps(logs).decode(),)
        db.execute("DELETE FROM chunks WHERE log IN (SELECT value FROM json_each(?))", nums)
        db.execute("DELETE FROM logs WHERE num IN (SELECT value FROM json_each(?))", nums)


def vacuum(db: Connection) -> None:
    """Give free pages back to the disk, a bounded number at a time."""
    if db.execute("PRAGMA freelist_count").fetchone()[0] > 0:
        # Each page is a step without a row. `execute` would stop after the first step; a script runs to its end.
        db.executescript(f"PRAGMA incremental_vacuum({PAGES})")
