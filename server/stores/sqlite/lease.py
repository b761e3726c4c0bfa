"""Leases, epochs and claims in the SQLite store's database.

An instance may append to the logs that it holds until another one claims them, which is possible once its lease has run
out. Every claim leaves a row in `claims`. The transaction of an append looks at them, so an append of an earlier epoch
is never made. What follows from all this is decided in `server.stores.ownership`.

Methods that take a connection run in the writer's thread, in a transaction. They read the state of this object, and
return what they find. The event loop changes the state, when the answer of a transaction has come: the next batch is
given to the thread only after that.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from server.stores.ownership import Ownership
from server.stores.runs import Run
from server.stores.sqlite.commit import put_chunk
from server.stores.sqlite.database import Connection, Database, checksum
from server.stores.sqlite.log import SqliteLog

SKIP = 1_000_000  # numbers passed over if a power loss may have taken records: more than any can have been

Claims = list[tuple[int, str | None, int]]  # number of the row, id of the log (None: it is deleted), epoch
Call = Callable[[Callable[[Connection], Any]], Awaitable[Any]]  # runs a function in the next transaction


class Lease:
    """The lease of this instance, and its questions to the database."""

    def __init__(self, db: Database, seconds: float, ownership: Ownership[SqliteLog]) -> None:
        self.seconds = seconds
        self.name = secrets.token_hex(8)
        # Which run of the machine this is: leases are on its clock, and a power loss ends it.
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self.claims_seen = 0  # the last row of `claims` that is known here
        self._db = db
        self._ownership = ownership
        self._renewed = 0.0  # time.monotonic(), as are all times of leases
        self._version = -1

    # --- in the writer's thread ----------------------------------------------------------------------------------

    def begin(self, db: Connection) -> None:
        """Begin the first lease. Earlier claims concern nobody here."""
        self._renewed = self._extend(db)
        self.claims_seen = db.execute("SELECT coalesce(max(at), 0) FROM claims").fetchone()[0]

    def _extend(self, db: Connection) -> float:
        """Begin the lease anew; return when."""
        now = time.monotonic()
        values = (self.name, self.boot, now + self.seconds)
        db.execute("INSERT OR REPLACE INTO instances (name, boot, expires) VALUES (?, ?, ?)", values)
        return now

    def give_back(self, db: Connection) -> None:
        """End the lease: all logs can be claimed at once."""
        db.execute("UPDATE logs SET instance = NULL WHERE instance = ?", (self.name,))
        db.execute("DELETE FROM instances WHERE name = ?", (self.name,))

    @property
    def lapsed(self) -> bool:
        """Whether this process stood still for longer than its lease: claims may have been made and forgotten."""
        return time.monotonic() >= self._renewed + self.seconds

    def new_claims(self, db: Connection) -> Claims:
        """Return the claims that are not known here. No other one is made before the transaction ends."""
        query = """SELECT claims.at, id, claims.epoch FROM claims LEFT JOIN logs ON num = log WHERE claims.at > ?
            ORDER BY claims.at"""
        return db.execute(query, (self.claims_seen,)).fetchall()

    def epochs(self, db: Connection, nums: Sequence[int]) -> dict[int, int]:
        """Return which of these logs are held by this instance, each with its epoch."""
        query = "SELECT num, epoch FROM logs WHERE instance = ? AND num IN (SELECT value FROM json_each(?))"
        return dict(db.execute(query, (self.name, orjson.dumps(nums).decode())).fetchall())

    def _renew(self, due: bool, db: Connection) -> tuple[float, dict[str, int] | None]:
        """Extend the lease; return when, and the logs that are held by this instance if that has to be known."""
        ours = None
        if due or self.lapsed:
            query = "SELECT id, epoch FROM logs WHERE ended IS NULL AND instance = ?"
            ours = dict(db.execute(query, (self.name,)).fetchall())
        return self._extend(db), ours

    def _disown(self, logs: Sequence[tuple[str, int]], db: Connection) -> None:
        """Let everybody claim these logs. Delete those that nobody has begun and nobody follows.

        `tail` counts only what is in chunks. But a log that was appended to in epoch 1 was held here: it is not given
        back in that epoch.
        """
        values = [(*log, self.name) for log in logs]
        query = (
            "DELETE FROM logs WHERE id = ? AND epoch = ? AND instance = ? AND epoch = 1 AND tail = 0 AND followed = 0"
        )
        db.executemany(query, values)
        db.executemany("UPDATE logs SET instance = NULL WHERE id = ? AND epoch = ? AND instance = ?", values)

    # --- in the loop ---------------------------------------------------------------------------------------------

    def hear(self, claims: Claims) -> None:
        """Take in what `new_claims` has returned."""
        for at, stream_id, epoch in claims:
            self.claims_seen = at
            if stream_id is not None:
                self._ownership.heard(stream_id, epoch)

    async def renew(self, call: Call) -> Sequence[SqliteLog]:
        """Extend the lease if a third of it is over; return what was claimed elsewhere. Raises StoreError.

        The transaction of `call` also looks for claims, so it is made, too, if anything has changed in the database.
        """
        version, due = await self._db.version(), self._ownership.due
        if due or version != self._version or time.monotonic() >= self._renewed + self.seconds / 3:
            with self._ownership.asking() as asked:
                self._renewed, ours = await call(partial(self._renew, due))
                back = self._ownership.reconcile(asked, ours) if ours is not None else ()
                if back:
                    await call(partial(self._disown, back))
            self._version = version
        return self._ownership.told()

    # --- claiming a log ------------------------------------------------------------------------------------------

    async def held_elsewhere(self, log: SqliteLog) -> bool:
        """Whether a living instance holds a log: a look that costs no commit. Raises StoreError."""
        query = """SELECT 1 FROM logs JOIN instances ON name = instance
            WHERE num = ? AND instance <> ? AND instances.boot = ? AND expires > ?"""
        return bool(await self._db.rows(query, log.num, self.name, self.boot, time.monotonic()))

    def claim(self, num: int, lost: Sequence[tuple[int, int]], run: Run | None, force: bool, db: Connection) -> int:
        """Make a claim; return the new epoch, or 0 if the log is held or has ended. It runs in the writer's thread.

        `lost`: what is lost of the log, as it was read; only the first claim of a boot changes that. `run`: what the
        journal has of the log, read after this boot had begun: nobody has written to it since.
        """
        query = "SELECT instance, boot, epoch, tail, size FROM logs WHERE num = ? AND ended IS NULL"
        row = db.execute(query, (num,)).fetchone()
        if row is None:
            return 0
        holder, boot, epoch, tail, size = row
        if not force and holder != self.name and holder is not None and self._alive(db, holder):
            return 0
        if holder is not None and boot != self.boot:
            if run is not None and run.last > tail:
                put_chunk(db, num, (run.first, run.start, run.packed))
                tail, size = run.last, run.size
            gaps = orjson.dumps([*lost, (tail + 1, tail + SKIP)])
            query = "UPDATE logs SET tail = ?, size = ?, lost = ?, lost_crc = ? WHERE num = ?"
            db.execute(query, (tail + SKIP, size, gaps.decode(), checksum(gaps), num))
        query = "UPDATE logs SET instance = ?, boot = ?, epoch = ?, active = ? WHERE num = ?"
        db.execute(query, (self.name, self.boot, epoch + 1, time.time(), num))
        db.execute("INSERT INTO claims (log, epoch, made) VALUES (?, ?, ?)", (num, epoch + 1, time.time()))
        return int(epoch) + 1

    def _alive(self, db: Connection, instance: str) -> bool:
        query = "SELECT 1 FROM instances WHERE name = ? AND boot = ? AND expires > ?"
        return db.execute(query, (instance, self.boot, time.monotonic())).fetchone() is not None
