"""Leases, epochs and claims on the Redis server.

The script that makes an append checks its epoch. Claims are also heard of (`pubsub.py`): a relay that waits for its
upstream appends nothing, and has to be told as well. What follows from all this is decided in
`server.stores.ownership`.
"""

import secrets
import time
from collections.abc import Sequence

from server.stores.ownership import Ownership
from server.stores.redis.log import RedisLog
from server.stores.redis.server import PREFIX, Server

PATIENCE = 1.0  # seconds for one try to reconcile: another follows soon


class Lease:
    """The lease of this instance, and its questions to the server."""

    def __init__(self, server: Server, seconds: float, ownership: Ownership[RedisLog]) -> None:
        self.seconds = seconds
        self.name = secrets.token_hex(8)
        self._server = server
        self._ownership = ownership
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
        if self._ownership.due:
            await self._reconcile()
        await self._server.script("give_back", self.name, *self._ownership.held, patience=PATIENCE)

    async def renew(self) -> Sequence[RedisLog]:
        """Extend the lease if a third of it is over; return what was claimed elsewhere. Raises StoreError."""
        now = time.monotonic()
        if now >= self._renewed + self.seconds:
            self._ownership.missed()  # this process may have stood still, and have heard of no claim
        if now >= self._renewed + self.seconds / 3:
            await self._server.identify()
            await self.extend()
        if self._ownership.due:
            await self._reconcile()
        return self._ownership.told()

    async def _reconcile(self) -> None:
        """Ask the server which logs it says are ours, and give back those that nobody holds here. Raises StoreError."""
        with self._ownership.asking() as asked:
            answer = await self._server.script("ours", self.name, *self._ownership.held, patience=PATIENCE)
            ours = {stream_id.decode(): int(epoch) for stream_id, epoch in zip(answer[::2], answer[1::2], strict=True)}
            if back := self._ownership.reconcile(asked, ours):
                values = [value for log in back for value in log]
                await self._server.script("disown", self.name, *values, patience=PATIENCE)

    async def claim(self, log: RedisLog, force: bool) -> int:
        """Make a claim; return the new epoch, or 0 if the log is held or has ended. Raises StoreError."""
        await self._server.identify()
        values = (log.beginning.id, self.name, int(force), self._server.history, self._server.skip)
        return int(await self._server.script("claim", *values))
