"""The Redis store passes the contract on a real server, and survives what happens to servers."""

import asyncio
import time

import internals
import pytest
from contract import DONE, DurableContract, beginning, ending, everything, tokens
from redis_server import RedisServer, running

from server.core.errors import StoreError
from server.stores.redis import server as redis_server
from server.stores.redis.server import SKIP
from server.stores.redis.store import RedisStore


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for the contract."""
    with running(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
def own_server(tmp_path):
    """A server of the test's own."""
    with running(tmp_path) as one:
        yield one


class TestRedis(DurableContract):
    """All of it."""

    url = ""

    @pytest.fixture(autouse=True)
    def _empty(self, server):
        self.url = server.url
        server.call("FLUSHALL")

    def new(self, settings):
        return RedisStore(settings)

    def tables(self, tmp_path):
        return {"kind": "redis", "url": self.url}

    async def lose(self, store, log):
        tail, size = log.tail, log.size
        for _ in range(3):
            await log.append(tokens(1))  # a replica that takes over does not have these
        redis, key = internals.redis_server(store).redis, log.beginning.id
        await redis.hset(f"sluiceway:log:{key}", mapping={"tail": tail, "size": size})
        await redis.xdel(f"sluiceway:records:{key}", *range(tail + 1, log.tail + 1))


def make(server, tmp_path):
    contract = TestRedis()
    contract.url = server.url
    return RedisStore(contract.settings(tmp_path))


async def test_a_restart(own_server, tmp_path):
    """The server is killed and comes back while ten streams are written: nothing fails, nothing is lost or doubled."""
    store = make(own_server, tmp_path)
    await store.open()
    logs = [await store.create(beginning()) for _ in range(10)]

    async def write(log):
        for n in range(1, 151):
            await log.append(tokens(1, first=n))
            await asyncio.sleep(0.005)
        await log.append(DONE, ending())

    writing = asyncio.gather(*map(write, logs))
    for _ in range(2):
        await asyncio.sleep(0.3)
        own_server.kill()
        await asyncio.sleep(0.3)
        await asyncio.to_thread(own_server.start)
    await writing
    for log in logs:
        found = await store.find(log.beginning.id)
        assert await everything(found) == tokens(150) + DONE
        assert list(found.lost) == []
    await store.close()


async def test_a_pause(own_server, tmp_path):
    """A server that stands still delays appends and loses none; what was sent twice is there once."""
    store = make(own_server, tmp_path)
    redis_timeout = redis_server.CALL_TIMEOUT
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(2))
    own_server.pause()
    appending = asyncio.create_task(log.append(tokens(1, first=3)))
    try:
        await asyncio.sleep(redis_timeout + 0.5)
        assert not appending.done()
    finally:
        own_server.go_on()
    await appending
    await log.append(DONE, ending())
    assert await everything(log) == tokens(3) + DONE
    await store.close()


async def test_gone_for_good(own_server, tmp_path, monkeypatch):
    """Without its server an append fails in bounded time, and the store says why it cannot be used."""
    monkeypatch.setattr(redis_server, "PATIENCE", 0.5)
    store = make(own_server, tmp_path)
    await store.open()
    log = await store.create(beginning())
    own_server.kill()
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"Redis at 127\.0\.0\.1:"):
        await log.append(tokens(1))
    assert time.monotonic() - began < 10
    assert "cannot be used" in (await store.problem() or "")
    with pytest.raises(StoreError):
        await store.create(beginning())
    await store.close()
    with pytest.raises(StoreError, match="cannot be used"):
        await make(own_server, tmp_path).open()


async def test_a_failover_under_its_writer(tmp_path):
    """A replica without the last records takes over: the writer goes on, its numbers too, and what is lost is named."""
    folders = [tmp_path / name for name in ("master", "replica")]
    for folder in folders:
        folder.mkdir()
    master, replica = map(RedisServer, folders)
    try:
        log, store = await _behind(master, replica, tmp_path)
        master.kill()
        replica.kill()
        replica.port = master.port  # it takes the master's address, as a failover behind a name does
        replica.start()
        await log.append(tokens(1, first=11))
        assert list(log.lost) == [(6, 10)]
        found = await store.find(log.beginning.id)
        assert await everything(found) == tokens(5)
        assert await found.read(10, 1000) == tokens(1, first=11)
        await store.close()
    finally:
        master.kill()
        replica.kill()


async def _behind(master, replica, tmp_path):
    """Give a log of ten records of which the replica has five."""
    master.start()
    replica.start()
    store = make(master, tmp_path)
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(5))
    replica.call("REPLICAOF", "127.0.0.1", str(master.port))
    key = f"sluiceway:log:{log.beginning.id}"
    async with asyncio.timeout(30):
        while b"5" not in replica.call("HGET", key, "tail"):  # noqa: ASYNC110  # another process sets no event
            await asyncio.sleep(0.05)
        while b"aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0" not in replica.call("INFO", "persistence"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # until its own file has what it got
    replica.call("REPLICAOF", "NO", "ONE")
    await log.append(tokens(5, first=6))
    return log, store


async def test_a_failover_and_a_takeover(tmp_path):
    """A takeover on a promoted replica passes numbers over instead of using one twice."""
    folders = [tmp_path / name for name in ("master", "replica")]
    for folder in folders:
        folder.mkdir()
    master, replica = map(RedisServer, folders)
    try:
        log, store = await _behind(master, replica, tmp_path)
        master.kill()
        other = make(replica, tmp_path)
        await other.open()
        found = await other.find(log.beginning.id)
        assert found.tail == 5
        assert await other.claim(found, force=True)
        assert found.tail == 5 + SKIP
        assert list(found.lost) == [(6, 5 + SKIP)]
        await found.append(DONE, ending())
        assert await found.read(5 + SKIP, 1000) == DONE
        await other.close()
        await store.close()
    finally:
        master.kill()
        replica.kill()
