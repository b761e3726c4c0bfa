"""What was done in Redis though its answer was lost: nothing is said twice, and nothing stays with nobody."""

import asyncio

import pytest
from contract import DONE, birth, ending, everything, tokens
from redis_line import line_to
from redis_server import running
from test_redis import TestRedis as Contract

from server.core.errors import StoreError
from server.stores import redis_server
from server.stores.redis import RedisStore


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for these tests."""
    with running(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
async def line(server, monkeypatch):
    """A line to it, and stores that wait for it no longer than a moment."""
    monkeypatch.setattr(redis_server, "PATIENCE", 0.3)
    server.call("FLUSHALL")
    async with line_to(server.port) as one:
        yield one


@pytest.fixture
async def stores(server, line, tmp_path):
    """One store at the end of the line, and one that has its own."""
    made = []
    for url in (line.url, server.url):
        contract = Contract()
        contract.url = url
        made.append(RedisStore(contract.settings(tmp_path)))
        await made[-1].open()
    yield made
    line.mend()
    for store in made:
        await store.close()


@pytest.mark.parametrize("left", [False, True])
async def test_an_append_that_was_made(stores, line, left):
    """Nothing takes its number: not before its log was claimed again, which finds it there."""
    store, other = stores
    log = await store.create(birth())
    await log.append(tokens(3))
    line.lose(log.birth.id)
    appending = asyncio.create_task(log.append(tokens(1, first=4)))
    await line.lost.wait()
    if left:
        appending.cancel()
    with pytest.raises(asyncio.CancelledError if left else StoreError):
        await appending
    line.mend()
    for end in (None, ending()):
        with pytest.raises(StoreError, match="cannot be used"):
            await log.append(DONE, end)
    found = await store.find(log.birth.id)
    assert found.tail == 4
    assert await store.claim(found)
    await found.append(DONE, ending())
    seen = await other.find(log.birth.id)
    assert await everything(seen) == tokens(4) + DONE
    assert seen.ending == found.ending


async def test_an_ending_that_was_made(stores, line):
    """Whoever looks finds it, its writer and those who follow there as well."""
    store, _ = stores
    log = await store.create(birth())
    await log.append(tokens(3))
    line.lose(log.birth.id)
    over = ending()
    with pytest.raises(StoreError):
        await log.append(DONE, over)
    line.mend()
    await store.refresh(log)
    assert (log.tail, log.ending) == (4, over)
    for one in stores:
        found = await one.find(log.birth.id)
        assert found.ending == over
        assert await everything(found) == tokens(3) + DONE
        assert not await one.claim(found, force=True)
