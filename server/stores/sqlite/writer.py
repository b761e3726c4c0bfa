"""What is written to the SQLite store: batches, one at a time, and the checkpoints that follow from them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from server.core.errors import StoreError
from server.stores.creation import Creation
from server.stores.group_commit import Append, Batches, Write, answering, fenced, placed
from server.stores.ownership import Ownership
from server.stores.sqlite.commit import UNCLAIMED_ROW, Commit
from server.stores.sqlite.creation import Creator
from server.stores.sqlite.database import Connection, Database
from server.stores.sqlite.journal import Mirror
from server.stores.sqlite.lease import Claims, Lease
from server.stores.sqlite.log import SqliteLog
from server.stores.sqlite.maintenance import Health

WINDOW = 0.002  # seconds between two commits
CHECKPOINT = 500  # pages of the write-ahead log after which they are copied into the file
TRIM = 0.1  # seconds between two deletions from the journal: its pages are used again instead of growing the file


class Call(Write):
    """Anything else that has to be written: a function to call in the transaction."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[Connection], Any]) -> None:
        super().__init__()
        self.function = function


Batch = list[Append[SqliteLog] | Creation | Call]


class Writer:
    """Commits what is put into `batches`: from the event loop in the writer's thread, and back.

    All of a batch is one transaction, which also looks for claims.
    """

    def __init__(
        self,
        db: Database,
        mirror: Mirror,
        lease: Lease,
        ownership: Ownership[SqliteLog],
        creator: Creator,
        health: Health,
    ) -> None:
        self.batches: Batches[Append[SqliteLog] | Creation | Call] = Batches(self._commit, WINDOW)
        self._db = db
        self._mirror = mirror
        self._lease = lease
        self._ownership = ownership
        self._creator = creator
        self._health = health
        self._trimmed = 0.0
        self._pages = 0  # written since the last checkpoint
        self._checkpoint: asyncio.Task[None] | None = None

    async def create(self, creation: Creation) -> int | str:
        """Return the number of a new log, or the id of the log that has its key. Raises StoreError."""
        self.batches.put(creation)
        answer: int | str = await creation.decided()
        return answer

    async def call(self, function: Callable[[Connection], Any]) -> Any:
        """Call a function in the transaction of the next batch; return what it returns. Raises StoreError."""
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
            floor = self._floor(now)

            def answer(result: tuple[Claims, list[Any]], error: Exception | None) -> None:
                with answering(batch):
                    if error is not None:
                        self._health.failed(error)
                        try:
                            raise error
                        finally:
                            del error  # it knows this frame
                    claims, results = result
                    for other, one in zip((*creations, *calls), results, strict=True):
                        other.succeed(one)  # first: if anything here failed, they would be told that theirs had
                    self._lease.hear(claims)
                    self._mirror.trim(floor)
                    commit.mirror()
                    self._count(commit.pages)
                    self._answer_appends(commit, now)
                done()

            self._db.give(partial(self._write, commit, creations, calls, floor), answer)
            return
        done()

    def _answer_appends(self, commit: Commit, now: float) -> None:
        for write in commit.left_out:
            self._ownership.refused(write.log, write.epoch)
            write.fail(fenced(write.log))
        for write in commit.writes:
            write.log.stored_target = write.log.target
            write.commit(now)
            if write.log.ending is not None:
                self._ownership.ended(write.log.beginning.id)

    def _floor(self, now: float) -> int:
        """Return the journal's row before which all can be deleted now, or 0."""
        if now < self._trimmed + TRIM:
            return 0
        self._trimmed = now
        return min(self._mirror.floor, self._mirror.seen + 1)

    def _count(self, pages: int) -> None:
        """Make a checkpoint if enough has been written since the last one."""
        self._pages += pages
        if self._pages >= CHECKPOINT and (self._checkpoint is None or self._checkpoint.done()):
            self._pages = 0
            self._checkpoint = asyncio.create_task(self._copy(), name="sqlite checkpoint")

    async def _copy(self) -> None:
        with suppress(StoreError):  # the next commit meets the same error, and says so
            await self._db.checkpoint()

    # --- in the writer's thread ----------------------------------------------------------------------------------

    def _write(
        self, commit: Commit, creations: Sequence[Creation], calls: Sequence[Call], floor: int
    ) -> tuple[Claims, list[Any]]:
        """Write one batch; return the claims that were found, and what the creations and the calls have led to.

        Nearly always a batch is nothing but a row: one statement. It does nothing if there are claims to look at. It
        also does nothing if this process has been forgotten, as it stood still since it looked at its lease.

        Nothing is written to files that are not there any more. No stream ends as if it were safe in them.
        """
        if commit.writes or creations:
            self._db.check_there(closely=commit.ends)
        if commit.is_row and not (creations or calls or floor or self._lease.lapsed):
            values = (*commit.values, self._lease.claims_seen, self._lease.name)
            commit.at = self._db.insert(UNCLAIMED_ROW, values) or 0
            if commit.at:
                return [], []
        return self._db.transact(partial(self._transact, commit, creations, calls, floor))

    def _transact(
        self, commit: Commit, creations: Sequence[Creation], calls: Sequence[Call], floor: int, db: Connection
    ) -> tuple[Claims, list[Any]]:
        claims = self._lease.new_claims(db)
        if claims or self._lease.lapsed:
            commit.keep(self._lease.epochs(db, commit.nums))
        if floor:
            db.execute("DELETE FROM journal WHERE at < ?", (floor,))
        commit.run(db)
        results = [call.function(db) for call in calls]  # before the creations: they can take a key that is released
        return claims, [*self._creator.create(db, creations), *results]


def _parted(batch: Batch) -> tuple[Sequence[Append[SqliteLog]], Sequence[Creation], Sequence[Call]]:
    """Return appends, creations and calls of a batch: nearly always nothing but appends."""
    appends = [write for write in batch if isinstance(write, Append)]
    if len(appends) == len(batch):
        return appends, (), ()
    creations = [write for write in batch if isinstance(write, Creation)]
    return appends, creations, [write for write in batch if isinstance(write, Call)]
