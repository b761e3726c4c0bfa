"""The Redis store: any number of instances on any number of machines. It works on Valkey as well.

Appends of all streams go out together, each checked against its log's epoch in the same step (`lua/append.lua`).
Pub/sub only wakes: a follower also looks again on a timer. Persistence is Redis' own: run it with `appendonly yes`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from server.config.settings import Settings
from server.core.errors import StoreError
from server.core.records import Beginning
from server.stores.creation import Creation
from server.stores.group_commit import Append, Batches, answering, placed
from server.stores.ownership import Ownership
from server.stores.redis.catalog import Catalog
from server.stores.redis.lease import Lease
from server.stores.redis.log import RedisLog, Release, argument, entry_run, settle
from server.stores.redis.pubsub import PubSub
from server.stores.redis.server import CALL_TIMEOUT, PREFIX, Server
from server.stores.runs import Run

WINDOW = 0.001  # seconds between two batches
FOLLOW = 0.5  # seconds after which `follow` returns in any case
REFRESH = 0.02  # seconds between two looks at a log that grows
ENTRIES = 256  # appends that are read at once
AT_ONCE = 200  # logs deleted in one step: the server does nothing else meanwhile
KEPT = 3600.0  # seconds beyond the retention after which the server itself deletes an ended log


class RedisStore:
    """All logs of one Redis database."""

    durable = True

    def __init__(self, settings: Settings) -> None:
        self._retention = settings.streams.retention
        self._max_bytes = settings.store.max_bytes
        self._server = Server(settings.store.url)
        self._ownership: Ownership[RedisLog] = Ownership()
        self._lease = Lease(self._server, settings.store.lease, self._ownership)
        self._catalog = Catalog(self._server, self._ownership, partial(RedisLog, self), self._retention)
        self._pubsub: PubSub
        self.batches: Batches[Append[RedisLog] | Creation | Release]
        self._committing: asyncio.Task[None]
        self._marked: dict[str, float] = {}

    # --- open and close ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and wait while the server loads its data. Raises StoreError: at once if there is no server."""
        self.batches = Batches(self._commit, WINDOW)
        await self._server.open()
        await self._lease.extend()
        self._pubsub = PubSub(self._server.redis, PREFIX, self._ownership)
        await self._server.ask(self._pubsub.open)

    async def close(self) -> None:
        """Write what waits, give all logs back and disconnect."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                await self.batches.flush()
                await self._lease.give_back()
        except (StoreError, TimeoutError):
            pass  # the lease will run out
        await self._pubsub.close()
        await self._server.close()

    async def problem(self) -> str | None:
        """Return why the server cannot be used, or None. It is written to: a server that is full still answers."""
        try:
            await self._server.identify(patience=0.0)
            await self._server.ask(lambda: self._server.redis.set(f"{PREFIX}trial", 1, px=1000), patience=0.0)
        except StoreError as error:
            return str(error)
        return self._server.unfit

    # --- writing -------------------------------------------------------------------------------------------------

    def _commit(self, batch: list[Append[RedisLog] | Creation | Release], done: Callable[[], None]) -> None:
        self._committing = asyncio.create_task(self._write(batch), name="redis batch")
        self._committing.add_done_callback(lambda _: done())

    async def _write(self, batch: list[Append[RedisLog] | Creation | Release]) -> None:
        """Write one batch. A key that is released in it can be taken by a log that is created in it."""
        with answering(batch):
            now = time.time()
            releases = [write for write in batch if isinstance(write, Release)]
            creations = [write for write in batch if isinstance(write, Creation)]
            writes = placed(write for write in batch if isinstance(write, Append))
            if releases:
                await self._server.persist("release", [value for one in releases for value in _key(one.beginning)])
            for release in releases:
                release.succeed()
            ids = await self._server.persist("create", self._beginnings(creations)) if creations else []
            for creation, stream_id in zip(creations, ids, strict=True):
                creation.succeed(stream_id.decode())
            told = await self._server.persist("append", self._records(writes)) if writes else []
            answers = {int(place): answer for place, answer in (one.decode().split(" ") for one in told)}
            for place, write in enumerate(writes):
                settle(write, answers.get(place), now, self._ownership)

    def _beginnings(self, creations: Sequence[Creation]) -> list[Any]:
        values: list[Any] = [self._retention, self._lease.name, self._server.history]
        for creation in creations:
            key, stream_id = _key(creation.beginning)
            own = creation.beginning.retention
            values += (stream_id, key, creation.facts, creation.beginning.body, "" if own is None else own)
        return values

    def _records(self, writes: Sequence[Append[RedisLog]]) -> list[Any]:
        return [self._retention, KEPT, *map(argument, writes)]

    # --- leases --------------------------------------------------------------------------------------------------

    async def renew(self) -> Sequence[RedisLog]:
        """Extend the lease if a third of it is over; return what was claimed elsewhere. Raises StoreError."""
        return await self._lease.renew()

    async def claim(self, log: RedisLog, *, force: bool = False) -> bool:
        """Take a log over. Raises StoreError.

        After a failover the server may not have the last records that a client was shown. No number is used twice: the
        new epoch passes over more numbers than there can have been, as `lost`.
        """
        with self._ownership.begun(log.beginning.id):
            epoch = await self._lease.claim(log, force)
            if not epoch:
                return False
            await self.refresh(log)
            self._ownership.claimed(log, epoch)
        return True

    # --- creating and finding ------------------------------------------------------------------------------------

    async def create(self, beginning: Beginning) -> RedisLog:
        """Begin a log, or return the one that has the idempotency key. Raises StoreError."""
        creation = Creation(beginning)
        with self._ownership.begun(beginning.id):
            self.batches.put(creation)
            stream_id: str = await creation.decided()
            if stream_id == beginning.id:
                log = self._ownership.log(stream_id, partial(RedisLog, self, beginning))
                self._ownership.created(log)
                return log
        known = await self.find(stream_id)
        return known if known is not None else await self.create(beginning)

    async def release_key(self, log: RedisLog) -> None:
        """Forget the idempotency key of a log. Raises StoreError."""
        if log.beginning.idempotency is not None:
            release = Release(log.beginning)
            self.batches.put(release)
            await release.decided()

    async def find(self, stream_id: str) -> RedisLog | None:
        """Return a log as it is now. Raises StoreError."""
        return await self._catalog.find(stream_id)

    def logs(self) -> AsyncIterator[RedisLog]:
        """Yield every log, oldest first. Raises StoreError."""
        return self._catalog.logs()

    def orphans(self) -> AsyncIterator[RedisLog]:
        """Yield the logs without an ending whose holder has gone. Raises StoreError."""
        return self._catalog.orphans()

    async def runs_from(self, log: RedisLog, number: int) -> list[Run]:
        """Return the runs from the one with a record on. Raises StoreError."""
        key = f"{PREFIX}records:{log.beginning.id}"
        entries = await self._server.ask(lambda: self._server.redis.xrange(key, f"{number}-0", "+", count=ENTRIES))
        return [entry_run(entry_id, fields[b"r"]) for entry_id, fields in entries]

    # --- what other instances write ------------------------------------------------------------------------------

    async def refresh(self, log: RedisLog) -> None:
        """Bring a log that another instance writes up to date. Raises StoreError."""
        await self._catalog.refresh(log)

    async def follow(self, log: RedisLog) -> None:
        """Wait until a log that another instance writes is not as the last call has left it. Raises StoreError."""
        seen = log.followed_to  # others bring the object up to date as well: no change may be missed for that
        await self._mark(log)
        with self._pubsub.news_of(log.beginning.id) as news:
            await self.refresh(log)
            if log.state == seen:
                try:
                    async with asyncio.timeout(FOLLOW):
                        await news.wait()
                except TimeoutError:
                    pass  # the caller looks whether the holder is still alive
                await self.refresh(log)
            elif seen is not None:
                await asyncio.sleep(REFRESH)  # a log that grows with every token is looked at less often
        log.followed_to = log.state

    async def _mark(self, log: RedisLog) -> None:
        """Tell the holder now and then that there are readers here."""
        now = self._server.now()
        if now >= self._marked.get(log.beginning.id, 0.0) + self._lease.seconds / 3:
            self._marked[log.beginning.id] = now
            await self._server.ask(lambda: self._server.redis.hset(log.key, "followed", str(now)))

    async def followed(self, log: RedisLog) -> bool:
        """Whether another instance has followed this log within a lease. Raises StoreError."""
        at = await self._server.ask(lambda: self._server.redis.hget(log.key, "followed"))
        return at is not None and self._server.now() < float(at) + self._lease.seconds

    async def delete(self, log: RedisLog) -> bool:
        """Delete an ended log. Raises StoreError."""
        deleted = bool(await self._server.script("delete_ended", log.beginning.id))
        if deleted:
            log.forget()
        return deleted

    async def sweep(self, now: float) -> None:
        """Delete what is over. Raises StoreError.

        `now` is on the clock of this machine, and what ended on the server's. So only how far it is ahead counts.
        """
        self._marked = {one: at for one, at in self._marked.items() if at > self._server.now() - self._lease.seconds}
        ahead = now - time.time()
        await self._server.script("sweep", ahead, self._retention, self._max_bytes, AT_ONCE)
        self._ownership.forget(self._server.now() + ahead, self._retention)
        for log in self._ownership.ended_logs():  # a slow reader may keep a deleted one for long
            if not await self._server.ask(partial(self._server.redis.exists, log.key)):
                log.forget()


def _key(beginning: Beginning) -> tuple[str, str]:
    """Return a log's idempotency key, empty if it has none, and the log's id."""
    if beginning.idempotency is None:
        return "", beginning.id
    owner, key = beginning.owner, beginning.idempotency[0]
    # Both may contain colons: without the length, the owner "a:b" with "c" would be "a" with "b:c".
    return f"{len(owner)}:{owner}:{key}", beginning.id
