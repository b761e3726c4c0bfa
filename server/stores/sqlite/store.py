"""The SQLite store: one machine, no server; what was shown survives a SIGKILL at any point.

Appends of all streams are committed together (`sqlite_writer.py`) as one row (`sqlite_journal.py`); what a log has
gathered becomes a chunk. Several processes may share the file: leases and epochs are in it (`sqlite_leases.py`), and
each follows what the others write by the file's data version (`sqlite_following.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from server.config.settings import Settings
from server.core.errors import StoreError
from server.core.records import Beginning
from server.stores.appends import Append, Creation
from server.stores.batches import Batches
from server.stores.runs import Run
from server.stores.sqlite import sweep as sweeping
from server.stores.sqlite.catalog import Catalog
from server.stores.sqlite.commit import put_chunk, put_row
from server.stores.sqlite.create import Beginnings
from server.stores.sqlite.database import Connection, Database
from server.stores.sqlite.following import Following
from server.stores.sqlite.health import Health
from server.stores.sqlite.journal import Mirror, entry
from server.stores.sqlite.lease import Lease
from server.stores.sqlite.log import Call, SqliteLog
from server.stores.sqlite.writer import Writer


class SqliteStore:
    """All logs of one machine."""

    durable = True

    def __init__(self, settings: Settings) -> None:
        self._retention = settings.streams.retention
        self._max_bytes = settings.store.max_bytes
        self._db = Database(settings.store.path)
        self._health = Health(self._db)
        self._lease = Lease(self._db, settings.store.lease)
        self.mirror = Mirror()
        self._catalog = Catalog(self._db, self.mirror, self._lease, partial(SqliteLog, self), self._retention)
        self._writer: Writer
        self.batches: Batches[Append[SqliteLog] | Creation | Call]
        self._following: Following

    # --- open and close ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file. Raises StoreError."""
        await self._db.open()
        beginnings = Beginnings(self._lease.name, self._lease.boot, self._retention)
        self._writer = Writer(self._db, self.mirror, self._lease, beginnings, self._health)
        self.batches = self._writer.batches
        self._following = Following(self._db, self._catalog, self._writer, self._lease.seconds)
        await self._db.write(self._lease.begin)
        await self._catalog.catch_up()

    async def close(self) -> None:
        """Commit what waits, give all logs back and close the file."""
        self._following.close()
        await self._health.close()
        try:
            await self._writer.flush()
            await self._db.write(self._lease.give_back)
        except StoreError:
            pass  # the lease will run out
        await self._db.close()

    async def problem(self) -> str | None:
        """Return what is wrong with the database, or None."""
        return await self._health.problem()

    # --- creating and finding ----------------------------------------------------------------------------------------

    async def create(self, beginning: Beginning) -> SqliteLog:
        """Begin a log, or return the one that has the idempotency key. Raises StoreError."""
        creation = Creation(beginning)
        self.batches.put(creation)
        try:
            made = await creation.decided()
        except asyncio.CancelledError:  # after it has been decided
            self._lease.doubtful.beginnings.add(beginning.id)
            raise
        if isinstance(made, str):
            found = await self.find(made)
            return found if found is not None else await self.create(beginning)
        log = SqliteLog(self, made, beginning)
        self._lease.hold(log)
        return log

    async def release_key(self, log: SqliteLog) -> None:
        """Forget the idempotency key of a log. Raises StoreError."""
        if log.beginning.idempotency is not None:
            query = "UPDATE logs SET idempotency = NULL WHERE num = ?"
            await self._writer.call(lambda db: db.execute(query, (log.num,)))

    async def find(self, stream_id: str) -> SqliteLog | None:
        """Return a log as it is now. Raises StoreError."""
        return await self._catalog.find(stream_id)

    def logs(self) -> AsyncIterator[SqliteLog]:
        """Yield every log, oldest first. Raises StoreError."""
        return self._catalog.logs()

    def orphans(self) -> AsyncIterator[SqliteLog]:
        """Yield the logs without an ending whose holder has gone. Raises StoreError."""
        return self._catalog.orphans()

    async def chunk(self, num: int, number: int) -> Run:
        """Read the chunk with a record. Raises StoreError."""
        query = "SELECT first, start, data, crc FROM chunks WHERE log = ? AND first <= ? ORDER BY first DESC LIMIT 1"
        for first, start, data, crc in await self._db.rows(query, num, number):
            self._db.verify(crc, data)
            return Run(first, start, data)
        return Run(number, 0)

    # --- what other processes write, and what they take over -----------------------------------------------------

    async def refresh(self, log: SqliteLog) -> None:
        """Bring a log that another process writes up to date. Raises StoreError."""
        await self._catalog.refresh([log])

    async def follow(self, log: SqliteLog) -> None:
        """Wait for something new in a log that another process writes. Raises StoreError."""
        await self._following.follow(log)

    async def followed(self, log: SqliteLog) -> bool:
        """Whether another process has followed this log within a lease. Raises StoreError."""
        return await self._following.followed(log)

    async def renew(self) -> Sequence[SqliteLog]:
        """Extend the lease where a third of it is over; return what was claimed elsewhere. Raises StoreError."""
        return await self._lease.renew(self._writer.call)

    async def claim(self, log: SqliteLog, *, force: bool = False) -> bool:
        """Take a log over.

        After a power loss the last moments of the journal may be missing, and a client may have been shown what was in
        them. No number is used twice: the new epoch passes over more numbers than there can have been, as `lost`.
        """
        if not force and await self._lease.held_elsewhere(log):
            return False
        await self._catalog.catch_up()
        run = self.mirror.runs.get(log.num)
        with self._lease.doubtful.unless_held(log.num) as claim:
            await self._writer.call(partial(self._lease.claim, claim, log.num, log.lost, run, force))
            if not claim.epoch:
                return False
            await self._catalog.refresh([log])
            log.hold(claim.epoch)
            self._lease.hold(log)  # from now on a claim of another is seen
            try:
                await self._catalog.refresh([log])  # and if there has been one meanwhile, here
            except BaseException:
                self._lease.let_go(log)
                raise
        return True

    # --- deleting ----------------------------------------------------------------------------------------------------

    async def sweep(self, now: float) -> None:
        """Put laggards into chunks, delete what is over, and give its space back to the disk. Raises StoreError."""
        await self._catalog.catch_up()
        runs = [(num, self.mirror.runs[num]) for num in self.mirror.laggards()]
        laggards = [(num, (run.first, run.start, run.packed), run.last, run.size) for num, run in runs]
        row = b"".join(entry(num, tail + 1, size) for num, _, tail, size in laggards)

        def work(db: Connection) -> int:
            at = 0
            for num, chunk, tail, size in laggards:
                put_chunk(db, num, chunk)
                db.execute("UPDATE logs SET tail = ?, size = ? WHERE num = ? AND tail < ?", (tail, size, num, tail))
            if row:
                at = put_row(db, now, row)
            sweeping.delete(db, now - self._retention, self._lease.boot, self.mirror.written, self._lease.seconds)
            sweeping.shrink(db, self._max_bytes)
            return at

        at = await self._writer.call(work)
        if row and self.mirror.note(at, len(row)):
            for num, _, tail, _ in laggards:
                self.mirror.drop(num, tail + 1)
        foreign = set(self.mirror.runs) - set(self._lease.held)
        if foreign:
            open_logs = dict(await self._db.rows("SELECT num, tail FROM logs WHERE ended IS NULL"))
            for num in foreign:
                self.mirror.drop(num, open_logs.get(num, 1 << 62) + 1)
        await self._db.maintain(sweeping.vacuum)
