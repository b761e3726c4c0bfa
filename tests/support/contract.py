"""What every store must do. A store passes it by subclassing:

    class TestMyStore(StoreContract):            # or DurableContract, for a store that outlives its process
        def new(self, settings): return MyStore(settings)

Instances of a durable store that are made with the same settings must share their logs, as gateways do.
"""

import asyncio
import itertools
import time
import types
import uuid
from collections.abc import AsyncIterator, Coroutine, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from server.config.check import parse
from server.config.settings import Settings
from server.core.errors import Deleted, Fenced, StoreError
from server.core.lifecycle import State
from server.core.ports import Log, Store
from server.core.records import Beginning, Ending, Record

ALL = 1 << 40
WAIT = 20.0  # seconds for anything that is expected to happen
LEASE = 0.6  # seconds
_numbers = itertools.count()


def beginning(**facts: Any) -> Beginning:
    """Give the beginning of a stream that no other test has."""
    made: dict[str, Any] = {
        "id": f"strm_{uuid.uuid4().hex}",
        "owner": f"owner-{next(_numbers):06}",
        "dialect": "chat",
        "model": "small",
        "created": time.time(),
        "body": b'{"messages":[{"role":"user","content":"\xc3\xa9"}]}',
    }
    return Beginning(**{**made, **facts})


def ending(**facts: Any) -> Ending:
    """Give an ending, now."""
    return Ending(**{"state": State.COMPLETE, "reason": "stop", "at": time.time(), "target": "local/small", **facts})


def tokens(count: int, first: int = 1) -> list[Record]:
    """Give records that all differ, one of them empty, one with everything that bytes can be."""
    odd = {2: b"", 3: bytes(range(256))}
    return [Record("chunk", odd.get(n, b'{"n":%d}' % n)) for n in range(first, first + count)]


DONE = [Record("done", b"[DONE]")]


async def everything(log: Log, after: int = 0, piece: int = ALL) -> list[Record]:
    """Read to the tail."""
    found: list[Record] = []
    while records := await log.read(after + len(found), piece):
        found += records
    return found


async def until(condition: Any) -> None:
    """Wait until an async condition holds."""
    async with asyncio.timeout(WAIT):
        while not await condition():  # noqa: ASYNC110  # what is waited for sets no event
            await asyncio.sleep(0.01)


async def quickest_read(log: Log, place: int) -> float:
    """Read a few of the numbers in a log after a place, several times; return the seconds of the quickest read.

    A machine that is busy is not so at each of these times.
    """
    times = []
    for _ in range(5):
        began = time.perf_counter()
        records = await log.read(place, 1000)
        times.append(time.perf_counter() - began)
        assert records[0] == Record("chunk", b"%d" % (place + 1))
    return min(times)


async def listed(store: Store) -> list[str]:
    """Give the ids of all logs."""
    return [log.beginning.id async for log in store.logs()]


