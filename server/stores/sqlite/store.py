"""The SQLite store: one machine, no server. What was shown survives a SIGKILL at any point.

Appends of all streams are committed together (`writer.py`) as one row (`journal.py`). What a log has gathered becomes a
chunk (`commit.py`). Several processes may share the file: leases and epochs are in it (`lease.py`), and each follows
what the others write by the file's data version (`following.py`).
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial

import orjson

from server.config.settings import Settings
from server.core.errors import StoreError
from server.core.records import Beginning
from server.stores.creation import Creation
from server.stores.group_commit import Append, Batches
from server.stores.ownership import Ownership
from server.stores.runs import Run
from server.stores.sqlite import maintenance
from server.stores.sqlite.catalog import Catalog
from server.stores.sqlite.creation import Creator
from server.stores.sqlite.database import Connection, Database
from server.stores.sqlite.following import Following
from server.stores.sqlite.journal import Mirror
from server.stores.sqlite.lease import Lease
from server.stores.sqlite.log import SqliteLog
from server.stores.sqlite.maintenance import Health
from server.stores.sqlite.writer import Call, Writer


class SqliteStore:
    """All logs of one machine."""

    durable = True

    def __init__(self, settings: Settings) -> None:
        self._retention = settings.streams.retention
        self._max_bytes = settings.store.max_bytes
        self._db = Database(settings.store.path)
        self._health = Health(self._db)
        self._ownership: Ownership[SqliteLog] = Ownership()
        self._lease = Lease(self._db, settings.store.lease, self._ownership)
        self.mirror = Mirror()
        self._catalog = Catalog(self._db, self.mirror, self._ownership, partial(SqliteLog, self), self._retention)
        self._writer: Writer
        self.batches: Batches[Append[SqliteLog] | Creation | Call]
        self._following: Following

    # --- open and close ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file. Raises StoreError."""
        await self._db.open()
        creator = Creator(self._lease.name, self._lease.boot, self._retention)
        self._writer = Writer(self._db, self.mirror, self._lease, self._ownership, creator, self._health)
        self.batches = self._writer.batches
        self._following = Following(self._db, self._catalog, self._writer, self._lease.seconds)
        await self._db.write(self._lease.begin)
        await self._catalog.catch_up()

    async def close(self) -> None:
        """Commit what waits, give all logs back and close the file."""
        self._following.close()
        await self._health.close()
        try:
            if self._ownership.due:
                await self.renew()
            await self._writer.flush()
            await self._db.write(self._lease.give_back)
        except StoreError:
            pass  # the lease will run out
        await self._db.close()

    async def problem(self) -> str | None:
        """Return what is wrong with the database, or None."""
        return await self._health.problem()

    # --- creating and finding ------------------------------------------------------------------------------------

    async def create(self, beginning: Beginning) -> SqliteLog:
        """Begin a log, or return the one that has the idempotency key. Raises StoreError."""
        if self._db.gone is not None:
            raise StoreError(self._db.gone)  # what is running goes on; nothing new is put into a file without a name
        with self._ownership.begun(beginning.id):
            answer = await self._writer.create(Creation(beginning))
            if isinstance(answer, int):
                log = self._ownership.log(beginning.id, partial(SqliteLog, self, answer, beginning))
                self._ownership.created(log)
                return log
        known = await self.find(answer)
        return known if known is not None else await self.create(beginning)

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
        return self._catalog.orphans(self._lease.boot)

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
        """Extend the lease if a third of it is over; return what was claimed elsewhere. Raises StoreError."""
        await self._db.look()
        return await self._lease.renew(self._writer.call)

    async def claim(self, log: SqliteLog, *, force: bool = False) -> bool:
        """Take a log over. Raises StoreError.

        After a power loss the last moments of the journal may be missing, and a client may have been shown what was in
        them. No number is used twice: the new epoch passes over more numbers than there can have been, as `lost`.
        """
        if not force and await self._lease.held_elsewhere(log):
            return False
        await self._catalog.catch_up()
        run = self.mirror.runs.get(log.num)
        with self._ownership.begun(log.beginning.id):
            epoch = await self._writer.call(partial(self._lease.claim, log.num, log.lost, run, force))
            if not epoch:
                return False
            await self._catalog.refresh([log])
            self._ownership.claimed(log, epoch)
        return True

    # --- deleting ------------------------------------------------------------------------------------------------

    async def delete(self, log: SqliteLog) -> bool:
        """Delete an ended log. Raises StoreError."""
        deleted: bool = await self._writer.call(partial(maintenance.delete_ended, log.num))
        if deleted:
            log.forget()
        return deleted

    async def sweep(self, now: float) -> None:
        """Put laggards into chunks, delete what is over, and give its space back to the disk. Raises StoreError."""
        await self._catalog.catch_up()
        runs = [(num, self.mirror.runs[num]) for num in self.mirror.laggards()]
        laggards = [(num, (run.first, run.start, run.packed), run.last, run.size) for num, run in runs]

        def work(db: Connection) -> tuple[int, int]:
            row = maintenance.put_into_chunks(db, laggards, now)
            maintenance.delete(db, now, self._retention, self._lease.boot, self.mirror.written)
            maintenance.forget_instances(db, self._lease.boot, self._lease.seconds)
            maintenance.shrink(db, self._max_bytes)
            return row

        at, size = await self._writer.call(work)
        if at and self.mirror.note(at, size):
            for num, _, tail, _ in laggards:
                self.mirror.drop(num, tail + 1)
        self._ownership.forget(now, self._retention)
        await self._forget_ended()
        await self._forget_deleted()
        await self._db.maintain(maintenance.vacuum)

    async def _forget_deleted(self) -> None:
        """Have deleted logs let go of what they hold: a slow reader may keep them for long. Raises StoreError."""
        used = {log.num: log for log in self._ownership.ended_logs()}
        if used:
            query = "SELECT num FROM logs WHERE num IN (SELECT value FROM json_each(?))"
            left = {num for (num,) in await self._db.rows(query, orjson.dumps(list(used)).decode())}
            for num in used.keys() - left:
                used[num].forget()

    async def _forget_ended(self) -> None:
        """Drop from the mirror what other processes have ended, and what is deleted. Raises StoreError."""
        foreign = set(self.mirror.runs) - {log.num for log in self._ownership.held.values()}
        if foreign:
            open_logs = dict(await self._db.rows("SELECT num, tail FROM logs WHERE ended IS NULL"))
            for num in foreign:
                self.mirror.drop(num, open_logs.get(num, 1 << 62) + 1)
