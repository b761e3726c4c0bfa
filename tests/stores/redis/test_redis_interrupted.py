"""Requests that Redis has carried out though the answer was lost: nothing is said twice, and no log stays unowned."""

import asyncio

import internals
import pytest
from contract import DONE, beginning, ending, everything, listed, tokens, until
from redis_line import line_to
from redis_server import running
from test_redis import TestRedis as Contract

from server.core.errors import StoreError
from server.core.records import dump_beginning
from server.stores.redis import server as redis_server
from server.stores.redis.store import RedisStore


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
        made.append(RedisStore(contract.settings(tmp_path, lease=30.0)))
        await made[-1].open()
        for script in internals.scripts(made[-1]).values():
            await internals.redis_server(made[-1]).redis.script_load(script.script)
    yield made
    line.mend()
    for store in made:
        await store.close()


@pytest.mark.parametrize("left", [False, True])
async def test_an_append_that_was_made(stores, line, left):
    """Nothing takes its number until the log is claimed again. The claim finds it there."""
    store, other = stores
    log = await store.create(beginning())
    await log.append(tokens(3))
    line.lose(log.beginning.id)
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
    found = await store.find(log.beginning.id)
    assert found.tail == 4
    assert await store.claim(found)
    await found.append(DONE, ending())
    seen = await other.find(log.beginning.id)
    assert await everything(seen) == tokens(4) + DONE
    assert seen.ending == found.ending


async def test_an_ending_that_was_made(stores, line):
    """Every look finds it: those of its writer, and those of other instances."""
    store, _ = stores
    log = await store.create(beginning())
    await log.append(tokens(3))
    line.lose(log.beginning.id)
    over = ending()
    with pytest.raises(StoreError):
        await log.append(DONE, over)
    line.mend()
    await store.refresh(log)
    assert (log.tail, log.ending) == (4, over)
    for one in stores:
        found = await one.find(log.beginning.id)
        assert found.ending == over
        assert await everything(found) == tokens(3) + DONE
        assert not await one.claim(found, force=True)


def word(store, script):
    """Give a word that only calls of a script have in them."""
    return internals.scripts(store)[script].sha


async def held_by(server, log):
    """Give which instance the server says that a log is held by."""
    return server.call("HGET", f"sluiceway:log:{log.beginning.id}", "instance").split(b"\r\n")[1].decode()


@pytest.mark.parametrize("step", ["claim", "refresh"])
async def test_a_claim_that_was_made(stores, line, step):
    """It is given back as soon as the server answers: anybody can claim the log at once, its former holder as well."""
    store, other = stores
    log = await other.create(beginning())
    await log.append(tokens(2))
    found = await store.find(log.beginning.id)
    line.lose(word(store, "claim") if step == "claim" else f"log:{log.beginning.id}")
    with pytest.raises(StoreError):
        await store.claim(found, force=True)
    with pytest.raises(StoreError):
        await store.renew()
    line.mend()
    assert not await other.claim(log)
    await store.renew()
    assert log.beginning.id in [orphan.beginning.id async for orphan in other.orphans()]
    assert await other.claim(log)
    await log.append(DONE, ending())
    assert await everything(log) == tokens(2) + DONE


async def test_a_claim_that_was_made_again(stores, line, server):
    """A log that is held again, or is being claimed, is not given back."""
    store, other = stores
    log = await other.create(beginning())
    for _ in range(20):
        line.lose(word(store, "claim"))
        with pytest.raises(StoreError):
            await store.claim(log, force=True)
        line.mend()
        assert (await asyncio.gather(store.claim(log, force=True), store.renew(), store.renew()))[0]
        await store.renew()
        assert await held_by(server, log) == internals.lease(store).name
        await log.append(tokens(1))
        assert await other.claim(log, force=True)
        await store.renew()
        assert await held_by(server, log) == internals.lease(other).name


async def test_a_claim_that_another_has_made_since(stores, line, server):
    """The log stays with that instance."""
    store, other = stores
    log = await other.create(beginning())
    found = await store.find(log.beginning.id)
    line.lose(word(store, "claim"))
    with pytest.raises(StoreError):
        await store.claim(found, force=True)
    line.mend()
    assert await other.claim(log, force=True)
    await store.renew()
    await log.append(tokens(1))
    assert await held_by(server, log) == internals.lease(other).name