class Waits:
    """Runs a coroutine and cancels it when it waits for the `place`-th time.

    `cancelled` is whether that made it raise: a library may lose a cancellation. `over`: it came to its end before.
    """

    def __init__(self, place: int) -> None:
        self._place = place
        self._count = 0
        self.cancelled = False

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run it in a task of its own."""
        task = asyncio.create_task(self._drive(coroutine))
        await asyncio.wait([task])
        self.cancelled = task.cancelled()
        if not self.cancelled:
            task.result()

    @property
    def over(self) -> bool:
        """Whether it has waited less often than that."""
        return self._count < self._place

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, None]:
        step, value = coroutine.send, None
        with suppress(StopIteration):
            while True:
                waiting_for = step(value)
                self._count += 1
                if self._count == self._place:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()  # as soon as it waits for this
                try:
                    value, step = (yield waiting_for), coroutine.send
                except BaseException as error:  # noqa: BLE001 — the coroutine gets it
                    value, step = error, coroutine.throw


class StoreContract:
    """For every store."""

    retention = 600.0

    def new(self, settings: Settings) -> Store:
        """Make a store that is not open yet."""
        raise NotImplementedError

    def tables(self, tmp_path: Path) -> dict[str, Any]:
        """Give the `[store]` table, apart from `max_bytes` and `lease`."""
        return {}

    def settings(self, tmp_path: Path, **store: Any) -> Settings:
        """Give the settings of this store."""
        tree = {
            "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:1/v1"}],
            "models": [{"name": "*", "targets": ["local/*"]}],
            "streams": {"retention": self.retention},
            "store": {"lease": LEASE, **self.tables(tmp_path), **store},
        }
        return parse(tree, {})

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """One open store."""
        made = self.new(self.settings(tmp_path))
        await made.open()
        yield made
        await made.close()

    # --- appending and reading ----------------------------------------------------------------------------------

    async def test_keeps_beginning_and_ending(self, store: Store) -> None:
        """What a stream began and ended with is found again, whole."""
        facts = beginning(dialect="native", stream=False, policy="continue", idempotency=("key", "digest"))
        end = ending(
            state=State.FAILED, tokens=3, recoveries=1, ttft_ms=1.5, usage={"total_tokens": 9}, billed={"attempts": 2},
            error={"error": {"code": "x"}}, status=502, retry_after=2.0,
        )  # fmt: skip
        log = await store.create(facts)
        assert (log.tail, log.size, log.ending, list(log.lost)) == (0, 0, None, [])
        log.target = "local/small"
        await log.append([Record("error", b"{}")], end)
        found = await store.find(facts.id)
        assert found is not None
        assert found.beginning == facts
        assert found.ending == end
        assert found.target == "local/small"
        assert found.last_activity >= facts.created

    async def test_reads_at_every_cursor(self, store: Store) -> None:
        """From any cursor and in any piece size a reader gets exactly what follows, live and ended."""
        log = await store.create(beginning())
        wanted = tokens(40)
        for start, stop in ((0, 1), (1, 4), (4, 39), (39, 40)):
            await log.append(wanted[start:stop])
        await self._check_cursors(log, wanted)
        await log.append(DONE, ending())
        found = await store.find(log.beginning.id)
        assert found is not None
        await self._check_cursors(found, wanted + DONE)

    async def _check_cursors(self, log: Log, wanted: Sequence[Record]) -> None:
        assert log.tail == len(wanted)
        assert log.size == sum(len(data) for _, data in wanted)
        for cursor in range(len(wanted) + 1):
            assert await log.offset(cursor) == sum(len(data) for _, data in wanted[:cursor])
            for piece in (1, 20, 300, ALL):
                records = list(await log.read(cursor, piece))
                assert records == wanted[cursor : cursor + len(records)]
                assert bool(records) == (cursor < len(wanted))
                assert piece < ALL or records == wanted[cursor:]
                assert len(records) <= 1 or sum(len(data) for _, data in records) <= piece
            assert await everything(log, cursor, 20) == wanted[cursor:]

    async def test_reads_a_long_log_at_once(self, store: Store) -> None:
        """However a store cuts a log into pieces, one read returns all that fits."""
        log = await store.create(beginning())
        wanted = [Record("chunk", bytes([n % 251]) * (997 + n)) for n in range(300)]
        for n in range(0, 300, 7):
            await log.append(wanted[n : n + 7])
        await self._check_long(log, wanted)
        await log.append(DONE, ending())
        found = await store.find(log.beginning.id)
        assert found is not None
        await self._check_long(found, wanted + DONE)

    async def _check_long(self, log: Log, wanted: list[Record]) -> None:
        for cursor in (0, 1, 150, 299):
            assert await log.read(cursor, ALL) == wanted[cursor:]
            for piece in (997, 50_000, 150_000):
                records = list(await log.read(cursor, piece))
                assert records == wanted[cursor : cursor + len(records)]
                size = sum(len(data) for _, data in records)
                rest = wanted[cursor + len(records) :]
                assert len(records) == 1 or size <= piece
                assert not rest or size + len(rest[0].data) > piece
            assert await log.offset(cursor) == sum(len(data) for _, data in wanted[:cursor])

    async def test_numbers_concurrent_appends(self, store: Store) -> None:
        """Appends of many logs, and several to one log at a time, share no number and lose none."""
        logs = [await store.create(beginning()) for _ in range(20)]
        await asyncio.gather(
            *(log.append([Record("chunk", b"%d-%d-%d" % (n, k, i)) for i in range(3)])
              for k in range(25) for n, log in enumerate(logs))
        )  # fmt: skip
        for n, log in enumerate(logs):
            wanted = [Record("chunk", b"%d-%d-%d" % (n, k, i)) for k in range(25) for i in range(3)]
            assert await everything(log) == wanted

    async def test_readers_follow_a_writer(self, store: Store) -> None:
        """Readers that come at any time and read in any piece see every record once, in order."""
        log = await store.create(beginning())
        wanted = tokens(300)

        async def write() -> None:
            for n in range(0, 300, 3):
                await log.append(wanted[n : n + 3])
                await asyncio.sleep(0)
            await log.append(DONE, ending())

        async def read(piece: int) -> list[Record]:
            found: list[Record] = []
            while log.ending is None or len(found) < log.tail:
                found += await log.read(len(found), piece)
                await asyncio.sleep(0.001)
            return found

        async with asyncio.timeout(WAIT):
            _, *readers = await asyncio.gather(write(), *(read(piece) for piece in (1, 50, ALL)))
        assert all(found == wanted + DONE for found in readers)

    async def test_a_cancelled_append_keeps_the_order(self, store: Store) -> None:
        """An append whose caller is cancelled is there whole or not at all, and that is decided when the call ends."""

        async def one(number: int) -> None:
            log = await store.create(beginning())
            task = asyncio.create_task(log.append(tokens(2)))
            await asyncio.sleep(number * 0.00005)  # before, while and after its batch is on its way
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            before = tokens(log.tail)
            assert len(before) in (0, 2)
            assert await everything(log) == before
            await log.append(DONE, ending())
            assert await everything(log) == before + DONE

        async with asyncio.timeout(WAIT):
            for _ in range(3):
                await asyncio.gather(*map(one, range(200)))

    async def test_put(self, store: Store) -> None:
        """Records that are put are in the log at once, or are shown later: in order, and before a later append returns.

        A log that commits later shows nothing before `put` returns.
        """
        log = await store.create(beginning())
        shown: list[tuple[list[Record], int, int]] = []

        def show(records: Sequence[Record], tail: int, size: int) -> None:
            assert log.tail >= tail
            shown.append((list(records), tail, size))

        pending = []
        async with asyncio.timeout(WAIT):
            for records in (tokens(2), tokens(1, first=3)):
                pending.append(log.put(records, show))
                assert not shown
                if pending[-1] is None:
                    show(records, log.tail, log.size)
                    expected, shown = shown, []
            await log.append(DONE, ending())
        wanted = [(tokens(2), 2, 7), (tokens(1, first=3), 3, 7 + 256)]
        if pending == [None, None]:
            assert expected == wanted[1:]
        else:
            assert shown == wanted
            for one in pending:
                assert one is not None
                await one.decided()
        assert await everything(log) == tokens(3) + DONE

    async def test_one_object_per_log(self, store: Store) -> None:
        """Whichever way a log is come by, it is the same object, up to date."""
        log = await store.create(facts := beginning(idempotency=("k", "a")))
        assert await store.create(beginning(owner=facts.owner, idempotency=("k", "a"))) is log
        for _ in range(2):
            await log.append(tokens(1, first=log.tail + 1))
            assert await store.find(facts.id) is log
            assert log in [one async for one in store.logs()]
        await log.append(DONE, ending())
        assert await store.find(facts.id) is log
        assert await everything(log) == tokens(2) + DONE

    async def test_nothing_after_the_ending(self, store: Store) -> None:
        """An ended log takes no record, and says so."""
        log = await store.create(beginning())
        await log.append(DONE, ending())
        for end in (None, ending()):
            with pytest.raises(StoreError):
                await log.append(tokens(1), end)
        assert await everything(log) == DONE

    # --- finding and forgetting -----------------------------------------------------------------------------------

    async def test_unknown(self, store: Store) -> None:
        """A stream that never was is None."""
        assert await store.find("strm_nothing") is None

    async def test_lists_oldest_first(self, store: Store) -> None:
        """Live and ended logs are listed in the order of their creation."""
        logs = [await store.create(beginning()) for _ in range(5)]
        await logs[1].append(DONE, ending())
        await logs[3].append(DONE, ending(state=State.CANCELLED))
        ours = {log.beginning.id for log in logs}
        assert [one for one in await listed(store) if one in ours] == [log.beginning.id for log in logs]

    async def test_joins_by_idempotency_key(self, store: Store) -> None:
        """The second of two creations with a key gets the first one's log, live and ended; owners keep apart."""
        first = beginning(idempotency=("k", "a"))
        same = beginning(owner=first.owner, idempotency=("k", "b"))
        log = await store.create(first)
        joined = await store.create(same)
        assert joined.beginning == first
        assert (await store.create(beginning(idempotency=("k", "a")))).beginning.id != first.id
        await log.append(DONE, ending())
        assert (await store.create(same)).beginning == first
        assert await store.find(same.id) is None

    async def test_creations_in_one_moment(self, store: Store) -> None:
        """Of many creations with one key in the same turn exactly one begins a log."""
        owner = beginning().owner
        beginnings = [beginning(owner=owner, idempotency=("k", "a")) for _ in range(20)]
        logs = await asyncio.gather(*map(store.create, beginnings))
        assert len({log.beginning.id for log in logs}) == 1

    async def test_a_burst_of_creations(self, store: Store) -> None:
        """Logs that are made together are not mixed up, with and without a key: each has its beginning and records."""
        beginnings = [
            beginning(idempotency=("k", "a") if n % 5 == 0 else None, body=b'{"n":%d}' % n) for n in range(60)
        ]
        logs = await asyncio.gather(*(store.create(facts) for facts in beginnings))
        assert [log.beginning for log in logs] == beginnings
        await asyncio.gather(*(log.append([Record("chunk", log.beginning.body)]) for log in logs))
        for facts in beginnings:
            found = await store.find(facts.id)
            assert found is not None
            assert found.beginning == facts
            assert await everything(found) == [Record("chunk", facts.body)]

    async def test_releases_a_key(self, store: Store) -> None:
        """A released key begins a new log; releasing it for the old one again does not take it from the new one."""
        owner = beginning().owner
        first = await store.create(beginning(owner=owner, idempotency=("k", "a")))
        await store.release_key(first)
        second = await store.create(beginning(owner=owner, idempotency=("k", "a")))
        assert second.beginning.id != first.beginning.id
        await store.release_key(first)
        assert (await store.create(beginning(owner=owner, idempotency=("k", "a")))).beginning.id == second.beginning.id
        await store.release_key(await store.create(beginning()))  # has none

    async def test_a_key_is_free_as_soon_as_it_is_released(self, store: Store) -> None:
        """A creation right after a release, without waiting for its end, begins a log of its own."""
        first = await store.create(beginning(idempotency=("k", "a")))
        again = beginning(owner=first.beginning.owner, idempotency=("k", "a"))
        _, second = await asyncio.gather(store.release_key(first), store.create(again))
        assert second.beginning.id == again.id

    async def test_retention(self, tmp_path: Path) -> None:
        """After its retention an ended log is gone at once, its key is free, and the sweep leaves nothing of it."""
        self.retention = 0.5
        store = self.new(self.settings(tmp_path))
        await store.open()
        try:
            first = beginning(idempotency=("k", "a"))
            log = await store.create(first)
            live = await store.create(beginning())
            await log.append(DONE, ending())
            assert await store.find(first.id) is not None
            await asyncio.sleep(0.6)
            assert await store.find(first.id) is None
            assert first.id not in await listed(store)
            again = await store.create(beginning(owner=first.owner, idempotency=("k", "a")))
            assert again.beginning.id != first.id
            await store.renew()
            await store.sweep(time.time())
            assert log.beginning.body == b""  # a reader that stands still may have the log for long
            with suppress(Deleted):
                assert await log.read(0, ALL) == []
            assert live.beginning.body
            assert (await store.create(again.beginning)).beginning.id == again.beginning.id
            assert set(await listed(store)) >= {live.beginning.id, again.beginning.id}
            await live.append(tokens(1))
        finally:
            await store.close()

    async def test_a_retention_of_its_own(self, tmp_path: Path) -> None:
        """A log whose beginning has a retention is kept for that time, longer or shorter than the others."""
        self.retention = 0.5
        store = self.new(self.settings(tmp_path))
        await store.open()
        try:
            brief = await store.create(beginning(retention=0.1))
            usual = await store.create(beginning())
            long = await store.create(beginning(retention=3600.0, idempotency=("k", "a")))
            now = time.time()
            for log in (brief, usual, long):
                await log.append(DONE, ending(at=now))
            assert long.beginning.retention == 3600.0
            await until(lambda: self._is_gone(store, brief))
            await until(lambda: self._is_gone(store, usual))
            await store.sweep(time.time())
            assert await store.find(long.beginning.id) is long
            assert await everything(long) == DONE
            again = beginning(owner=long.beginning.owner, idempotency=("k", "a"))
            assert (await store.create(again)).beginning.id == long.beginning.id
            ours = {log.beginning.id for log in (brief, usual, long)}
            assert [one for one in await listed(store) if one in ours] == [long.beginning.id]
            await store.sweep(time.time() + 3601.0)
            assert await store.find(long.beginning.id) is None
            assert not ours & set(await listed(store))
        finally:
            await store.close()

    async def _is_gone(self, store: Store, log: Log) -> bool:
        return await store.find(log.beginning.id) is None

    async def test_deletes(self, store: Store) -> None:
        """A deleted log is nowhere, its key is free, and its records are gone; to delete it again says so."""
        first = beginning(idempotency=("k", "a"))
        log, other = await store.create(first), await store.create(beginning())
        for one in (log, other):
            await one.append(tokens(10))
            await one.append(DONE, ending())
        assert await store.delete(log)
        assert await store.find(first.id) is None
        assert first.id not in await listed(store)
        assert log.beginning.body == b""  # a reader that stands still may have the log for long
        with suppress(Deleted):
            assert await log.read(0, ALL) == []
        assert not await store.delete(log)
        again = beginning(owner=first.owner, idempotency=("k", "a"))
        assert (await store.create(again)).beginning.id == again.id
        await store.sweep(time.time())
        assert await store.find(other.beginning.id) is other
        assert await everything(other) == tokens(10) + DONE

    async def test_a_live_log_is_not_deleted(self, store: Store) -> None:
        """A log without an ending stays, and takes further records."""
        log = await store.create(beginning())
        await log.append(tokens(2))
        assert not await store.delete(log)
        await log.append(DONE, ending())
        assert await everything(log) == tokens(2) + DONE

    async def test_deleting_makes_room(self, tmp_path: Path) -> None:
        """What is deleted does not count any more: nothing else goes to keep within the bound."""
        store = self.new(self.settings(tmp_path, max_bytes=1_000_000))
        await store.open()
        try:
            kept = await store.create(beginning())
            await kept.append(DONE, ending())
            for _ in range(30):
                log = await store.create(beginning(retention=3600.0))
                await log.append([Record("chunk", b"x" * 100_000)])
                await log.append(DONE, ending())
                assert await store.delete(log)
                await store.sweep(time.time())
            assert await store.find(kept.beginning.id) is kept
        finally:
            await store.close()

    @pytest.mark.parametrize("first", ["usual", "its own"])
    async def test_the_oldest_go_first_whatever_their_retention(self, tmp_path: Path, first: str) -> None:
        """Past the bound the logs that ended first go, with a retention of their own or without."""
        store = self.new(self.settings(tmp_path, max_bytes=1_000_000))
        await store.open()
        try:
            retentions = [None, 3600.0] if first == "usual" else [3600.0, None]
            ended: list[str] = []
            for retention in retentions:
                for _ in range(15):
                    log = await store.create(beginning(retention=retention))
                    await log.append([Record("chunk", b"x" * 100_000)])
                    await log.append(DONE, ending())
                    ended.append(log.beginning.id)
            for _ in range(5):
                await store.sweep(time.time())
            left = [one for one in await listed(store) if one in ended]
            assert 1 <= len(left) <= 10
            assert left == ended[-len(left) :]
        finally:
            await store.close()

    async def test_size_limit(self, tmp_path: Path) -> None:
        """Past the bound the oldest ended logs go, and only they; live ones stay."""
        store = self.new(self.settings(tmp_path, max_bytes=1_000_000))
        await store.open()
        try:
            data = [Record("chunk", b"x" * 100_000)]
            live = await store.create(beginning())
            await live.append(data)
            ended = []
            for _ in range(30):
                log = await store.create(beginning())
                await log.append(data)
                await log.append(DONE, ending())
                ended.append(log.beginning.id)
            for _ in range(5):
                await store.sweep(time.time())
            left = [one for one in await listed(store) if one in ended]
            assert 1 <= len(left) <= 10
            assert left == ended[-len(left) :]
            assert await everything(live) == data
        finally:
            await store.close()

    @pytest.mark.timeout(300)
    async def test_a_million_records(self, store: Store) -> None:
        """A log of a million records is read at any place without going through it, live and ended."""
        log = await store.create(beginning())
        count, step = 1_000_000, 10_000
        for first in range(0, count, step):
            await log.append([Record("chunk", b"%d" % n) for n in range(first + 1, first + step + 1)])
        assert log.tail == count
        for live in (True, False):
            if not live:
                await log.append(DONE, ending())
            reading = await store.find(log.beginning.id)
            assert reading is not None
            began = time.perf_counter()
            assert len(await reading.read(0, ALL)) == count + (not live)
            whole = time.perf_counter() - began
            for place in (0, 1, 9_999, 10_000, 123_456, 654_321, 999_999):
                assert await quickest_read(reading, place) < whole / 20


