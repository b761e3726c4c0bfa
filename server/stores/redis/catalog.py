"""Finding logs in the Redis store, and bringing their objects up to date."""

from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from server.core.errors import StoreError
from server.core.records import Beginning, load_beginning
from server.stores.ownership import Ownership
from server.stores.redis.log import FACTS, RedisLog
from server.stores.redis.server import PREFIX, Server

logger = structlog.get_logger("sluiceway.stores")
PAGE = 500  # logs that are read at once for a list
FIELDS = ("beginning", "body", "retention", *FACTS)

Fields = Sequence[bytes | None]  # the values of FIELDS, each None if it is not there


class Catalog:
    """All logs. `make` makes the object of a log."""

    def __init__(
        self, server: Server, ownership: Ownership[RedisLog], make: Callable[[Beginning], RedisLog], retention: float
    ) -> None:
        self._server = server
        self._ownership = ownership
        self._make = make
        self._retention = retention

    async def find(self, stream_id: str) -> RedisLog | None:
        """Return a log as it is now. Raises StoreError."""
        async for log in self._several([stream_id]):
            return log
        return None

    async def refresh(self, log: RedisLog) -> None:
        """Bring a log up to date. Raises StoreError, also if it has been deleted."""
        asked = self._ownership.moment()
        (fields,) = await self._server.logs([log.beginning.id], FIELDS)
        if fields[0] is None:
            raise StoreError(f"stream {log.beginning.id} is gone")
        self._update(log, fields[3:], asked)

    async def logs(self) -> AsyncIterator[RedisLog]:
        """Yield every log, oldest first. Raises StoreError."""
        ids = await self._server.ask(lambda: self._server.redis.zrange(f"{PREFIX}logs", 0, -1))
        for at in range(0, len(ids), PAGE):
            async for log in self._several([one.decode() for one in ids[at : at + PAGE]]):
                yield log

    async def orphans(self) -> AsyncIterator[RedisLog]:
        """Yield the logs without an ending whose holder has gone. Raises StoreError."""
        ids = await self._server.script("orphans")
        async for log in self._several([one.decode() for one in ids]):
            yield log

    async def _several(self, ids: Sequence[str]) -> AsyncIterator[RedisLog]:
        """Yield those of some logs that are there, and whose retention is not over."""
        asked = self._ownership.moment()
        read = await self._server.logs(ids, FIELDS)
        now = self._server.now()
        logs = []
        for stream_id, fields in zip(ids, read, strict=True):
            try:
                logs.append(self._log(stream_id, fields, asked, now))
            except (ValueError, TypeError, KeyError) as error:  # one that cannot be read must not hide the others
                logger.warning("log unreadable", stream_id=stream_id, error=type(error).__name__)
        for log in logs:
            if log is not None:
                yield log

    def _log(self, stream_id: str, fields: Fields, asked: int, now: float) -> RedisLog | None:
        """Return the log of some fields; None if it is not there, or if its retention is over."""
        beginning, body, own, *facts = fields
        ended = facts[FACTS.index("ended")]
        if ended is not None and float(ended) + (float(own) if own else self._retention) <= now:
            return None
        if beginning is None or body is None:
            self._ownership.gone(stream_id, asked)
            return None
        log = self._ownership.log(stream_id, lambda: self._make(load_beginning(beginning, body)))
        self._update(log, facts, asked)
        return log

    def _update(self, log: RedisLog, facts: Fields, asked: int) -> None:
        """Take in what was read of a log after the moment `asked`.

        A log that is written here is current already, unless nobody knows whether its last append was made.
        """
        stream_id, epoch = log.beginning.id, int(facts[0] or 0)
        self._ownership.heard(stream_id, epoch)
        if stream_id in self._ownership.held and log.failed is None:
            return
        if self._ownership.fresh(log, asked, epoch):
            log.fill(facts)
        if log.ending is not None:
            self._ownership.ended(stream_id)
