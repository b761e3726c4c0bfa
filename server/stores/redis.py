"""The Redis store: any number of instances on any number of machines; works on Valkey as well.

The log is the truth: appends of all streams go out together, each checked against its log's epoch in the same step
(`redis_scripts.py`). Pub/sub only wakes; whoever waits looks again on a timer, too. Persistence is Redis' own: run it
with `appendonly yes`.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from server.config import Settings
from server.core.errors import StoreError
from server.core.records import Birth, Ending, dump_birth, load_birth, load_ending
from server.stores import redis_scripts as scripts
from server.stores.appends import Append, Creation, placed
from server.stores.batches import Batches, answering
from server.stores.packed import Run
from server.stores.redis_log import RedisLog, Release, argument, entry_run, settle
from server.stores.redis_news import News

PREFIX = "sluiceway:"
WINDOW = 0.001  # seconds between two batches
CALL_TIMEOUT = 5.0  # seconds for one answer of the server
CONNECTIONS = 16  # a burst of requests waits for one of these instead of opening hundreds
PATIENCE = 10.0  # seconds that a call is made again while the server is away
PAUSE = 0.1  # seconds between two tries
FOLLOW = 0.5  # seconds after which `follow` returns in any case
REFRESH = 0.02  # seconds between two looks at a log that grows
PAGE = 500  # logs that are read at once for a list
ENTRIES = 256  # appends that are read at once
AT_ONCE = 200  # logs deleted in one step: the server does nothing else meanwhile
SKIP = 1_000_000  # numbers passed over where a failover may have taken records: more than any can have been
KEPT = 3600.0  # seconds beyond the retention after which the server itself deletes an ended log
FIELDS = ("birth", "body", "epoch", "tail", "size", "lost", "active", "target", "ended", "ending")
AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, OSError)


class RedisStore:
    """All logs of one Redis database."""

    durable = True

    def __init__(self, settings: Settings) -> None:
        self._retention = settings.streams.retention
        self._max_bytes = settings.store.max_bytes
        self._lease = settings.store.lease
        self._url = settings.store.url
        self._name = secrets.token_hex(8)
        self._redis: Any  # redis-py types its calls as sync or async, str or bytes, all at once
        self._writer: Any  # one connection for what the batches write, which must not stand in a queue
        self._news: News
        self.batches: Batches[Append[RedisLog] | Creation | Release]
        self._committing: asyncio.Task[None]
        self._held: dict[str, RedisLog] = {}
        self._fenced: list[RedisLog] = []
        self._renewed = 0.0
        self._marked: dict[str, float] = {}
        self._server = ""  # which history of the data this is
        self._skip = 0  # SKIP where a log of another history may have lost records

    # --- open and close ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and wait while the server loads its data. Raises StoreError: at once where there is no server."""
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            self._url,
            max_connections=CONNECTIONS,
            timeout=CALL_TIMEOUT,
            socket_timeout=CALL_TIMEOUT,
            socket_connect_timeout=CALL_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = redis.asyncio.Redis.from_pool(pool)
        # Without a pool, which would look at the connection before each use, and with one clock a call instead of two.
        self._writer = redis.asyncio.Redis.from_url(
            self._url,
            single_connection_client=True,
            socket_timeout=None,
            socket_connect_timeout=CALL_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._scripts = {
            name: self._redis.register_script(getattr(scripts, name))
            for name in ("APPEND", "RELEASE", "CREATE", "CLAIM", "ORPHANS", "GIVE_BACK", "SWEEP")
        }
        self.batches = Batches(self._commit, WINDOW)
        await self._ask(lambda: self._redis.info("server"), patience=0.0)
        await self._ask(self._identify)
        await self._extend()
        self._news = News(self._redis, PREFIX, self._claimed)
        await self._ask(self._news.open)

    async def close(self) -> None:
        """Write what waits, give all logs back and disconnect."""
        give_back = self._scripts["GIVE_BACK"]
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                await self.batches.flush()
                await self._ask(lambda: give_back(args=[PREFIX, self._name, *self._held]), patience=1.0)
        except (StoreError, TimeoutError):
            pass  # the lease will run out
        await self._news.close()
        await self._writer.aclose()
        await self._redis.aclose()

    async def _identify(self) -> None:
        """Find out which history of the data the server has, and whether a log of another one may be short.

        A server that was restarted with an append-only file has everything that it confirmed. One without, or a replica
        that was promoted, may not have the last records that a client was shown.
        """
        info = await self._redis.info("replication") | await self._redis.info("persistence")
        if info.get("loading"):  # it answers, but says that it has no append-only file while it reads that
            raise exceptions.BusyLoadingError("Redis is loading the dataset in memory")
        self._server = str(info.get("master_replid", ""))
        promoted = set(str(info.get("master_replid2", "0"))) != {"0"}
        self._skip = SKIP if promoted or not info.get("aof_enabled") else 0

    async def problem(self) -> str | None:
        """Return why the server cannot be used, or None: one that is full answers, but cannot be written."""
        try:
            await self._ask(lambda: self._redis.set(f"{PREFIX}trial", 1, px=1000), patience=0.0)
        except StoreError as error:
            return str(error)
        return None

    # --- asking --------------------------------------------------------------------------------------------------

    async def _ask(self, call: Callable[[], Awaitable[Any]], patience: float | None = None) -> Any:
        """Make one call, which may be made twice; try again while the server is away. Raises StoreError."""
        until = time.monotonic() + (PATIENCE if patience is None else patience)
        while True:
            try:
                return await call()
            except AWAY as error:
                if time.monotonic() >= until:
                    raise self._cannot(error) from error
                await asyncio.sleep(PAUSE)
            except RedisError as error:
                raise self._cannot(error) from error

    def _cannot(self, error: Exception) -> StoreError:
        return StoreError(f"Redis at {self._address()} cannot be used: {error}")

    def _address(self) -> str:
        return self._url.rsplit("@", 1)[-1].removeprefix("redis://")  # without a password

    async def _script(self, name: str, *values: Any) -> Any:
        return await self._ask(lambda: self._scripts[name](args=[PREFIX, *values]))

    # --- writing -------------------------------------------------------------------------------------------------

    def _commit(self, batch: list[Append[RedisLog] | Creation | Release], done: Callable[[], None]) -> None:
        self._committing = asyncio.create_task(self._write(batch), name="redis batch")
        self._committing.add_done_callback(lambda _: done())

    async def _write(self, batch: list[Append[RedisLog] | Creation | Release]) -> None:
        """Write one batch; whatever is released in it can be taken by what is created in it."""
        with answering(batch):
            now = time.time()
            releases = [write for write in batch if isinstance(write, Release)]
            creations = [write for write in batch if isinstance(write, Creation)]
            writes = placed(write for write in batch if isinstance(write, Append))
            if releases:
                await self._persist("RELEASE", [value for one in releases for value in _key(one.birth)])
            for release in releases:
                release.succeed()
            found = await self._persist("CREATE", self._births(creations, now)) if creations else []
            for creation, stream_id in zip(creations, found, strict=True):
                creation.succeed(stream_id.decode())
            told = await self._persist("APPEND", self._records(writes, now)) if writes else []
            answers = {int(place): answer for place, answer in (one.decode().split(" ") for one in told)}
            for place, write in enumerate(writes):
                settle(write, answers.get(place), now)
                if write.log.fenced:
                    self._fence(write.log)
                elif write.log.ending is not None:
                    self._held.pop(write.log.birth.id, None)

    def _births(self, creations: Sequence[Creation], now: float) -> list[Any]:
        values: list[Any] = [now, self._retention, self._name, self._server]
        for creation in creations:
            key, stream_id = _key(creation.birth)
            values += (stream_id, key, dump_birth(creation.birth), creation.birth.body)
        return values

    def _records(self, writes: Sequence[Append[RedisLog]], now: float) -> list[Any]:
        return [round((self._retention + KEPT) * 1000), now, *map(argument, writes)]

    async def _persist(self, script: str, values: list[Any]) -> list[bytes]:
        """Write. The scripts know what is written again because the answer was lost on the way."""

        async def write() -> Any:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await self._scripts[script](args=[PREFIX, *values], client=self._writer)

        return cast("list[bytes]", await self._ask(write))

    # --- fences and leases ---------------------------------------------------------------------------------------

    def _fence(self, log: RedisLog) -> None:
        log.fenced = True
        if self._held.get(log.birth.id) is log:
            del self._held[log.birth.id]
            self._fenced.append(log)

    def _claimed(self, stream_id: str, epoch: int) -> None:
        """Hear of a claim."""
        held = self._held.get(stream_id)
        if held is not None and held.epoch < epoch:
            self._fence(held)

    async def _extend(self) -> None:
        key = f"{PREFIX}instance:{self._name}"
        began = time.monotonic()
        await self._ask(lambda: self._redis.set(key, 1, px=max(1, round(self._lease * 1000))), patience=0.0)
        self._renewed = began

    async def renew(self) -> Sequence[RedisLog]:
        """Extend the lease where a third of it is over; return what was claimed elsewhere. Raises StoreError."""
        now = time.monotonic()
        lapsed, deaf = now >= self._renewed + self._lease, self._news.missed
        if lapsed or now >= self._renewed + self._lease / 3:
            await self._ask(self._identify)
            await self._extend()
        if lapsed or deaf:  # claims may have gone unheard
            self._news.missed = False
            held = list(self._held.values())
            pipeline = self._redis.pipeline(transaction=False)
            for log in held:
                pipeline.hget(log.key, "epoch")
            for log, epoch in zip(held, await self._ask(pipeline.execute), strict=True):
                if epoch is None or int(epoch) != log.epoch:
                    self._fence(log)
        fenced, self._fenced = [log for log in self._fenced if log.fenced], []  # others were claimed back since
        return fenced

    async def claim(self, log: RedisLog, *, force: bool = False) -> bool:
        """Take a log over. Raises StoreError.

        After a failover the server may not have the last records that a client was shown. No number is used twice: the
        new epoch passes over more numbers than there can have been, as `lost`.
        """
        await self._ask(self._identify)
        values = (log.birth.id, self._name, int(force), self._server, self._skip, time.time())
        epoch = int(await self._script("CLAIM", *values))
        if not epoch:
            return False
        before = self._held.get(log.birth.id)
        if before is not None and before is not log:
            before.fenced = True
        await self.refresh(log)
        log.hold(epoch)
        self._held[log.birth.id] = log
        return True

    # --- creating and finding --------------------------------------------------------------------------------------

    async def create(self, birth: Birth) -> RedisLog:
        """Begin a log, or return the one that has the idempotency key. Raises StoreError."""
        creation = Creation(birth)
        self.batches.put(creation)
        found = await creation.decided()
        if found != birth.id:
            known = await self.find(found)
            return known if known is not None else await self.create(birth)
        log = self._held[birth.id] = RedisLog(self, f"{PREFIX}log:{birth.id}", birth)
        return log

    async def release_key(self, log: RedisLog) -> None:
        """Forget the idempotency key of a log. Raises StoreError."""
        if log.birth.idempotency is not None:
            release = Release(log.birth)
            self.batches.put(release)
            await release.decided()

    async def find(self, stream_id: str) -> RedisLog | None:
        """Return a log as it is now. Raises StoreError."""
        facts = await self._facts(stream_id)
        held = self._held.get(stream_id)
        if held is not None and facts[2] is not None:
            self._claimed(stream_id, int(facts[2]))  # it may have been claimed without our hearing of it
        return self._held.get(stream_id) or self._load(stream_id, facts)

    async def _facts(self, stream_id: str) -> list[bytes | None]:
        facts: list[bytes | None] = await self._ask(lambda: self._redis.hmget(f"{PREFIX}log:{stream_id}", FIELDS))
        return facts

    def _load(self, stream_id: str, facts: list[bytes | None]) -> RedisLog | None:
        birth, body, *rest = facts
        if birth is None or body is None:
            return None
        log = RedisLog(self, f"{PREFIX}log:{stream_id}", load_birth(birth, body))
        log.fill(rest, self._ending(rest[-1]))
        return None if log.ending is not None and time.time() >= log.ending.at + self._retention else log

    def _ending(self, facts: bytes | None) -> Ending | None:
        return load_ending(facts) if facts is not None else None

    async def logs(self) -> AsyncIterator[RedisLog]:
        """Yield every log, oldest first. Raises StoreError."""
        ids = await self._ask(lambda: self._redis.zrange(f"{PREFIX}logs", 0, -1))
        for at in range(0, len(ids), PAGE):
            async for log in self._several(ids[at : at + PAGE]):
                yield self._held.get(log.birth.id, log)

    async def orphans(self) -> AsyncIterator[RedisLog]:
        """Yield the logs without an ending whose holder has gone. Raises StoreError."""
        async for log in self._several(await self._script("ORPHANS")):
            yield log

    async def _several(self, ids: Sequence[bytes]) -> AsyncIterator[RedisLog]:
        pipeline = self._redis.pipeline(transaction=False)
        for one in ids:
            pipeline.hmget(f"{PREFIX}log:{one.decode()}", FIELDS)
        for one, facts in zip(ids, await self._ask(pipeline.execute), strict=True):
            log = self._load(one.decode(), facts)
            if log is not None:
                yield log

    async def run_of(self, log: RedisLog, number: int) -> list[Run]:
        """Return the runs from the one with a record on. Raises StoreError."""
        key = f"{PREFIX}records:{log.birth.id}"
        found = await self._ask(lambda: self._redis.xrange(key, f"{number}-0", "+", count=ENTRIES))
        return [entry_run(fields[b"r"]) for _, fields in found]

    # --- what other instances write --------------------------------------------------------------------------------

    async def refresh(self, log: RedisLog) -> None:
        """Bring a log that another instance writes up to date. Raises StoreError."""
        birth, _, *rest = await self._facts(log.birth.id)
        if birth is None:
            raise StoreError(f"stream {log.birth.id} is gone")
        log.fill(rest, self._ending(rest[-1]))

    async def follow(self, log: RedisLog) -> None:
        """Wait for something new in a log that another instance writes. Raises StoreError."""
        await self._mark(log)
        before = (log.tail, log.ending)
        with self._news.of(log.birth.id) as news:
            await self.refresh(log)
            if (log.tail, log.ending) != before:
                await asyncio.sleep(REFRESH)  # a log that grows with every token is looked at less often
                return
            try:
                async with asyncio.timeout(FOLLOW):
                    await news.wait()
            except TimeoutError:
                pass  # the caller looks whether the holder is still alive
            await self.refresh(log)

    async def _mark(self, log: RedisLog) -> None:
        """Tell the holder now and then that there are readers here."""
        now = time.time()
        if now >= self._marked.get(log.birth.id, 0.0) + self._lease / 3:
            self._marked[log.birth.id] = now
            await self._ask(lambda: self._redis.hset(log.key, "followed", str(now)))

    async def followed(self, log: RedisLog) -> bool:
        """Whether another instance has followed this log within a lease. Raises StoreError."""
        at = await self._ask(lambda: self._redis.hget(log.key, "followed"))
        return at is not None and time.time() < float(at) + self._lease

    async def sweep(self, now: float) -> None:
        """Delete what is over. Raises StoreError."""
        self._marked = {one: at for one, at in self._marked.items() if at > now - self._lease}
        await self._script("SWEEP", now - self._retention, self._max_bytes, AT_ONCE)


def _key(birth: Birth) -> tuple[str, str]:
    """Return a log's idempotency key, empty where it has none, and the log's id."""
    return f"{birth.owner}:{birth.idempotency[0]}" if birth.idempotency else "", birth.id
