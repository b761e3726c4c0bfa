"""The logs of the Redis store as they are found and read: those held here know best, unless they are in doubt."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from weakref import WeakKeyDictionary

from server.core.errors import StoreError
from server.core.records import Beginning, load_beginning
from server.stores.redis.lease import Lease
from server.stores.redis.log import RedisLog
from server.stores.redis.server import PREFIX, Server

PAGE = 500  # logs that are read at once for a list
FIELDS = ("beginning", "body", "epoch", "tail", "size", "lost", "active", "target", "ended", "ending")


class Catalog:
    """All logs; `make` gives the log of a beginning, still empty."""

    def __init__(self, server: Server, lease: Lease, make: Callable[[Beginning], RedisLog], retention: float) -> None:
        self._server = server
        self._lease = lease
        self._make = make
        self._retention = retention
        self._looking: WeakKeyDictionary[RedisLog, asyncio.Lock] = WeakKeyDictionary()

    async def find(self, stream_id: str) -> RedisLog | None:
        """Return a log as it is now. Raises StoreError."""
        facts = await self._facts(stream_id)
        held = self._lease.held.get(stream_id)
        if held is not None and facts[0] is not None:
            self._update(held, facts)
        elif held is not None:
            self._lease.let_go(held)
        return self._lease.held.get(stream_id) or self._load(facts)

    async def refresh(self, log: RedisLog) -> None:
        """Bring a log up to date. Raises StoreError, also where it has been deleted."""
        # One look at a time: of two connections the older answer may come last, and would take back what was shown.
        async with self._looking.setdefault(log, asyncio.Lock()):
            facts = await self._facts(log.beginning.id)
            if facts[0] is None:
                raise StoreError(f"stream {log.beginning.id} is gone")
            self._update(log, facts)

    async def logs(self) -> AsyncIterator[RedisLog]:
        """Yield every log, oldest first. Raises StoreError."""
        ids = await self._server.ask(lambda: self._server.redis.zrange(f"{PREFIX}logs", 0, -1))
        for at in range(0, len(ids), PAGE):
            async for log in self._several(ids[at : at + PAGE]):
                yield self._lease.held.get(log.beginning.id, log)

    async def orphans(self) -> AsyncIterator[RedisLog]:
        """Yield the logs without an ending whose holder has gone. Raises StoreError."""
        async for log in self._several(await self._server.script("orphans")):
            yield log

    async def _facts(self, stream_id: str) -> list[bytes | None]:
        return (await self._server.logs([stream_id], FIELDS))[0]

    async def _several(self, ids: Sequence[bytes]) -> AsyncIterator[RedisLog]:
        for facts in await self._server.logs([one.decode() for one in ids], FIELDS):
            log = self._load(facts)
            if log is not None:
                yield log

    def _load(self, facts: Sequence[bytes | None]) -> RedisLog | None:
        beginning, body, *rest = facts
        if beginning is None or body is None:
            return None
        log = self._make(load_beginning(beginning, body))
        log.fill(rest)
        return None if log.ending is not None and time.time() >= log.ending.at + self._retention else log

    def _update(self, log: RedisLog, facts: Sequence[bytes | None]) -> None:
        """Take in what was read of a log, unless it is written here and knows best."""
        _, _, epoch, *_ = facts
        if self._lease.held.get(log.beginning.id) is log:
            self._lease.claimed(
                log.beginning.id, int(epoch or 0)
            )  # or it would be written with the epoch of the claimant
            if not log.fenced and log.failed is None:
                return
        log.fill(facts[2:])
        if log.ending is not None:
            self._lease.let_go(log)
