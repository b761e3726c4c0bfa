"""Deleting from the SQLite store: what is over, what is too much, and the space that it took."""

import time
from collections.abc import Mapping

import orjson

from server.stores.sqlite.database import Connection

AT_ONCE = 1000  # logs deleted in one transaction: streams wait for it
PAGES = 2000  # given back to the disk at once
CLAIMS_KEPT = 10  # leases


def delete(db: Connection, over: float, boot: str, written: Mapping[int, float], lease: float) -> None:
    """Delete the logs that ended before `over`, and those that nobody has taken over since then.

    `written`: when logs in the journal were appended to. Instances whose lease has run out go, too, and old claims:
    the instances that are left have seen them, and any other looks at its logs themselves.
    """
    query = "SELECT num FROM logs WHERE ended <= ? LIMIT ?"
    _delete(db, [num for (num,) in db.execute(query, (over, AT_ONCE)).fetchall()])
    query = """SELECT num FROM logs WHERE ended IS NULL AND active <= ? AND (instance IS NULL OR NOT EXISTS (
        SELECT 1 FROM instances WHERE name = logs.instance AND boot = ? AND expires > ?)) LIMIT ?"""
    rows = db.execute(query, (over, boot, time.monotonic(), AT_ONCE)).fetchall()
    _delete(db, [num for (num,) in rows if written.get(num, 0.0) <= over])
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
        which = (orjson.dumps(logs).decode(),)
        db.execute("DELETE FROM chunks WHERE log IN (SELECT value FROM json_each(?))", which)
        db.execute("DELETE FROM logs WHERE num IN (SELECT value FROM json_each(?))", which)


def vacuum(db: Connection) -> None:
    """Give free pages back to the disk, a bounded number at a time."""
    if db.execute("PRAGMA freelist_count").fetchone()[0] > 0:
        # One page a step, without a row to fetch: `execute` would stop after the first, a script runs to its end.
        db.executescript(f"PRAGMA incremental_vacuum({PAGES})")