class DurableContract(StoreContract):
    """For a store that outlives its process and is shared by instances."""

    @pytest_asyncio.fixture
    async def stores(self, tmp_path: Path) -> AsyncIterator[list[Store]]:
        """Two instances of one store."""
        made = [self.new(self.settings(tmp_path)) for _ in range(2)]
        for store in made:
            await store.open()
        yield made
        for store in made:
            await store.close()

    async def abandon(self, store: Store) -> None:
        """Let the lease of an instance run out while the instance stands still, as SIGSTOP would make it."""
        await asyncio.sleep(LEASE * 1.5)

    async def lose(self, store: Store, log: Log) -> None:
        """Bring the store to lose some numbers after the tail of a log that it holds, with the next append at last."""
        pytest.skip("this store is not known to lose anything")

    async def test_a_cursor_in_what_was_lost(self, stores: list[Store]) -> None:
        """From a number that was lost nothing is read, and what lies before it has a size: a reader can pass it."""
        one, two = stores
        log = await one.create(beginning())
        await log.append(tokens(5))
        size = log.size
        await self.lose(one, log)
        await log.append([*tokens(2), *DONE], ending())
        found = await two.find(log.beginning.id)
        assert found is not None
        for reading in (log, found):
            ((first, last),) = reading.lost
            assert first == 6
            for cursor in (first, last - 1):
                assert list(await reading.read(cursor, ALL)) == []
            assert list(await reading.read(last, ALL)) == tokens(2) + DONE
            sizes = [await reading.offset(n) for n in (5, first, last - 1, last, last + 1, last + 2, reading.tail)]
            assert sizes == sorted(sizes)
            assert (sizes[0], sizes[-1]) == (size, reading.size)

    async def test_outlives_its_instance(self, tmp_path: Path) -> None:
        """What was appended is there after the store was closed and opened again, and can be claimed at once."""
        first = self.new(self.settings(tmp_path))
        await first.open()
        live = await first.create(beginning(idempotency=("k", "a")))
        live.target = "local/small"
        await live.append(tokens(10))
        ended = await first.create(beginning())
        await ended.append(tokens(5))
        await ended.append(DONE, ending())
        await first.close()
        second = self.new(self.settings(tmp_path))
        await second.open()
        try:
            found = await second.find(ended.beginning.id)
            assert found is not None
            assert found.beginning == ended.beginning
            assert found.ending == ended.ending
            await self._check_cursors(found, tokens(5) + DONE)
            taken = await second.find(live.beginning.id)
            assert taken is not None
            assert taken.target == "local/small"
            assert live.beginning.id in [log.beginning.id async for log in second.orphans()]
            assert await second.claim(taken)
            await taken.append(tokens(3, first=11))
            await self._check_cursors(taken, tokens(13))
            assert list(taken.lost) == []
            assert (
                await second.create(beginning(owner=live.beginning.owner, idempotency=("k", "a")))
            ).beginning == live.beginning
        finally:
            await second.close()

    async def test_a_held_log_is_refused(self, stores: list[Store]) -> None:
        """While an instance renews its lease, nobody else can claim its logs, and they are no orphans."""
        one, two = stores
        log = await one.create(beginning())
        for _ in range(6):
            await asyncio.sleep(LEASE / 3)
            await one.renew()
            found = await two.find(log.beginning.id)
            assert found is not None
            assert not await two.claim(found)
            assert log.beginning.id not in [orphan.beginning.id async for orphan in two.orphans()]
        await log.append(DONE, ending())
        assert found is not None
        assert not await two.claim(found, force=True)  # ended

    async def test_a_stale_writer_is_fenced(self, stores: list[Store]) -> None:
        """An instance that lost its log to a claim cannot write any more, and `renew` tells it. The numbers go on."""
        one, two = stores
        log, other = await one.create(beginning()), await one.create(beginning())
        await log.append(tokens(3))
        await self.abandon(one)
        found = await two.find(log.beginning.id)
        assert found is not None
        assert await two.claim(found)
        log.put(tokens(1), lambda *_: pytest.fail("shown, but not stored"))
        with pytest.raises(Fenced):
            await log.append(tokens(1))
        with pytest.raises(Fenced):
            await log.append(DONE, ending())
        await found.append(tokens(2, first=4))
        assert await everything(found) == tokens(5)
        lost: list[str] = []

        async def told() -> bool:
            lost.extend(one.beginning.id for one in await stores[0].renew())
            return log.beginning.id in lost

        await until(told)
        assert lost == [log.beginning.id]
        await other.append(tokens(1))  # its other logs are still its own: nobody claimed them

    async def test_one_of_two_claims(self, stores: list[Store], tmp_path: Path) -> None:
        """Of many claims in the same moment exactly one succeeds."""
        one, two = stores
        three = self.new(self.settings(tmp_path))
        await three.open()
        try:
            for _ in range(5):
                log = await one.create(beginning())
                await self.abandon(one)
                await two.renew()
                await three.renew()
                found = [await store.find(log.beginning.id) for store in (two, three)]
                claims = [store.claim(it) for store, it in zip((two, three), found, strict=True) if it is not None]
                assert sorted(await asyncio.gather(*claims)) == [False, True]
        finally:
            await three.close()

    async def test_claims_by_force(self, stores: list[Store]) -> None:
        """An abort from any instance: it takes a log from a living relay, which is fenced from then on."""
        one, two = stores
        log = await one.create(beginning())
        await log.append(tokens(2))
        found = await two.find(log.beginning.id)
        assert found is not None
        assert await two.claim(found, force=True)
        await found.append([Record("error", b"{}")], ending(state=State.CANCELLED))
        with pytest.raises(Fenced):
            await log.append(tokens(1))
        await until(lambda: self._has_ended(one, log))
        assert await everything(log) == [*tokens(2), Record("error", b"{}")]

    async def test_claimed_back(self, stores: list[Store]) -> None:
        """An instance that claims a log back before it was told of the loss holds it. It can be fenced again."""
        one, two = stores
        log = await one.create(beginning())
        found = await two.find(log.beginning.id)
        assert found is not None
        assert await two.claim(found, force=True)
        with pytest.raises(Fenced):
            await log.append(tokens(1))
        assert await one.claim(log, force=True)
        assert await one.renew() == []
        await log.append(tokens(1))
        assert await two.claim(found, force=True)
        with pytest.raises(Fenced):
            await log.append(tokens(1, first=2))
        await found.append(tokens(1, first=2))
        assert await everything(found) == tokens(2)

    async def test_refreshed_after_a_claim(self, stores: list[Store]) -> None:
        """Refreshing a log that was claimed unnoticed fences it: the epoch that was read is not one to write with."""
        one, two = stores
        log = await one.create(beginning())
        found = await two.find(log.beginning.id)
        assert found is not None
        assert await two.claim(found, force=True)
        await one.refresh(log)
        with pytest.raises(Fenced):
            await log.append(tokens(1))
        assert await one.renew() == [log]
        await found.append(tokens(1))
        assert await everything(found) == tokens(1)

    async def test_refreshed_while_it_is_written(self, stores: list[Store]) -> None:
        """A look at the store that takes longer than an append does not take the writer back."""
        one, _ = stores
        log = await one.create(beginning())

        async def look() -> None:
            while log.ending is None:
                tail = log.tail
                await one.refresh(log)
                assert log.tail >= tail
                await asyncio.sleep(0)

        looking = [asyncio.create_task(look()) for _ in range(3)]
        for number in range(1, 101):
            await log.append(tokens(1, first=number))
            assert log.tail == number
        await log.append(DONE, ending())
        await asyncio.gather(*looking)
        assert await everything(log) == tokens(100) + DONE

    async def test_refreshed_while_it_ends(self, stores: list[Store]) -> None:
        """An answer that was read before a log ended does not take its ending away."""
        one, _ = stores
        for turns in range(40):
            log = await one.create(beginning())
            await log.append(tokens(3))
            looking = [asyncio.create_task(one.refresh(log)) for _ in range(3)]
            for _ in range(turns % 8):
                await asyncio.sleep(0)
            over = ending()
            await log.append(DONE, over)
            await asyncio.gather(*looking)
            assert (log.tail, log.ending) == (4, over)

    async def test_found_while_it_is_claimed(self, stores: list[Store]) -> None:
        """Asking for a log in the middle of its takeover gives all of it, though the claimant had seen nothing."""
        one, two = stores
        for _ in range(20):
            log = await one.create(beginning())
            stale = await two.find(log.beginning.id)
            assert stale is not None
            await log.append(tokens(3))
            claiming = asyncio.create_task(two.claim(stale, force=True))
            while not claiming.done():
                found = await two.find(log.beginning.id)
                assert found is not None
                assert found.tail == 3
                await two.refresh(stale)
                assert stale.tail == 3
            assert await claiming

    async def _has_ended(self, store: Store, log: Log) -> bool:
        await store.renew()
        await store.follow(log)
        return log.ending is not None

    async def test_appends_race_with_a_claim(self, stores: list[Store]) -> None:
        """A writer at full speed and a claim in the middle: every record that was confirmed is there, once."""
        one, two = stores
        log = await one.create(beginning())
        confirmed = 0

        async def write() -> None:
            nonlocal confirmed
            for n in itertools.count(1):
                await log.append(tokens(1, first=n))
                confirmed = n

        task = asyncio.create_task(write())
        await until(lambda: _truth(confirmed > 20))
        found = await two.find(log.beginning.id)
        assert found is not None
        assert await two.claim(found, force=True)
        with pytest.raises(Fenced):
            await task
        await found.append(DONE, ending())
        records = await everything(found)
        assert records == tokens(len(records) - 1) + DONE
        assert len(records) - 1 == confirmed

    async def test_follows_from_elsewhere(self, stores: list[Store]) -> None:
        """An instance that reads what another one writes sees every record, in order, up to the ending."""
        one, two = stores
        log = await one.create(beginning())
        await log.append(tokens(2))
        reading = await two.find(log.beginning.id)
        assert reading is not None
        assert await everything(reading) == tokens(2)
        assert not await one.followed(log)

        async def write() -> None:
            for n in range(3, 203):
                await log.append(tokens(1, first=n))
            await log.append(DONE, ending())

        writing = asyncio.create_task(write())
        found: list[Record] = []
        async with asyncio.timeout(WAIT):
            while reading.ending is None or len(found) < reading.tail:
                await two.follow(reading)
                found += await reading.read(len(found), ALL)
        await writing
        assert found == tokens(202) + DONE
        assert reading.ending == log.ending
        assert await one.followed(log)

    @pytest.mark.parametrize("key", [None, ("key", "digest")])
    async def test_a_creation_is_cancelled_at_every_await(
        self, stores: list[Store], key: tuple[str, str] | None
    ) -> None:
        """Wherever the caller of a creation leaves, nothing of it stays when the lease is renewed: its key is free."""
        one, two = stores
        for place in itertools.count(1):
            facts, waits = beginning(idempotency=key), Waits(place)
            await waits.run(one.create(facts))
            if waits.over:
                assert place > 1
                return
            await _renew_twice(one)
            if waits.cancelled:
                assert await two.find(facts.id) is None
                again = beginning(owner=facts.owner, idempotency=key)
                assert (await two.create(again)).beginning.id == again.id

    @pytest.mark.parametrize("holder", ["another", "the same"])
    async def test_a_claim_is_cancelled_at_every_await(self, stores: list[Store], holder: str) -> None:
        """Wherever the caller of a claim leaves, the log is still its writer's, or can be claimed by anybody soon."""
        one, two = stores
        claimant = two if holder == "another" else one
        for place in itertools.count(1):
            log, waits = await one.create(beginning()), Waits(place)
            await log.append(tokens(3))
            found = await claimant.find(log.beginning.id)
            assert found is not None
            await waits.run(claimant.claim(found, force=True))
            await _renew_twice(claimant)
            if not waits.cancelled:
                await found.append(tokens(1, first=4))
                await found.append(DONE, ending())
            else:
                await self._go_on(one, log)
            for store in stores:
                seen = await store.find(log.beginning.id)
                assert seen is not None
                assert await everything(seen) == tokens(4) + DONE
            if waits.over:
                assert place > 2
                return

    async def _go_on(self, store: Store, log: Log) -> None:
        """Write a log that may have been claimed by a caller who has left."""
        try:
            await log.append(tokens(1, first=4))
        except Fenced:
            assert await store.claim(log)
            await log.append(tokens(1, first=4))
        await log.append(DONE, ending())

    async def test_creations_on_two_instances(self, stores: list[Store]) -> None:
        """Of creations with one key in the same moment on two instances exactly one begins a log."""
        for _ in range(10):
            owner = beginning().owner
            beginnings = [beginning(owner=owner, idempotency=("k", "a")) for _ in range(6)]
            logs = await asyncio.gather(*(stores[n % 2].create(it) for n, it in enumerate(beginnings)))
            assert len({log.beginning.id for log in logs}) == 1

    async def test_lists_from_elsewhere(self, stores: list[Store]) -> None:
        """Every instance lists the logs of all, with their tails."""
        _one, _two = stores
        logs = [await stores[n % 2].create(beginning()) for n in range(4)]
        for n, log in enumerate(logs):
            await log.append(tokens(n + 1))
        for store in stores:
            found = {log.beginning.id: log.tail async for log in store.logs()}
            assert [found[log.beginning.id] for log in logs] == [1, 2, 3, 4]

    async def test_deleted_everywhere(self, stores: list[Store]) -> None:
        """What one instance deletes no other one finds, lists or reads, though it has read it before."""
        one, two = stores
        log, other = await one.create(beginning(retention=3600.0)), await one.create(beginning())
        for ended in (log, other):
            await ended.append(tokens(10))
            await ended.append(DONE, ending())
        reading = await two.find(log.beginning.id)
        assert reading is not None
        assert reading.beginning.retention == 3600.0
        assert await everything(reading) == tokens(10) + DONE
        assert await two.delete(reading)
        for store in stores:
            assert await store.find(log.beginning.id) is None
            assert log.beginning.id not in await listed(store)
            assert await store.find(other.beginning.id) is not None
        assert not await one.delete(log)

    async def test_deleted_by_many_at_once(self, stores: list[Store]) -> None:
        """Of many deletions of one log exactly one is told that it was there."""
        one, two = stores
        log = await one.create(beginning())
        await log.append(DONE, ending())
        found = await two.find(log.beginning.id)
        assert found is not None
        deleted = await asyncio.gather(
            *(store.delete(it) for store, it in ((one, log), (two, found)) for _ in range(3))
        )
        assert sorted(deleted) == [False] * 5 + [True]

    async def test_orphans_with_a_retention_of_their_own(self, tmp_path: Path) -> None:
        """A stream that nobody took over lies as long as its own retention says."""
        self.retention = 0.2
        one, two = (self.new(self.settings(tmp_path)) for _ in range(2))
        await one.open()
        long, usual = await one.create(beginning(retention=3600.0)), await one.create(beginning())
        for log in (long, usual):
            await log.append(tokens(3))
        await one.close()
        await two.open()
        try:

            async def swept() -> bool:
                await two.renew()
                await two.sweep(time.time())
                return await self._is_gone(two, usual)

            await until(swept)
            left = await two.find(long.beginning.id)
            assert left is not None
            assert await two.claim(left)
            await left.append(DONE, ending())
            assert await everything(left) == tokens(3) + DONE
        finally:
            await two.close()

    async def test_orphans_do_not_stay(self, tmp_path: Path) -> None:
        """A stream that nobody took over is deleted when it has lain for the retention: prompts do not stay."""
        self.retention = 0.5
        one, two = (self.new(self.settings(tmp_path)) for _ in range(2))
        await one.open()
        log = await one.create(beginning())
        await log.append(tokens(3))
        await one.close()
        await two.open()
        try:
            held = await two.create(beginning())
            assert await two.find(log.beginning.id) is not None

            async def gone() -> bool:
                await two.renew()
                await two.sweep(time.time())
                return log.beginning.id not in await listed(two)

            await until(gone)
            assert await two.find(log.beginning.id) is None
            await held.append(tokens(1))
        finally:
            await two.close()


async def _renew_twice(store: Store) -> None:
    """Renew a lease as often as it takes to find what has reached the store after its caller had left."""
    for _ in range(2):
        await asyncio.sleep(0.01)
        await store.renew()


async def _truth(value: bool) -> bool:
    return value
