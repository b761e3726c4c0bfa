"""Whether the SQLite store can be used: what a readiness probe is told."""

import asyncio

from server.aio.cancelling import cancel
from server.stores.sqlite.database import Connection, Database

TRIAL = 65_536  # bytes: a smaller write may still find room on a disk that is too full for streams
PATIENCE = 1.0  # seconds that who asks is kept waiting for a trial


class Health:
    """What was wrong when a database was used last, until a trial shows that it is over.

    A commit that succeeds does not show that: the few bytes of a lease fit where no stream does.
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
        if self._database.damage is not None:
            return self._database.damage
        if self._problem is not None:
            if self._trial is None or self._trial.done():
                self._trial = asyncio.create_task(self._try(), name="sqlite trial")
            await asyncio.wait([self._trial], timeout=PATIENCE)
        return self._problem

    async def _try(self) -> None:
        try:
            await self._database.write(_put)
            await self._database.write(_take_away)
        except Exception as error:  # noqa: BLE001 — whatever it is, the database cannot be used
            self.failed(error)
        else:
            self._problem = None

    async def close(self) -> None:
        """End a trial that is under way."""
        if self._trial is not None:
            await cancel([self._trial])


def _put(db: Connection) -> None:
    db.execute(
        "INSERT OR REPLACE INTO chunks (log, first, start, data, crc) VALUES (0, 0, 0, zeroblob(?), 0)", (TRIAL,)
    )


def _take_away(db: Connection) -> None:
    db.execute("DELETE FROM chunks WHERE log = 0")  # no log has this number
