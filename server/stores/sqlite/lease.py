"""Leases, epochs and claims of the SQLite store: which process may append to a log.

A process may append to the logs that it holds until another one claims them, which it may once the lease has run out.
That it was fenced a process learns from the claims, at which it looks in the transaction of its appends.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from server.stores.runs import Run
from server.stores.sqlite.commit import put_chunk
from server.stores.sqlite.database import Connection, Database, checksum
from server.stores.sqlite.doubtful import Claim, Doubtful
from server.stores.sqlite.log import SqliteLog

SKIP = 1_000_000  # numbers passed over where a power loss may have taken records: more than any can have been


class Lease:
    """The lease of this process, and the logs that it holds. What takes a connection runs in a transaction."""

    def __init__(self, db: Database, seconds: float) -> None:
        self.seconds = seconds
        self.name = secrets.token_hex(8)
        # Which run of the machine this is: the clock of all leases, and what a power loss changes.
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self.held: dict[int, SqliteLog] = {}
        self.doubtful = Doubtful(self.name)
        self.claims_seen = 0
        self._db = db
        self._fenced: list[SqliteLog] = []  # to be told by the next `renew`
        self._renewed = 0.0  # time.monotonic(), as are all times of leases
        self._version = -1

    # --- the lease -----------------------------------------------------------------------------------------------

    def begin(self, db: Connection) -> None:
        """Begin the first lease; claims made before it concern nobody here."""
        self._extend(db)
        self.claims_seen = db.execute("SELECT coalesce(max(at), 0) FROM claims").fetchone()[0]

    def _extend(self, db: Connection) -> None:
        """Begin the lease anew."""
        now = time.monotonic()
        values = (self.name, self.boot, now + self.seconds)
        db.execute("INSERT OR REPLACE INTO instances (name, boot, expires) VALUES (?, ?, ?)", values)
        self._renewed = now

    def give_back(self, db: Connection) -> None:
        """End the lease: all logs can be claimed at once."""
        self.doubtful.give_back(db)
        db.execute("UPDATE logs SET instance = NULL WHERE instance = ?", (self.name,))
        db.execute("DELETE FROM instances WHERE name = ?", (self.name,))

    @property
    def lapsed(self) -> bool:
        """Whether this process stood still for longer than its lease: what it knows is old."""
        return time.monotonic() >= self._renewed + self.seconds

    async def renew(self, call: Callable[[Callable[[Connection], None]], Awaitable[Any]]) -> Sequence[SqliteLog]:
        """Extend the lease where a third of it is over; return what was claimed elsewhere. Raises StoreError.

        What is doubtful is given back then. `call` has a function called in the next transaction.
        """

        def look(db: Connection) -> None:
            self.look_for_claims(db)
            self._extend(db)
            doubtful.give_back(db)

        version = await self._db.version()
        if time.monotonic() >= self._renewed + self.seconds / 3 or version != self._version:
            doubtful = self.doubtful.now()  # before `look` is called: a claim that begins later is made after it
            await call(look)
            self._version = version
            self.doubtful.settle(doubtful)
        fenced = []
        while self._fenced:  # the writer's thread may add to it at any moment
            log = self._fenced.pop()
            if log.fenced:  # others were claimed back since
                self.let_go(log)
                fenced.append(log)
        return fenced

    # --- the logs that are held ----------------------------------------------------------------------------------

    def hold(self, log: SqliteLog) -> None:
        """Note that a log was created or claimed here."""
        before = self.held.get(log.num)
        if before is not None and before is not log:  # a log may be taken up again after its store was away
            before.fenced = True
        self.held[log.num] = log

    def let_go(self, log: SqliteLog) -> None:
        """Note that a log has ended, or is held elsewhere."""
        if self.held.get(log.num) is log:
            del self.held[log.num]

    def look_for_claims(self, db: Connection) -> bool:
        """Fence the logs that others have claimed; return whether there is news of that kind.

        `db` is in a transaction, so none is claimed meanwhile.
        """
        news = False
        if self.lapsed:
            mine = dict(db.execute("SELECT num, epoch FROM logs WHERE instance = ?", (self.name,)).fetchall())
            for log in list(self.held.values()):
                self.fence(log, mine.get(log.num, log.epoch + 1))
            self._extend(db)
            news = True
        query = "SELECT at, log, epoch FROM claims WHERE at > ? ORDER BY at"
        for at, num, epoch in db.execute(query, (self.claims_seen,)).fetchall():
            self.claims_seen = at
            held = self.held.get(num)
            if held is not None:
                self.fence(held, epoch)
                news = True
        return news

    def fence(self, log: SqliteLog, epoch: int) -> None:
        """Stop writing a log if `epoch`, as it was read, is later than its own."""
        if epoch > log.epoch and not log.fenced:
            log.fenced = True
            self._fenced.append(log)

    # --- claiming a log ------------------------------------------------------------------------------------------

    async def held_elsewhere(self, log: SqliteLog) -> bool:
        """Whether a living process holds a log: a look that costs no commit. Raises StoreError."""
        query = """SELECT 1 FROM logs JOIN instances ON name = instance
            WHERE num = ? AND instance <> ? AND instances.boot = ? AND expires > ?"""
        return bool(await self._db.rows(query, log.num, self.name, self.boot, time.monotonic()))

    def claim(
        self, claim: Claim, num: int, lost: Sequence[tuple[int, int]], run: Run | None, force: bool, db: Connection
    ) -> None:
        """Make a claim, unless the log is held or has ended.

        `lost`: what is lost of the log, as it was read; only the first claim of a boot changes that. `run`: what the
        journal has of the log, which was read after this boot had begun: nobody has written to it since.
        """
        query = "SELECT instance, boot, epoch, tail, size FROM logs WHERE num = ? AND ended IS NULL"
        row = db.execute(query, (num,)).fetchone()
        if row is None:
            return
        holder, boot, epoch, tail, size = row
        if not force and holder != self.name and holder is not None and self._alive(db, holder):
            return
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
        claim.epoch = epoch + 1

    def _alive(self, db: Connection, instance: str) -> bool:
        query = "SELECT 1 FROM instances WHERE name = ? AND boot = ? AND expires > ?"
        return db.execute(query, (instance, self.boot, time.monotonic())).fetchone() is not None
