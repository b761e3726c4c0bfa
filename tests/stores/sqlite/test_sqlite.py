"""The SQLite store passes the contract, and survives what happens to files and processes."""

import asyncio
import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import internals
import pytest
from contract import ALL, DONE, WAIT, DurableContract, beginning, ending, everything, tokens, until

from server.aio.cancelling import cancel
from server.core.errors import Fenced, StoreError
from server.core.records import Record
from server.stores.sqlite import database as sqlite_file
from server.stores.sqlite import journal as sqlite_journal
from server.stores.sqlite import maintenance
from server.stores.sqlite.commit import CHUNKS
from server.stores.sqlite.lease import SKIP
from server.stores.sqlite.store import SqliteStore

WRITER = Path(__file__).parents[2] / "support" / "sqlite_writer.py"


class TestSqlite(DurableContract):
    """All of it."""

    def new(self, settings):
        return SqliteStore(settings)

    def tables(self, tmp_path):
        return {"kind": "sqlite", "path": str(tmp_path / "streams.db")}

    async def lose(self, store, log):
        await internals.database(store).write(lambda db: db.execute("UPDATE logs SET boot = 'the boot before'"))
        assert await store.claim(log)


@pytest.fixture
def make(tmp_path):
    """Make stores on one file, not open yet."""
    contract = TestSqlite()

    def one(**options):
        contract.retention = options.pop("retention", 600.0)
        return SqliteStore(contract.settings(tmp_path, **options))

    return one


@pytest.fixture
def path(tmp_path):
    """The file."""
    return tmp_path / "streams.db"


async def refuses(store, words):
    with pytest.raises(StoreError, match=words):
        await store.open()
    await internals.database(store).close()


async def test_private(make, path):
    """Prompts are in the file: nobody else may read it, its log or its index."""
    path.touch(mode=0o644)
    store = make()
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(1))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("streams.db*")}
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}
    await store.close()


async def test_no_database(make, path):
    """A file that is something else is left alone, in one sentence."""
    path.write_bytes(b"not a database, but somebody's only copy of something " * 100)
    before = path.read_bytes()
    await refuses(make(), "streams.db is not an SQLite database")
    assert path.read_bytes() == before


async def test_not_a_file(make, path):
    """A path that is a directory, or lies below a file, is said in one sentence."""
    path.mkdir()
    await refuses(make(), "cannot be opened: Is a directory")


async def test_damaged(make, path):
    """A database whose pages are overwritten gives an error of ours on opening or on use, never another text."""
    store = make()
    await store.open()
    log = await store.create(beginning())
    await log.append([Record("chunk", b"x" * 200_000)])
    await log.append(DONE, ending())
    await store.close()
    data = bytearray(path.read_bytes())
    data[4096:] = random.Random(1).randbytes(len(data) - 4096)
    path.write_bytes(data)
    again = make()

    async def use():
        await again.open()
        await again.find(log.beginning.id)

    with pytest.raises(StoreError, match="is damaged"):
        await use()
    await again.close()


@pytest.mark.parametrize("part", ["a prompt", "in the journal", "in a chunk"])
async def test_altered(make, path, part):
    """A letter that has changed on the disk is noticed in every table: SQLite itself would hand it out."""
    store = make()
    await store.open()
    live, over = await store.create(beginning(body=b'{"messages":"a prompt"}')), await store.create(beginning())
    await live.append([Record("chunk", b"in the journal")])
    await over.append([Record("chunk", b"in a chunk")])
    await over.append(DONE, ending())
    await internals.database(store).close()  # as a process that is killed leaves it
    path.write_bytes(path.read_bytes().replace(part.encode(), part.upper().encode()))
    again = make()

    async def use():
        await again.open()
        for log in (live, over):
            await everything(await again.find(log.beginning.id))

    with pytest.raises(StoreError, match="is damaged"):
        await use()
    assert "is damaged" in (await again.problem() or "")
    await internals.database(again).close()


