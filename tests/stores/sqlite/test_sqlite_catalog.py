"""What the SQLite store says of a log that changes meanwhile is never older than what it has shown."""

import time

import internals
import pytest
from contract import DONE, beginning, ending, everything, tokens
from test_sqlite import TestSqlite as Contract

from server.core.errors import StoreError
from server.core.records import Record
from server.stores.sqlite.catalog import LOGS
from server.stores.sqlite.store import SqliteStore

RETENTION = 600.0
LARGE = [Record("chunk", b"x" * 70_000)]  # more than what is put into a chunk


@pytest.fixture
async def stores(tmp_path):
    """Two instances of one store."""
    made = [SqliteStore(Contract().settings(tmp_path)) for _ in range(2)]
    for store in made:
        await store.open()
    yield made
    for store in made:
        await store.close()


@pytest.fixture
def meanwhile(monkeypatch):
    """Have something done between a store's next read of rows of logs and its answer, which is that old then."""

    def prepare(store, work):
        read = internals.database(store).rows

        async def late(query, *values):
            rows = await read(query, *values)
            if query.startswith(LOGS):
                monkeypatch.setattr(internals.database(store), "rows", read)
                await work()
            return rows

        monkeypatch.setattr(internals.database(store), "rows", late)

    return prepare


# --- who looks ---------------------------------------------------------------------------------------------------


async def find(store, reading):
    """By its id."""
    return await store.find(reading.beginning.id)


async def logs(store, reading):
    """In a list of all."""
    return {log.beginning.id: log async for log in store.logs()}.get(reading.beginning.id)


async def refresh(store, reading):
    """Again."""
    try:
        await store.refresh(reading)
    except StoreError:
        return None
    return reading


looks = pytest.mark.parametrize("look", [find, logs, refresh])


def facts(log):
    return log.tail, log.size, log.ending, log.epoch, list(log.lost)


async def begun(one, two):
    """Give a log that `two` writes, and what `one` knows of it."""
    log = await two.create(beginning())
    await log.append(tokens(3))
    return log, await one.find(log.beginning.id)


async def taken(one, two):
    """Give a log that `one` has taken over, and what it knew of it before."""
    log, reading = await begun(one, two)
    held = await one.find(log.beginning.id)
    assert await one.claim(held, force=True)
    await held.append(tokens(2, first=4))
    return held, reading


# --- what happens meanwhile --------------------------------------------------------------------------------------


@looks
async def test_ends_here(stores, meanwhile, look):
    """A log that ends here while its row is read has its tail, its bytes and its ending."""
    one, two = stores
    log, reading = await taken(one, two)
    meanwhile(one, lambda: log.append(DONE, ending()))
    seen = await look(one, reading)
    assert log.ending is not None
    assert facts(seen) == facts(log)
    assert await everything(seen) == tokens(5) + DONE


@looks
@pytest.mark.parametrize("ended", [False, True])
async def test_written_elsewhere(stores, meanwhile, look, ended):
    """So has one that ends elsewhere, or goes into a chunk there, when this process has shown that already."""
    one, two = stores
    log, reading = await begun(one, two)

    async def work():
        await (log.append(DONE, ending()) if ended else log.append(LARGE))
        assert facts(await one.find(log.beginning.id)) == facts(log)

    meanwhile(one, work)
    seen = await look(one, reading)
    assert facts(seen) == facts(log)
    assert await everything(seen) == tokens(3) + (DONE if ended else LARGE)


@looks
async def test_put_into_a_chunk_here(stores, meanwhile, look, monkeypatch):
    """A log of another process that is put into a chunk here keeps its tail."""
    monkeypatch.setattr("server.stores.sqlite.journal.JOURNAL_BYTES", 0)
    one, two = stores
    log, reading = await begun(one, two)
    meanwhile(one, lambda: one.sweep(time.time()))
    seen = await look(one, reading)
    assert log.num not in one.mirror.runs
    assert facts(seen) == facts(log)


@looks
async def test_claimed_here(stores, meanwhile, look):
    """A log that is taken over here and then ended while its row is read is seen as it ended."""
    one, two = stores
    _, reading = await begun(one, two)
    claimed = await one.find(reading.beginning.id)

    async def work():
        assert await one.claim(claimed, force=True)
        await claimed.append(LARGE)
        await claimed.append(DONE, ending())

    meanwhile(one, work)
    seen = await look(one, reading)
    assert facts(seen) == facts(claimed)


@looks
async def test_lost_here(stores, meanwhile, look):
    """A log that another process takes and ends while its row is read is seen as this process has shown it since."""
    one, two = stores
    log, reading = await taken(one, two)

    async def work():
        claimed = await two.find(log.beginning.id)
        assert await two.claim(claimed, force=True)
        await claimed.append(DONE, ending())
        assert await one.renew() == [log]
        assert (await one.find(log.beginning.id)).tail == 6

    meanwhile(one, work)
    seen = await look(one, reading)
    assert facts(seen) == facts(await two.find(log.beginning.id))
    assert await everything(seen) == tokens(5) + DONE


@looks
async def test_deleted(stores, meanwhile, look):
    """A log that ends and is deleted while its row is read is gone."""
    one, two = stores
    log, reading = await taken(one, two)

    async def work():
        await log.append(DONE, ending())
        await one.sweep(time.time() + RETENTION + 1)

    meanwhile(one, work)
    assert await look(one, reading) is None


async def test_no_orphan_any_more(stores, meanwhile):
    """An orphan that is taken over and ended here while its row is read is none."""
    one, two = stores
    log, reading = await begun(one, two)
    await internals.database(two).write(internals.lease(two).give_back)  # as one that stops

    async def work():
        assert await one.claim(reading)
        await reading.append(DONE, ending())

    assert [orphan.beginning.id async for orphan in one.orphans()] == [log.beginning.id]
    meanwhile(one, work)
    assert [facts(orphan) async for orphan in one.orphans()] == []


async def test_a_slow_reader_of_a_list(stores):
    """A slow reader of a list gets logs as they are, or as they were: never less."""
    one, two = stores
    written = [await begun(one, two) for _ in range(3)]
    number = 0
    async for seen in one.logs():
        assert seen.tail >= 3
        assert await everything(seen) == tokens(3) + (DONE if seen.ending else [])
        number += 1
        if number == 1:
            for log, _ in written:
                await log.append(DONE, ending())
                assert (await one.find(log.beginning.id)).tail == 4
    assert number == 3
