"""Leases, epochs and claims of the Redis store: which instance may append to a log.

The script that makes an append checks its epoch. Claims are heard of, too (`redis_news.py`): a relay that waits for
its upstream, and so appends nothing, is told as well.
"""

import secrets
import time
from collections.abc import Sequence

from server.stores.redis.doubtful import Doubtful
from server.stores.redis.log import RedisLog
from server.stores.redis.pubsub import News
from server.stores.redis.server import PREFIX, Server


class Lease:
    """The lease of this instance, and the logs that it holds."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.seconds = seconds
        self.name = secrets.token_hex(8)
        self.held: dict[str, RedisLog] = {}
        self.doubtful = Doubtful(server, self.name, self.held)
        self._server = server
        self._fenced: list[RedisLog] = []  # to be told by the next `renew`
        self._renewed = 0.0

    async def extend(self) -> None:
        """Begin the lease anew. Raises StoreError."""
        key = f"{PREFIX}instance:{self.name}"
        began = time.monotonic()
        redis, milliseconds = self._server.redis, max(1, round(self.seconds * 1000))
        await self._server.ask(lambda: redis.set(key, 1, px=milliseconds), patience=0.0)
        self._renewed = began

    async def give_back(self) -> None:
        """End the lease: all logs can be claimed at once. Raises StoreError."""
        await self.doubtful.give_back()
        await self._server.script("give_back", self.name, *self.held, patience=1.0)

    async def renew(self, news: News) -> Sequence[RedisLog]:
        """Extend the lease where a third of it is over; return what was claimed elsewhere. Raises StoreError.

        What is doubtful is given back then.
        """
        now = time.monotonic()
        if now >= self._renewed + self.seconds:
            news.missed = True
        if now >= self._renewed + self.seconds / 3:
            await self._server.identify()
            await self.extend()
        if news.missed:
            await self._look_for_claims(news)
        await self.doubtful.give_back()
        fenced, self._fenced = [log for log in self._fenced if log.fenced], []  # others were claimed back since
        return fenced

    async def _look_for_claims(self, news: News) -> None:
        """Fence what was claimed without our hearing of it. Raises StoreError."""
        held = list(self.held.values())
        news.missed = False  # before: what is missed during the look is looked for by the next one
        try:
            found = await self._server.logs([log.beginning.id for log in held], ("epoch",))
        except BaseException:
            news.missed = True
            raise
        for log, (epoch,) in zip(held, found, strict=True):
            if epoch is None or log.epoch < int(epoch):  # it may be later than what was read
                self.fence(log)

    def claimed(self, stream_id: str, epoch: int) -> None:
        """Hear of a claim."""
        held = self.held.get(stream_id)
        if held is not None and held.epoch < epoch:
            self.fence(held)

    def let_go(self, log: RedisLog) -> None:
        """Note that a log has ended, or is gone."""
        if self.held.get(log.beginning.id) is log:
            del self.held[log.beginning.id]

    def fence(self, log: RedisLog) -> None:
        """Write a log no more."""
        log.fenced = True
        if self.held.get(log.beginning.id) is log:
            del self.held[log.beginning.id]
            self._fenced.append(log)

    async def claim(self, log: RedisLog, force: bool) -> int:
        """Take a log over; return its new epoch, or 0 where it is held or has ended. Raises StoreError."""
        await self._server.identify()
        values = (log.beginning.id, self.name, int(force), self._server.history, self._server.skip, time.time())
        epoch = int(await self._server.script("claim", *values))
        before = self.held.get(log.beginning.id)
        if epoch and before is not None and before is not log:
            before.fenced = True
        return epoch
