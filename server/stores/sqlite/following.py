"""Following logs of the SQLite store that other processes write: their holders know of it, and one poll serves all."""

import asyncio
import time
from collections import defaultdict

from server.core.errors import StoreError
from server.stores.sqlite.catalog import Catalog
from server.stores.sqlite.database import Database
from server.stores.sqlite.log import SqliteLog
from server.stores.sqlite.writer import Writer

POLL = 0.02  # seconds between two looks at what other processes have written, while somebody follows it
FOLLOW = 0.5  # seconds after which `follow` returns in any case


class Following:
    """Wakes the followers of a log. A log that was followed within `lease` seconds still counts as followed."""

    def __init__(self, db: Database, catalog: Catalog, writer: Writer, lease: float) -> None:
        self._db = db
        self._catalog = catalog
        self._writer = writer
        self._lease = lease
        self._waiting: defaultdict[SqliteLog, set[asyncio.Event]] = defaultdict(set)
        self._marked: dict[int, float] = {}
        self._poller: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Poll no more."""
        if self._poller is not None:
            self._poller.cancel()

    async def follow(self, log: SqliteLog) -> None:
        """Wait until a log that another process writes is not as the last call has left it. Raises StoreError."""
        seen = log.followed_to  # others bring the object up to date as well: no change may be missed for that
        await self._mark(log)
        await self._catalog.refresh([log])
        if log.state == seen:
            await self._wait(log)
        log.followed_to = log.state

    async def _wait(self, log: SqliteLog) -> None:
        changed = asyncio.Event()
        self._waiting[log].add(changed)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="sqlite poll")
        try:
            async with asyncio.timeout(FOLLOW):
                await changed.wait()
        except TimeoutError:
            pass  # the caller looks whether the holder is still alive
        finally:
            self._waiting[log].discard(changed)
            if not self._waiting[log]:
                del self._waiting[log]

    async def _mark(self, log: SqliteLog) -> None:
        """Tell the holder now and then that there are readers here."""
        now = time.monotonic()
        if now >= self._marked.get(log.num, 0.0) + self._lease / 3:
            self._marked[log.num] = now
            query = "UPDATE logs SET followed = ? WHERE num = ?"
            await self._writer.call(lambda db: db.execute(query, (now, log.num)))

    async def followed(self, log: SqliteLog) -> bool:
        """Whether another process has followed this log within a lease. Raises StoreError."""
        rows = await self._db.rows("SELECT followed FROM logs WHERE num = ?", log.num)
        return bool(rows) and time.monotonic() < rows[0][0] + self._lease

    async def _poll(self) -> None:
        """Wake the followers of logs that have changed; one look for all of them."""
        version = -1
        while self._waiting:
            try:
                if (now := await self._db.version()) != version:
                    version = now
                    await self._catalog.refresh(list(self._waiting))
            except StoreError:
                pass  # each follower meets the same error in its own next look
            for log, events in self._waiting.items():
                if log.state != log.followed_to:
                    for changed in events:
                        changed.set()
            await asyncio.sleep(POLL)
