"""A gateway whose store cannot be written for a while."""

import asyncio
import re
from contextlib import asynccontextmanager

import internals
import pytest
import structlog.testing
import wire
from gateway import in_process
from redis_line import line_to
from redis_server import RedisServer
from store_outage import (
    LONG,
    QUICK,
    SENT,
    STREAMS,
    UNREADY,
    CheckedClient,
    check_resumed,
    check_stopped,
    check_unready,
    start_streams,
    until_ended,
)

from server.stores.redis import server as redis_server

PIECES = [f"word{n} " for n in range(60)]


@pytest.fixture
def events():
    """The log lines of one event."""
    with structlog.testing.capture_logs() as lines:
        yield lambda event: [line for line in lines if line["event"] == event]


async def test_a_store_that_cannot_be_written(provider, model, tmp_path, events):
    """Running streams end with a typed error behind whole ids, `/readyz` is 503; then both are well again."""
    await provider.script(model, {"pieces": PIECES, "rate": 60})
    store = {"kind": "sqlite", "path": str(tmp_path / "streams.db"), "lease": 1.0}
    async with in_process(provider.url, store=store) as gateway, wire.Client(gateway.root) as client:
        database = internals.database(gateway.app.store)
        await client.complete(model)
        status, head = await client.head()
        assert status == 200
        await client.events(5)
        await database.maintain(lambda db: db.execute("PRAGMA query_only = 1").fetchall())
        async with asyncio.timeout(20):
            while await client.more():
                pass
            shown = bytes(client.body)
            assert shown.rstrip().rpartition(b"\n")[2].startswith(b'data: {"error"')  # it is in no log: without an id
            assert b'"store_unavailable"' in shown
            numbered = [int(number) for number in re.findall(rb"^id: (\d+)$", shown, re.MULTILINE)]
            assert numbered == list(range(1, len(numbered) + 1))
            answer = await wire.call(gateway.root, "GET", "/readyz")
            assert (answer.status, answer.json) == (503, UNREADY)
            assert ["is read-only" in line["error"] for line in events("store unavailable")] == [True]
            await database.maintain(lambda db: db.execute("PRAGMA query_only = 0").fetchall())

            async def well() -> bool:
                return (await wire.call(gateway.root, "GET", "/readyz")).status == 200

            await wire.until(well)
        again = await wire.call(gateway.root, "GET", f"/v1/streams/{head['x-stream-id']}?after={numbered[-1]}")
        assert again.status == 200


@asynccontextmanager
async def killed(server):
    """Redis is gone, and comes back."""
    server.kill()
    yield "cannot be used"
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def full(server):
    """Redis answers, but has no memory for more."""
    assert server.call("CONFIG SET maxmemory 1") == b"+OK\r\n"
    yield "maxmemory"
    assert server.call("CONFIG SET maxmemory 0") == b"+OK\r\n"


@pytest.mark.parametrize("fault", [killed, full])
async def test_redis_is_away(provider, model, tmp_path, monkeypatch, events, fault):
    """Redis fails for longer than the store waits: streams end with a typed error, and go on when it is over."""
    monkeypatch.setattr(redis_server, "PATIENCE", 0.5)
    await provider.script(model, *[LONG] * (STREAMS + 1), QUICK)
    server = RedisServer(tmp_path)
    server.start()
    store = {"kind": "redis", "url": server.url, "lease": 1.0}
    try:
        async with in_process(provider.url, store=store, recovery={"strategy": "auto", "backoff": 0.05}) as gateway:
            clients, alone = await start_streams(gateway.root, model), CheckedClient()
            await alone.begin(gateway.root, model, {"X-On-Disconnect": "continue"})
            async with fault(server) as words:
                await check_stopped([*clients, alone])
                await check_unready(gateway.root, words, events)
            await check_resumed(gateway.root, model, clients)
            assert await until_ended(gateway.root, alone) == "complete"  # though nobody asks for it
            told = (await wire.call(gateway.root, "GET", alone.path)).events
            assert [event.data for event in told] == SENT
    finally:
        server.kill()


@asynccontextmanager
async def busy(server):
    """Redis runs somebody's script, and says so to everybody else."""
    server.call("CONFIG SET busy-reply-threshold 1")
    server.send("EVAL", '"while true do end"', "0")
    yield
    assert server.call("SCRIPT KILL") == b"+OK\r\n"


@pytest.mark.parametrize("fault", [killed, full, busy])
async def test_redis_is_away_for_a_moment(provider, model, tmp_path, fault):
    """Live streams wait for Redis, whatever it says or does not say meanwhile, and lose nothing."""
    await provider.script(model, *[{**QUICK, "rate": 150}] * STREAMS)
    server = RedisServer(tmp_path)
    server.start()
    try:
        store = {"kind": "redis", "url": server.url}
        async with in_process(provider.url, store=store) as gateway:
            clients = await start_streams(gateway.root, model)
            async with fault(server):

                async def unready():
                    return (await wire.call(gateway.root, "GET", "/readyz")).status == 503

                await wire.until(unready)
            for client in clients:
                await client.rest()
                client.check()
                assert (len(client.events), client.faults) == (len(SENT), [])
    finally:
        server.kill()


async def test_redis_loses_the_answer_to_an_ending(provider, model, redis, monkeypatch):
    """The client is told that the store is away. The ending is in the log; the client gets it when it comes back."""
    monkeypatch.setattr(redis_server, "PATIENCE", 0.5)
    await provider.script(model, {**QUICK, "rate": 300})
    async with (
        line_to(redis.port) as line,
        in_process(provider.url, store={"kind": "redis", "url": line.url, "lease": 1.0}) as gateway,
        asyncio.timeout(20),
    ):
        line.lose('"state":"complete"')
        client = CheckedClient()
        await client.begin(gateway.root, model)
        await check_stopped([client])
        line.mend()
        await client.resume(gateway.root)
        client.check()
        assert len(client.events) == len(SENT)
        assert await until_ended(gateway.root, client) == "complete"


async def test_redis_loses_an_answer_and_the_client_leaves(provider, model, redis, monkeypatch):
    """The stream ends behind every record of the log, also those whose answer was lost: no id is used twice."""
    monkeypatch.setattr(redis_server, "PATIENCE", 0.5)
    await provider.script(model, LONG)
    options = {"streams": {"linger": 0.5}}  # if the gateway hears of the failure before its client leaves
    async with (
        line_to(redis.port) as line,
        in_process(provider.url, store={"kind": "redis", "url": line.url, "lease": 1.0}, **options) as gateway,
        asyncio.timeout(20),
    ):
        client = CheckedClient()
        await client.begin(gateway.root, model, {"X-On-Disconnect": "cancel"})
        line.lose(client.path.rpartition("/")[2])
        await line.lost.wait()
        shown = wire.events_of(client.connection.body)
        client.connection.leave()
        await gateway.idle_streams()
        line.mend()
        assert await until_ended(gateway.root, client) == "cancelled"
        told = (await wire.call(gateway.root, "GET", client.path)).events
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    assert [event.data for event in told[:-1]] == SENT[: len(told) - 1]
    assert len(told) > len(shown) + 1
    assert b'"cancelled"' in told[-1].data