async def test_a_list_whose_answer_was_lost(stores, line):
    """It is asked for again, whole."""
    store, _ = stores
    made = {(await store.create(beginning())).beginning.id for _ in range(3)}
    line.lose(f"log:{min(made)}", dead=False)
    assert set(await listed(store)) == made
    assert line.lost.is_set()


async def lost_creation(store, line, **facts):
    """Give the beginning of a log that was made though nobody was told."""
    made = beginning(idempotency=("k", "a"), **facts)
    line.lose(made.id)
    with pytest.raises(StoreError):
        await store.create(made)
    line.mend()
    return made


async def test_a_creation_that_was_made(stores, line, server):
    """It is deleted as soon as the server answers, and its key is free: its client was told that there is none."""
    store, other = stores
    made = await lost_creation(store, line)
    assert await other.find(made.id) is not None
    await store.renew()
    assert await other.find(made.id) is None
    again = beginning(owner=made.owner, idempotency=("k", "a"))
    assert (await other.create(again)).beginning.id == again.id
    assert server.call("ZRANGE", "sluiceway:open", "0", "-1").count(b"strm_") == 1
    assert server.call("ZCARD", "sluiceway:logs") == b":1\r\n"


async def test_a_creation_that_was_joined(stores, line):
    """A client that came back with its key keeps the log: an instance that follows it can claim it, or holds it."""
    store, other = stores
    made = await lost_creation(store, line)
    log = await store.create(beginning(owner=made.owner, idempotency=("k", "a")))
    assert log.beginning == made
    assert await store.claim(log)
    await store.renew()
    await log.append(DONE, ending())

    made = await lost_creation(store, line)
    log = await other.create(beginning(owner=made.owner, idempotency=("k", "a")))
    assert log.beginning == made
    assert not await other.claim(log)
    await other.follow(log)
    await store.renew()
    assert await other.claim(log)
    await log.append(DONE, ending())


async def test_closed_after_an_interrupted_creation(stores, line, server):
    """A store that is closed leaves no log behind that nobody has begun."""
    store, other = stores
    made = await lost_creation(store, line)
    await store.close()
    assert await other.find(made.id) is None
    await store.open()


async def test_a_look_that_was_overtaken(stores, line):
    """A store's answer that is older than a claim of this instance does not fence the log."""
    store, _ = stores
    log = await store.create(beginning())
    internals.ownership(store).missed()
    line.keep(word(store, "ours"))
    looking = asyncio.create_task(store.renew())
    await line.lost.wait()
    assert await store.claim(log)
    line.mend()
    assert await looking == []
    await log.append(tokens(1))


async def test_a_look_that_failed(stores, line, server):
    """Claims that may have gone unheard are looked for until the server has answered."""
    store, other = stores
    log, heard = [await store.create(beginning()) for _ in range(2)]
    line.cut()
    assert await other.claim(await other.find(log.beginning.id), force=True)
    line.mend()
    found = await other.find(heard.beginning.id)

    async def listening():
        assert await other.claim(found, force=True)
        return heard.fenced

    await until(listening)
    assert server.call("ACL SETUSER default -zrange") == b"+OK\r\n"
    with pytest.raises(StoreError, match="can't run this command"):
        await store.renew()
    assert server.call("ACL SETUSER default +zrange") == b"+OK\r\n"
    assert set(await store.renew()) == {log, heard}


async def test_looks_that_overtake_each_other(stores, line):
    """Two looks at a log that is written elsewhere: if the older one is answered last, it takes nothing back."""
    store, other = stores
    log = await other.create(beginning())
    await log.append(tokens(2))
    found = await store.find(log.beginning.id)
    line.keep(f"log:{log.beginning.id}")
    older = asyncio.create_task(store.refresh(found))
    await line.lost.wait()
    await log.append(tokens(3, 3))
    younger = asyncio.create_task(store.refresh(found))
    await asyncio.wait([younger], timeout=0.1)
    line.mend()
    await asyncio.gather(older, younger)
    assert found.tail == log.tail
    assert await everything(found) == tokens(5)


async def test_a_creation_that_comes_late(stores):
    """A request to create that arrives twice takes nothing from the log that was written meanwhile."""
    store, other = stores
    made = beginning()
    log = await store.create(made)
    await log.append(tokens(2))
    late = (
        600.0,
        internals.lease(store).name,
        internals.redis_server(store).history,
        made.id,
        "",
        dump_beginning(made),
        made.body,
    )
    assert await internals.redis_server(store).script("create", *late) == [made.id.encode()]
    assert await everything(await other.find(made.id)) == tokens(2)
