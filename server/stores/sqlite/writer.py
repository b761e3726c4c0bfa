"""What is written to the SQLite store: batches, one at a time, and the checkpoints that follow from them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from server.core.errors import StoreError
from server.stores.appends import Append, Creation, fenced, placed
from server.stores.batches import Batches, answering
from server.stores.sqlite.commit import UNCLAIMED_ROW, Commit
from server.stores.sqlite.create import Beginnings
from server.stores.sqlite.database import Connection, Database
from server.stores.sqlite.health import Health
from server.stores.sqlite.journal import Mirror
from server.stores.sqlite.lease import Lease
from server.stores.sqlite.log import Call, SqliteLog

WINDOW = 0.002  # seconds between two commits
CHECKPOINT = 500  # pages of the write-ahead log after which they are copied into the file
TRIM = 0.1  # seconds between two deletions from the journal: its pages are used again instead of growing the file

Batch = list[Append[SqliteLog] | Creation | Call]


class Writer:
    """Commits what is put into `batches`: from the event loop in the writer's thread, and back.

    Appends and creations, and calls of anything else that has to be written, in one transaction that checks the lease.
    """

    def __init__(self, db: Database, mirror: Mirror, lease: Lease, beginnings: Beginnings, health: Health) -> None:
        self.batches: Batches[Append[SqliteLog] | Creation | Call] = Batches(self._commit, WINDOW)
        self._db = db
        self._mirror = mirror
        self._lease = lease
        self._beginnings = beginnings
        self._health = health
        self._trimmed = 0.0
        self._pages = 0  # written since the last checkpoint
        self._checkpoint: asyncio.Task[None] | None = None

    async def call(self, function: Callable[[Connection], Any]) -> Any:
        """Return what a function returns that is called in the transaction of the next batch. Raises StoreError."""
        call = Call(function)
        self.batches.put(call)
        return await call.decided()

    async def flush(self) -> None:
        """Commit what waits, and copy all of it into the file. Raises StoreError."""
        await self.batches.flush()
        if self._checkpoint is not None:
            await self._checkpoint
        await self._db.checkpoint()

    # --- in the loop ---------------------------------------------------------------------------------------------

    def _commit(self, batch: Batch, done: Callable[[], None]) -> None:
        """Begin to commit a batch, without a task: tokens would wait for two more turns of the loop."""
        with answering(batch):
            now = time.time()
            appends, creations, calls = _parted(batch)
            commit = Commit(placed(appends), self._mirror, now)
            asked, floor = commit.writes, self._floor(now)

            def answer(results: list[Any], error: Exception | None) -> None:
                with answering(batch):
                    if error is not None:
                        self._health.failed(error)
                        raise error
                    for other, result in zip((*creations, *calls), results, strict=True):
                        other.succeed(result)  # first: where anything here failed, they would be told that theirs had
                    self._mirror.trim(floor)
                    commit.mirror()
                    self._count(commit.pages)
                    self._committed(asked, now)
                done()

            self._db.give(partial(self._write, commit, creations, calls, floor), answer)
            return
        done()

    def _committed(self, writes: Sequence[Append[SqliteLog]], now: float) -> None:
        for write in writes:
            log = write.log
            if log.fenced:
                write.fail(fenced(log))
                continue
            log.stored_target = log.target
            if write.ending is not None:
                self._lease.let_go(log)
            write.commit(now)

    def _floor(self, now: float) -> int:
        """Return the journal's row before which all can be deleted now, or 0."""
        if now < self._trimmed + TRIM:
            return 0
        self._trimmed = now
        return min(self._mirror.floor, self._mirror.seen + 1)

    def _count(self, pages: int) -> None:
        """Make a checkpoint where enough has been written since the last one."""
        self._pages += pages
        if self._pages >= CHECKPOINT and (self._checkpoint is None or self._checkpoint.done()):
            self._pages = 0
            self._checkpoint = asyncio.create_task(self._copy(), name="sqlite checkpoint")

    async def _copy(self) -> None:
        with suppress(StoreError):  # the next commit meets the same error, and says so
            await self._db.checkpoint()

    # --- in the writer's thread ----------------------------------------------------------------------------------

    def _write(self, commit: Commit, creations: Sequence[Creation], calls: Sequence[Call], floor: int) -> list[Any]:
        """Write one batch; return what the creations and the calls have led to.

        Nearly always it is nothing but a row: one statement, which does nothing where there are claims to look at, or
        where this process has stood still since it looked at its lease, for so long that it has been forgotten.
        """
        if commit.is_row and not (creations or calls or floor or self._lease.lapsed):
            values = (*commit.values, self._lease.claims_seen, self._lease.name)
            commit.at = self._db.insert(UNCLAIMED_ROW, values) or 0
            if commit.at:
                return []
        return self._db.transact(partial(self._transact, commit, creations, calls, floor))

    def _transact(
        self, commit: Commit, creations: Sequence[Creation], calls: Sequence[Call], floor: int, db: Connection
    ) -> list[Any]:
        if self._lease.look_for_claims(db):
            commit.leave_out_fenced()
        if floor:
            db.execute("DELETE FROM journal WHERE at < ?", (floor,))
        commit.run(db)
        results = [call.function(db) for call in calls]  # before: a key that is released can be taken
        return [*self._beginnings.make(db, [creation.beginning for creation in creations]), *results]


def _parted(batch: Batch) -> tuple[Sequence[Append[SqliteLog]], Sequence[Creation], Sequence[Call]]:
    """Return a batch by what it holds: nearly always nothing but appends."""
    appends = [write for write in batch if isinstance(write, Append)]
    if len(appends) == len(batch):
        return appends, (), ()
    creations = [write for write in batch if isinstance(write, Creation)]
    return appends, creations, [write for write in batch if isinstance(write, Call)]
