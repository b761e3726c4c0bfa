"""The server of the Redis store: calls that wait until it is back, and which history of the data it has."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from server.core.errors import StoreError
from server.stores.redis.address import Address
from server.stores.redis.scripts import SCRIPTS

PREFIX = "sluiceway:"
CALL_TIMEOUT = 5.0  # seconds for one answer of the server
CONNECTIONS = 16  # a burst of requests waits for one of these instead of opening hundreds
PATIENCE = 10.0  # seconds that a call is made again while the server is away
PAUSE = 0.1  # seconds between two tries
SKIP = 1_000_000  # numbers passed over if a failover may have taken records: more than any can have been
AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    OSError,
)
# What a server that answers says while it cannot do its work for a time: another script runs, there is no memory, the
# disk is full, there are too few replicas, it becomes a replica. An older server puts it into the error of a script.
FOR_A_TIME = re.compile(r"(?:^|[\s-])(?:BUSY|OOM|MISCONF|NOREPLICAS|READONLY|MASTERDOWN|UNKILLABLE) ")


class Server:
    """One Redis database, connected to by `open`. Raises StoreError if the form of its address is wrong."""

    def __init__(self, url: str) -> None:
        self.redis: Any  # redis-py types its calls as sync or async, str or bytes, all at once
        self.history = ""  # the history of the server's data: a promoted replica begins another one
        self.skip = 0  # SKIP if a log of another history may have lost records
        self.unfit: str | None = None  # why it would lose what it is given, though it answers
        self._ahead = 0.0  # seconds from this process' monotonic clock to the server's time
        try:
            self._address = Address(url)
        except ValueError:  # its text may quote the password
            raise StoreError("The address of Redis cannot be read: see docs/scaling.md for its form.") from None
        self._writer: Any  # a connection of its own for the batches, which must not wait in a queue

    async def open(self) -> None:
        """Connect, and wait while the server loads its data. Raises StoreError: at once if there is no server."""
        options: dict[str, Any] = {"socket_connect_timeout": CALL_TIMEOUT, "retry": Retry(NoBackoff(), 0)}
        self.redis = redis.asyncio.Redis.from_pool(
            self._address.pool(
                max_connections=CONNECTIONS, timeout=CALL_TIMEOUT, socket_timeout=CALL_TIMEOUT, **options
            )
        )
        # One connection: a pool would look at it before each use. And one clock per call instead of two.
        pool = self._address.pool(max_connections=1, socket_timeout=None, **options)
        self._writer = redis.asyncio.Redis(connection_pool=pool, single_connection_client=True)
        self._scripts = {name: self.redis.register_script(text) for name, text in SCRIPTS.items()}
        try:
            await self.ask(lambda: self.redis.info("server"), patience=0.0)
            await self.identify()
            if self.unfit is not None:
                raise StoreError(self.unfit)
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect."""
        await self._writer.aclose(close_connection_pool=True)
        await self.redis.aclose()
        await self._address.close()

    def now(self) -> float:
        """Return the server's time, in seconds. The clocks of instances may differ, and delete each other's logs."""
        return time.monotonic() + self._ahead

    async def identify(self, patience: float | None = None) -> None:
        """Find out what server this is: its time, its history of the data, and whether it loses what it is given.

        A server that was restarted with an append-only file has everything that it confirmed. One without, or a replica
        that was promoted, may not have the last records that a client was shown. Raises StoreError.
        """
        await self.ask(self._identify, patience)

    async def _identify(self) -> None:
        info = await self.redis.info()
        if info.get("loading"):  # it answers, but says that it has no append-only file while it reads that
            raise exceptions.BusyLoadingError("Redis is loading the dataset in memory")
        self.history = str(info.get("master_replid", ""))
        promoted = set(str(info.get("master_replid2", "0"))) != {"0"}
        self.skip = SKIP if promoted or not info.get("aof_enabled") else 0
        words = unfit(info)
        self.unfit = None if words is None else f"Redis at {self._address.text} cannot be used: {words}"
        seconds, microseconds = await self.redis.time()
        self._ahead = seconds + microseconds / 1e6 - time.monotonic()

    async def ask(self, call: Callable[[], Awaitable[Any]], patience: float | None = None) -> Any:
        """Make one call, and again while the server is away: it may be made twice. Raises StoreError."""
        until = time.monotonic() + (PATIENCE if patience is None else patience)
        while True:
            try:
                return await call()
            except (RedisError, OSError) as error:
                if not is_away(error) or time.monotonic() >= until:
                    raise self._cannot(error) from error
                await asyncio.sleep(PAUSE)

    def _cannot(self, error: Exception) -> StoreError:
        return StoreError(f"Redis at {self._address.text} cannot be used: {error}")

    async def script(self, name: str, *values: Any, patience: float | None = None) -> Any:
        """Run a script. Raises StoreError."""
        return await self.ask(lambda: self._scripts[name](args=[PREFIX, *values]), patience)

    async def logs(
        self, ids: Sequence[str], fields: Sequence[str], patience: float | None = None
    ) -> list[list[bytes | None]]:
        """Return fields of logs, each None if it is not there. Raises StoreError."""

        def read() -> Awaitable[Any]:  # a pipeline that has failed is empty
            pipeline = self.redis.pipeline(transaction=False)
            for one in ids:
                pipeline.hmget(f"{PREFIX}log:{one}", fields)
            return cast("Awaitable[Any]", pipeline.execute())

        return cast("list[list[bytes | None]]", await self.ask(read, patience))

    async def persist(self, script: str, values: list[Any]) -> list[bytes]:
        """Write. If an answer is lost on the way, it is written again: the scripts notice that. Raises StoreError."""

        async def write() -> Any:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await self._scripts[script](args=[PREFIX, *values], client=self._writer)

        return cast("list[bytes]", await self.ask(write))


def is_away(error: Exception) -> bool:
    """Whether the same call may succeed when the server is back, or has room again."""
    return isinstance(error, AWAY) or FOR_A_TIME.search(str(error)) is not None


def unfit(info: Mapping[str, Any]) -> str | None:
    """Return why a server would lose logs or cannot hold them, or None.

    `info` is what INFO says (https://redis.io/docs/latest/commands/info/).
    """
    mode, policy = info.get("redis_mode"), str(info.get("maxmemory_policy", ""))
    if mode == "cluster":
        return "it is a cluster, and a batch holds keys of several slots; use one server, or Sentinel"
    if mode == "sentinel":
        return "it is a sentinel; use redis+sentinel://host:port/service"
    if policy.startswith("allkeys-"):
        return f"its maxmemory-policy is {policy}, which deletes live streams; set noeviction"
    return None