@pytest.mark.parametrize("column", ["lost", "ending"])
async def test_altered_in_a_row(make, path, column):
    """So is one in what a log's row says of its losses and its ending."""
    store = make()
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(5))
    await internals.database(store).write(lambda db: db.execute("UPDATE logs SET boot = 'the boot before'"))
    assert await store.claim(log, force=True)
    await log.append(DONE, ending())
    ((said,),) = await internals.database(store).rows(f"SELECT CAST({column} AS BLOB) FROM logs")
    await store.close()
    letter = said[len(said) // 2 :][:1]
    changed = said[: len(said) // 2] + bytes([letter[0] ^ 1]) + said[len(said) // 2 + 1 :]
    data = path.read_bytes()
    assert data.count(said) == 1
    path.write_bytes(data.replace(said, changed))
    again = make()
    await again.open()
    with pytest.raises(StoreError, match="is damaged"):
        await again.find(log.beginning.id)
    assert "is damaged" in (await again.problem() or "")
    await internals.database(again).close()


@pytest.mark.parametrize("version", [2, 99])
async def test_another_schema(make, path, version):
    """A database of another schema is refused in one sentence: it would be misread."""
    store = make()
    await store.open()
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    await refuses(make(), rf"streams.db has schema {version}; this version of Sluiceway needs 1\.$")


async def test_a_database_of_an_earlier_version(make, path):
    """One from before logs had retentions of their own is read on, and takes such logs as well."""
    store = make(retention=0.3)
    await store.open()
    live = await store.create(beginning())
    await live.append(tokens(3))
    await store.close()
    with sqlite3.connect(path) as db:
        for change in ("DROP INDEX logs_kept", "DROP INDEX logs_other", "ALTER TABLE logs DROP COLUMN retention"):
            db.execute(change)
    db.close()
    again = make(retention=0.3)
    await again.open()
    found = await again.find(live.beginning.id)
    assert await everything(found) == tokens(3)
    assert await again.claim(found)
    await found.append(DONE, ending())
    kept = await again.create(beginning(retention=3600.0))
    await kept.append(DONE, ending())
    await asyncio.sleep(0.4)
    await again.sweep(time.time())
    assert [log.beginning.id async for log in again.logs()] == [kept.beginning.id]
    await again.close()


@pytest.mark.parametrize(("query", "index"), [(maintenance.KEPT, "logs_kept"), (maintenance.OTHER, "logs_other")])
async def test_a_sweep_goes_by_an_index(make, query, index):
    """What is over is found without a look at the logs that are kept for longer: there may be a hundred thousand."""
    store = make()
    await store.open()
    plan = await internals.database(store).rows(f"EXPLAIN QUERY PLAN {query}", 1.0, 1)
    assert [row[3] for row in plan if index in row[3] and "SEARCH" in row[3]], plan
    await store.close()


async def test_opened_by_many_at_once(make):
    """Several processes that start together on a new file make its tables once."""
    stores = [make() for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    log = await stores[0].create(beginning())
    assert (await stores[4].find(log.beginning.id)).beginning == log.beginning
    for store in stores:
        await store.close()


async def test_locked(make, path, monkeypatch):
    """While another process keeps the lock an append fails in bounded time, whole; then it works again."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.2)
    store = make()
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(2))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="is locked by another process"):
        await log.append(tokens(1, first=3))
    assert "is locked" in (await store.problem() or "")
    assert await everything(log) == tokens(2)
    other.execute("ROLLBACK")
    other.close()
    assert await store.problem() is None
    await log.append(tokens(1, first=3))
    assert await everything(log) == tokens(3)
    await store.close()


async def fill(store):
    """Leave room for two pages."""
    pages = (await internals.database(store).rows("PRAGMA page_count"))[0][0]
    await internals.database(store).maintain(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall())


async def make_room(store):
    """End what `fill` has begun."""
    await internals.database(store).maintain(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchall())


async def test_full(make):
    """A disk that is full fails what does not fit, keeps what was confirmed, and is over when there is room again."""
    store = make()
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(2))
    await fill(store)
    with pytest.raises(StoreError, match="the disk is full"):
        await log.append([Record("chunk", b"x" * 1_000_000)])
    assert await everything(log) == tokens(2)
    await make_room(store)
    await log.append(tokens(1, first=3))
    await log.append(DONE, ending())
    assert await everything(log) == tokens(3) + DONE
    await store.close()


async def test_no_hole_where_nobody_waited(make):
    """If an append fails that nobody waited for, no other one is made until the log is claimed again."""
    store = make()
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(2))
    await fill(store)
    log.put([Record("chunk", b"x" * 1_000_000)], lambda *_: pytest.fail("shown, but not stored"))
    await store.batches.flush()
    await make_room(store)
    for end in (None, ending()):
        with pytest.raises(StoreError, match="the disk is full"):
            await log.append(DONE, end)
    assert await everything(log) == tokens(2)
    assert await store.claim(log)
    await log.append(tokens(1, first=3))
    await log.append(DONE, ending())
    assert await everything(log) == tokens(3) + DONE
    await store.close()


async def test_read_only(make):
    """A database that cannot be written says so, and still reads."""
    store = make()
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(2))
    await internals.database(store).maintain(lambda db: db.execute("PRAGMA query_only = 1").fetchall())
    with pytest.raises(StoreError, match="is read-only"):
        await log.append(tokens(1, first=3))
    assert "is read-only" in (await store.problem() or "")
    assert await everything(log) == tokens(2)
    await internals.database(store).maintain(lambda db: db.execute("PRAGMA query_only = 0").fetchall())
    assert await store.problem() is None
    await store.close()


async def test_gives_space_back(make, path):
    """After retention the file is as small as it was, though streams were deleted and not the file."""
    store = make(retention=0.2)
    await store.open()
    empty = path.stat().st_size
    for _ in range(20):
        log = await store.create(beginning())
        await log.append([Record("chunk", b"x" * 250_000)])
        await log.append(DONE, ending())
    await asyncio.sleep(0.3)
    for _ in range(5):
        await store.sweep(time.time())
    await internals.database(store).maintain(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    assert path.stat().st_size < empty + 100_000
    await store.close()


async def test_many_logs_grow_at_once(make):
    """Only some are put into chunks by one commit; the others go on in the journal, and all stay whole."""
    store = make()
    await store.open()
    logs = [await store.create(beginning()) for _ in range(3 * CHUNKS)]
    data = [Record("chunk", b"%d " % n * 8000) for n in range(6)]
    for record in data:  # the fifth of them takes every log past the size of a chunk
        await asyncio.gather(*(log.append([record]) for log in logs))
    ((chunks,),) = await internals.database(store).rows("SELECT count(*) FROM chunks")
    assert chunks == 2 * CHUNKS  # with the fifth record, and with the sixth
    await asyncio.gather(*(log.append([data[0], data[1]], ending()) for log in logs))
    for log in logs:
        assert await everything(log) == [*data, data[0], data[1]]
    await store.close()
    again = make()
    await again.open()
    for log in logs:
        assert await everything(await again.find(log.beginning.id)) == [*data, data[0], data[1]]
    await again.close()


async def test_the_journal_is_bounded(make, monkeypatch):
    """A stream that says little does not keep the journal of all others: it goes into a chunk, and stays whole."""
    monkeypatch.setattr(sqlite_journal, "JOURNAL_BYTES", 200_000)
    store, other = make(), make()
    await store.open()
    await other.open()
    slow, busy = await store.create(beginning()), await store.create(beginning())
    await slow.append(tokens(3))
    reading = await other.find(slow.beginning.id)
    for _ in range(60):
        await busy.append([Record("chunk", b"x" * 20_000)])
        await store.sweep(time.time())
    ((rows, size),) = await internals.database(store).rows(
        "SELECT count(*), coalesce(sum(length(data)), 0) FROM journal"
    )
    assert size < 400_000, rows
    await slow.append(tokens(2, first=4))
    await other.refresh(reading)
    assert await everything(reading) == tokens(5)
    assert await everything(slow) == tokens(5)
    assert len(await busy.read(0, ALL)) == 60
    await store.close()
    await other.close()


async def test_power_loss(make):
    """After a power loss a takeover passes numbers over instead of using one twice, and says which."""
    store = make()
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(5))
    await internals.database(store).write(lambda db: db.execute("UPDATE logs SET boot = 'the boot before'"))
    await internals.database(store).write(lambda db: db.execute("UPDATE instances SET boot = 'the boot before'"))
    after = make()
    await after.open()
    found = await after.find(log.beginning.id)
    assert await after.claim(found)
    assert found.tail == 5 + SKIP
    assert list(found.lost) == [(6, 5 + SKIP)]
    await found.append(tokens(1, first=6) + DONE, ending())
    assert await everything(found) == tokens(5)
    assert await found.read(5 + SKIP, ALL) == tokens(1, first=6) + DONE
    again = await after.find(log.beginning.id)
    assert list(again.lost) == [(6, 5 + SKIP)]
    await after.close()
    await internals.database(store).close()


@pytest.mark.parametrize("busy", [False, True])
async def test_power_loss_before_the_first_record(make, busy):
    """A stream that had not begun is taken over, too: if the journal is empty, and if it grows all the time."""
    store = make()
    await store.open()
    log, other = await store.create(beginning()), await store.create(beginning())
    await other.append(tokens(3) + DONE, ending())
    await internals.database(store).write(lambda db: db.execute("UPDATE logs SET boot = 'the boot before'"))
    await internals.database(store).write(lambda db: db.execute("UPDATE instances SET boot = 'the boot before'"))
    await internals.database(store).close()
    after = make()
    await after.open()
    found = await after.find(log.beginning.id)

    async def write():
        growing = await after.create(beginning())
        while True:
            await growing.append(tokens(1))

    writing = [asyncio.create_task(write()) for _ in range(3 * busy)]
    async with asyncio.timeout(WAIT):
        assert await after.claim(found)
    await cancel(writing)
    assert list(found.lost) == [(1, SKIP)]
    await found.append(tokens(1) + DONE, ending())
    assert await found.read(SKIP, ALL) == tokens(1) + DONE
    await after.close()


async def test_deleted_under_a_reader(make):
    """A reader of a log that has just been deleted is told so, at any place: it does not wait for more."""
    store = make(retention=0.0)
    await store.open()
    log, other = await store.create(beginning()), await store.create(beginning())
    await asyncio.gather(*(one.append(tokens(5) + DONE, ending()) for one in (log, other)))
    assert await log.read(0, 1) == tokens(1)
    await store.sweep(time.time())
    for one in (log, other):  # one of which had been read
        for reading in (one.read(0, ALL), one.read(3, ALL), one.offset(3)):
            with pytest.raises(StoreError, match=f"stream {one.beginning.id} is gone"):
                await reading
    await store.close()


async def test_standing_still_in_a_commit(make):
    """A process that stands still in a commit, until the claim of its log is forgotten, learns of it all the same."""
    one, two = make(lease=0.1), make(lease=0.1)
    await one.open()
    await two.open()
    log = await one.create(beginning())
    await log.append(tokens(3))
    going_on, insert = threading.Event(), internals.database(one).insert

    def stand_still(query, values):
        going_on.wait(WAIT)
        return insert(query, values)

    internals.database(one).insert = stand_still  # just before the statement, when the lease has been looked at
    appending = asyncio.create_task(log.append(tokens(1)))
    found = await two.find(log.beginning.id)

    async def claimed():
        await two.renew()
        return await two.claim(found)

    async def forgotten():
        await two.renew()
        await two.sweep(time.time())
        return await internals.database(two).rows("SELECT count(*) FROM claims") == [(0,)]

    await until(claimed)
    await found.append(tokens(2, first=4))
    await until(forgotten)
    going_on.set()
    with pytest.raises(Fenced):
        await appending
    await found.append(DONE, ending())
    assert await everything(await two.find(log.beginning.id)) == tokens(5) + DONE
    await one.close()
    await two.close()


def test_killed_at_any_moment(path):
    """A process that appends as fast as it can is killed twenty times: every record it had confirmed is there."""
    moment = random.Random(7)
    confirmed: dict[str, int] = {}
    for _ in range(20):
        process = subprocess.Popen([sys.executable, str(WRITER), str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moment.uniform(0.0, 0.15))
        process.kill()
        for line in process.stdout.read().rpartition("\n")[0].splitlines():
            stream_id, last = line.split()
            confirmed[stream_id] = int(last)
        process.wait()
        process.stdout.close()
    assert len(confirmed) > 20
    asyncio.run(_check(path, confirmed))


async def _check(path, confirmed):
    contract = TestSqlite()
    store = SqliteStore(contract.settings(path.parent))
    await store.open()
    for stream_id, last in confirmed.items():
        log = await store.find(stream_id)
        assert log.tail >= last
        records = await everything(log)
        said = records[:-1] if log.ending else records
        assert said == [Record("chunk", b"%d" % n) for n in range(1, len(said) + 1)]
        assert len(records) == log.tail
    await store.close()
