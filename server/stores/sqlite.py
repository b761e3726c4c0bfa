"""The SQLite store: one machine, no server; what was shown survives a SIGKILL at any point.

Appends of all streams are committed together (`batches.py`) as one row (`sqlite_journal.py`); what a log has gathered
becomes a chunk. Several processes may share the file: leases and epochs are in it, and each follows what the others
write by the file's data version.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from server.config import Settings
from server.core.errors import StoreError
from server.core.records import Birth, load_birth, load_ending
from server.stores import sqlite_sweep as sweeping
from server.stores.appends import Append, Creation, fenced, placed
from server.stores.batches import Batches, answering
from server.stores.packed import Run
from server.stores.sqlite_births import Births
from server.stores.sqlite_commit import UNCLAIMED_ROW, Commit, put_chunk, put_row
from server.stores.sqlite_file import Connection, Database
from server.stores.sqlite_health import Health
from server.stores.sqlite_journal import Mirror, entry
from server.stores.sqlite_log import Call, SqliteLog

WINDOW = 0.002  # seconds between two commits
CHECKPOINT = 500  # pages of the write-ahead log after which they are copied into the file
TRIM = 0.1  # seconds between two deletions from the journal: its pages are used again instead of growing the file
POLL = 0.02  # seconds between two looks at what other processes have written, while somebody follows it
FOLLOW = 0.5  # seconds after which `follow` returns in any case
PAGE = 500  # logs that are read at once for a list
SKIP = 1_000_000  # numbers passed over where a power loss may have taken records: more than any can have been
LOGS = "SELECT num, birth, body, epoch, target, tail, size, lost, active, ended, ending, crc FROM logs"


class SqliteStore:
    """All logs of one machine."""

    durable = True

    def __init__(self, settings: Settings) -> None:
        self._retention = settings.streams.retention
        self._max_bytes = settings.store.max_bytes
        self._lease = settings.store.lease
        self._db = Database(settings.store.path)
        self._health = Health(self._db)
        self._name = secrets.token_hex(8)
        # Which run of the machine this is: the clock of all leases, and what a power loss changes.
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self._births = Births(self._name, self._boot, self._retention)
        self.mirror = Mirror()
        self.batches: Batches[Append[SqliteLog] | Creation | Call]
        self._held: dict[int, SqliteLog] = {}
        self._fenced: list[SqliteLog] = []  # to be told by the next `renew`
        self._claims_seen = 0
        self._renewed = 0.0  # time.monotonic(), as are all times of leases
        self._version = -1
        self._trimmed = 0.0
        self._pages = 0  # written since the last checkpoint
        self._checkpoint: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._following: dict[SqliteLog, asyncio.Event] = {}
        self._marked: dict[int, float] = {}
        self._poller: asyncio.Task[None] | None = None

    # --- open and close ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file. Raises StoreError."""
        await self._db.open()
        self.batches = Batches(self._commit, WINDOW)
        await self._db.write(self._extend)
        self._claims_seen = (await self._db.rows("SELECT coalesce(max(at), 0) FROM claims"))[0][0]
        await self._catch_up()

    async def close(self) -> None:
        """Commit what waits, give all logs back and close the file."""
        if self._poller is not None:
            self._poller.cancel()
        await self._health.close()
        try:
            await self.batches.flush()
            if self._checkpoint is not None:
                await self._checkpoint
            await self._db.checkpoint()
            await self._db.write(self._give_back)
        except StoreError:
            pass  # the lease will run out
        await self._db.close()

    def _give_back(self, db: Connection) -> None:
        db.execute("UPDATE logs SET instance = NULL WHERE instance = ?", (self._name,))
        db.execute("DELETE FROM instances WHERE name = ?", (self._name,))

    async def problem(self) -> str | None:
        """Return what is wrong with the database, or None."""
        return await self._health.problem()

    # --- writing -------------------------------------------------------------------------------------------------

    async def _call(self, function: Callable[[Connection], Any]) -> Any:
        call = Call(function)
        self.batches.put(call)
        return await call.decided()

    def _commit(self, batch: list[Append[SqliteLog] | Creation | Call], done: Callable[[], None]) -> None:
        """Begin to commit a batch, without a task: tokens would wait for two more turns of the loop."""
        with answering(batch):
            now = time.time()
            creations = [write for write in batch if isinstance(write, Creation)]
            calls = [write for write in batch if isinstance(write, Call)]
            commit = Commit(placed(write for write in batch if isinstance(write, Append)), self.mirror, now)
            asked, floor = commit.writes, self._floor(now)

            def answer(results: list[Any], error: Exception | None) -> None:
                with answering(batch):
                    if error is not None:
                        self._health.failed(error)
                        raise error
                    self.mirror.trim(floor)
                    commit.mirror()
                    self._count(commit.pages)
                    for append in asked:
                        self._committed(append, now)
                    for other, result in zip((*creations, *calls), results, strict=True):
                        other.succeed(result)
                done()

            self._db.give(partial(self._write, commit, creations, calls, floor), answer)
            return
        done()

    def _count(self, pages: int) -> None:
        """Make a checkpoint where enough has been written since the last one."""
        self._pages += pages
        if self._pages >= CHECKPOINT and (self._checkpoint is None or self._checkpoint.done()):
            self._pages = 0
            self._checkpoint = asyncio.create_task(self._copy(), name="sqlite checkpoint")

    async def _copy(self) -> None:
        with suppress(StoreError):  # the next commit meets the same error, and says so
            await self._db.checkpoint()

    def _floor(self, now: float) -> int:
        """Return the journal's row before which all can be deleted now, or 0."""
        if now < self._trimmed + TRIM:
            return 0
        self._trimmed = now
        return min(self.mirror.floor, self.mirror.seen + 1)

    def _write(self, commit: Commit, creations: Sequence[Creation], calls: Sequence[Call], floor: int) -> list[Any]:
        """Write one batch, in the writer's thread; return what the creations and the calls have led to.

        Nearly always it is nothing but a row: one statement, which does nothing where there are claims to look at.
        """
        if commit.is_row and not (creations or calls or floor or self._lapsed):
            commit.at = self._db.insert(UNCLAIMED_ROW, (*commit.values, self._claims_seen)) or 0
            if commit.at:
                return []
        return self._db.transact(partial(self._transact, commit, creations, calls, floor))

    def _transact(
        self, commit: Commit, creations: Sequence[Creation], calls: Sequence[Call], floor: int, db: Connection
    ) -> list[Any]:
        if self._look_for_claims(db):
            commit.leave_out_fenced()
        if floor:
            db.execute("DELETE FROM journal WHERE at < ?", (floor,))
        commit.run(db)
        results = [call.function(db) for call in calls]  # before: a key that is released can be taken
        return [*self._births.make(db, [creation.birth for creation in creations]), *results]

    def _committed(self, write: Append[SqliteLog], now: float) -> None:
        log = write.log
        if log.fenced:
            write.fail(fenced(log))
            return
        log.stored_target = log.target
        if write.ending is not None:
            self._let_go(log)
        write.commit(now)

    def _hold(self, log: SqliteLog) -> None:
        before = self._held.get(log.num)
        if before is not None and before is not log:  # a log may be taken up again after its store was away
            before.fenced = True
        self._held[log.num] = log

    def _let_go(self, log: SqliteLog) -> None:
        if self._held.get(log.num) is log:
            del self._held[log.num]

    # --- fences and leases -----------------------------------------------------------------------------------------

    @property
    def _lapsed(self) -> bool:
        """Whether this process stood still for longer than its lease: what it knows is old."""
        return time.monotonic() >= self._renewed + self._lease

    def _look_for_claims(self, db: Connection) -> bool:
        """Fence the logs that others have claimed; return whether there is news of that kind.

        `db` is in a transaction, so none is claimed meanwhile.
        """
        news = False
        if self._lapsed:
            mine = dict(db.execute("SELECT num, epoch FROM logs WHERE instance = ?", (self._name,)).fetchall())
            for log in list(self._held.values()):
                self._fence(log, mine.get(log.num, log.epoch + 1))
            self._extend(db)
            news = True
        query = "SELECT at, log, epoch FROM claims WHERE at > ? ORDER BY at"
        for at, num, epoch in db.execute(query, (self._claims_seen,)).fetchall():
            self._claims_seen = at
            if num in self._held:
                self._fence(self._held[num], epoch)
                news = True
        return news

    def _fence(self, log: SqliteLog, epoch: int) -> None:
        if epoch > log.epoch and not log.fenced:
            log.fenced = True
            self._fenced.append(log)

    def _extend(self, db: Connection) -> None:
        """Begin the lease anew."""
        now = time.monotonic()
        values = (self._name, self._boot, now + self._lease)
        db.execute("INSERT OR REPLACE INTO instances (name, boot, expires) VALUES (?, ?, ?)", values)
        self._renewed = now

    def _alive(self, db: Connection, instance: str | None) -> bool:
        query = "SELECT 1 FROM instances WHERE name = ? AND boot = ? AND expires > ?"
        return db.execute(query, (instance, self._boot, time.monotonic())).fetchone() is not None

    async def renew(self) -> Sequence[SqliteLog]:
        """Extend the lease where a third of it is over; return what was claimed elsewhere. Raises StoreError."""

        def look(db: Connection) -> None:
            self._look_for_claims(db)
            self._extend(db)

        version = await self._db.version()
        if time.monotonic() >= self._renewed + self._lease / 3 or version != self._version:
            await self._call(look)
            self._version = version
        fenced, self._fenced = self._fenced, []
        for log in fenced:
            self._let_go(log)
        return fenced

    async def claim(self, log: SqliteLog, *, force: bool = False) -> bool:
        """Take a log over.

        After a power loss the last moments of the journal may be missing, and a client may have been shown what was in
        them. No number is used twice: the new epoch passes over more numbers than there can have been, as `lost`.
        """
        if not force and await self._held_elsewhere(log):
            return False
        while True:
            await self._catch_up()
            run, seen = self.mirror.runs.get(log.num), self.mirror.seen
            claimed = await self._call(partial(self._claim, log.num, run, seen, force))
            if claimed is not None:
                break
        if claimed is False:
            return False
        await self._catch_up()
        await self._refresh([log])
        log.hold(claimed)
        self._hold(log)
        return True

    async def _held_elsewhere(self, log: SqliteLog) -> bool:
        """Whether a living process holds a log: a look that costs no commit."""
        query = """SELECT 1 FROM logs JOIN instances ON name = instance
            WHERE num = ? AND instance <> ? AND instances.boot = ? AND expires > ?"""
        return bool(await self._db.rows(query, log.num, self._name, self._boot, time.monotonic()))

    def _claim(self, num: int, run: Run | None, seen: int, force: bool, db: Connection) -> int | bool | None:
        """Return the new epoch, False where the log is held or has ended, None where the mirror is too old."""
        query = "SELECT instance, boot, epoch, tail, size, lost FROM logs WHERE num = ? AND ended IS NULL"
        row = db.execute(query, (num,)).fetchone()
        if row is None:
            return False
        holder, boot, epoch, tail, size, lost = row
        if not force and holder != self._name and holder is not None and self._alive(db, holder):
            return False
        if holder is not None and boot != self._boot:
            if db.execute("SELECT coalesce(max(at), 0) FROM journal").fetchone()[0] != seen:
                return None
            if run is not None:
                put_chunk(db, num, (run.first, run.start, run.packed))
                tail, size = run.last, run.size
            gaps = orjson.dumps([*orjson.loads(lost), (tail + 1, tail + SKIP)]).decode()
            query = "UPDATE logs SET tail = ?, size = ?, lost = ? WHERE num = ?"
            db.execute(query, (tail + SKIP, size, gaps, num))
        query = "UPDATE logs SET instance = ?, boot = ?, epoch = ?, active = ? WHERE num = ?"
        db.execute(query, (self._name, self._boot, epoch + 1, time.time(), num))
        db.execute("INSERT INTO claims (log, epoch, made) VALUES (?, ?, ?)", (num, epoch + 1, time.time()))
        return int(epoch) + 1

    # --- creating and finding ----------------------------------------------------------------------------------------

    async def create(self, birth: Birth) -> SqliteLog:
        """Begin a log, or return the one that has the idempotency key. Raises StoreError."""
        creation = Creation(birth)
        self.batches.put(creation)
        made = await creation.decided()
        if isinstance(made, str):
            found = await self.find(made)
            return found if found is not None else await self.create(birth)
        log = SqliteLog(self, made, birth)
        self._hold(log)
        return log

    async def release_key(self, log: SqliteLog) -> None:
        """Forget the idempotency key of a log. Raises StoreError."""
        if log.birth.idempotency is not None:
            await self._call(lambda db: db.execute("UPDATE logs SET idempotency = NULL WHERE num = ?", (log.num,)))

    async def find(self, stream_id: str) -> SqliteLog | None:
        """Return a log as it is now. Raises StoreError."""
        await self._catch_up()  # before its row is read: what becomes a chunk in between is seen there
        rows = await self._db.rows(f"{LOGS} WHERE id = ?", stream_id)
        if not rows or self._expired(rows[0]):
            return None
        held = self._held.get(rows[0][0])
        if held is not None:
            self._fence(held, rows[0][3])  # it may have been claimed without our knowing yet
        return held if held is not None and not held.fenced else self._log(rows[0])

    async def logs(self) -> AsyncIterator[SqliteLog]:
        """Yield every log, oldest first. Raises StoreError."""
        await self._catch_up()
        last = 0
        while True:
            rows = await self._db.rows(f"{LOGS} WHERE num > ? ORDER BY num LIMIT ?", last, PAGE)
            for row in rows:
                last = row[0]
                if not self._expired(row):
                    yield self._held.get(last) or self._log(row)
            if len(rows) < PAGE:
                return

    async def orphans(self) -> AsyncIterator[SqliteLog]:
        """Yield the logs without an ending whose holder has gone. Raises StoreError."""
        orphaned = """ended IS NULL AND (instance IS NULL OR NOT EXISTS (
            SELECT 1 FROM instances WHERE name = logs.instance AND boot = ? AND expires > ?))"""
        await self._catch_up()
        for row in await self._db.rows(f"{LOGS} WHERE {orphaned}", self._boot, time.monotonic()):
            yield self._log(row)

    def _expired(self, row: tuple[Any, ...]) -> bool:
        ended: float | None = row[9]
        return ended is not None and time.time() >= ended + self._retention

    def _log(self, row: tuple[Any, ...]) -> SqliteLog:
        self._db.verify(row[-1], row[1], row[2])
        log = SqliteLog(self, row[0], load_birth(row[1], row[2]))
        self._fill(log, row)
        return log

    def _fill(self, log: SqliteLog, row: tuple[Any, ...]) -> None:
        """Bring a log up to date with its row, and with the mirror, which must be younger."""
        _, _, _, log.epoch, log.target, tail, size, lost, active, ended, ending, _ = row
        log.stored_target = log.target
        run = self.mirror.runs.get(log.num)
        if ended is None and run is not None and run.last > tail:
            tail, size = run.last, run.size
        log.lost = [(first, last) for first, last in orjson.loads(lost)]
        log.last_activity = max(active, self.mirror.written.get(log.num, 0.0))
        log.tail, log.bytes = tail, size
        log.ending = load_ending(ending) if ending is not None else None

    async def chunk(self, num: int, number: int) -> Run:
        """Read the chunk with a record. Raises StoreError."""
        query = "SELECT first, start, data, crc FROM chunks WHERE log = ? AND first <= ? ORDER BY first DESC LIMIT 1"
        for first, start, data, crc in await self._db.rows(query, num, number):
            self._db.verify(crc, data)
            return Run(first, start, data)
        return Run(number, 0)

    # --- what other processes write --------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        async with self._reading:
            query = "SELECT at, written, data, crc FROM journal WHERE at > ? ORDER BY at"
            rows = await self._db.rows(query, self.mirror.seen)
            for _, _, data, crc in rows:
                self._db.verify(crc, data)
            self.mirror.catch_up(row[:3] for row in rows)

    async def _refresh(self, logs: Sequence[SqliteLog]) -> None:
        by_num = {log.num: log for log in logs}
        for row in await self._db.rows(f"{LOGS}, json_each(?) AS wanted WHERE num = wanted.value", listed(by_num)):
            self._fill(by_num.pop(row[0]), row)
        for log in by_num.values():
            raise StoreError(f"stream {log.birth.id} is gone")

    async def refresh(self, log: SqliteLog) -> None:
        """Bring a log that another process writes up to date. Raises StoreError."""
        await self._catch_up()
        await self._refresh([log])

    async def follow(self, log: SqliteLog) -> None:
        """Wait for something new in a log that another process writes. Raises StoreError."""
        await self._mark(log)
        before = (log.tail, log.ending)
        await self.refresh(log)
        if (log.tail, log.ending) != before:
            return
        news = self._following[log] = asyncio.Event()
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll(), name="sqlite poll")
        try:
            async with asyncio.timeout(FOLLOW):
                await news.wait()
        except TimeoutError:
            pass  # the caller looks whether the holder is still alive
        finally:
            del self._following[log]

    async def _mark(self, log: SqliteLog) -> None:
        """Tell the holder now and then that there are readers here."""
        now = time.monotonic()
        if now >= self._marked.get(log.num, 0.0) + self._lease / 3:
            self._marked[log.num] = now
            await self._call(lambda db: db.execute("UPDATE logs SET followed = ? WHERE num = ?", (now, log.num)))

    async def followed(self, log: SqliteLog) -> bool:
        """Whether another process has followed this log within a lease. Raises StoreError."""
        rows = await self._db.rows("SELECT followed FROM logs WHERE num = ?", log.num)
        return bool(rows) and time.monotonic() < rows[0][0] + self._lease

    async def _poll(self) -> None:
        """Wake the followers of logs that have grown; one look for all of them."""
        version = -1
        while self._following:
            try:
                if (now := await self._db.version()) != version:
                    version = now
                    await self._catch_up()
                    before = {log: (log.tail, log.ending) for log in self._following}
                    await self._refresh(list(before))
                    for log, known in before.items():
                        if (log.tail, log.ending) != known and log in self._following:
                            self._following[log].set()
            except StoreError:
                pass  # whoever follows meets the same error in its own next look
            await asyncio.sleep(POLL)

    # --- deleting ----------------------------------------------------------------------------------------------------

    async def sweep(self, now: float) -> None:
        """Put laggards into chunks, delete what is over, and give its space back to the disk. Raises StoreError."""
        await self._catch_up()
        runs = [(num, self.mirror.runs[num]) for num in self.mirror.laggards()]
        laggards = [(num, (run.first, run.start, run.packed), run.last, run.size) for num, run in runs]
        row = b"".join(entry(num, tail + 1, size) for num, _, tail, size in laggards)

        def work(db: Connection) -> int:
            at = 0
            for num, chunk, tail, size in laggards:
                put_chunk(db, num, chunk)
                db.execute("UPDATE logs SET tail = ?, size = ? WHERE num = ? AND tail < ?", (tail, size, num, tail))
            if row:
                at = put_row(db, now, row)
            sweeping.delete(db, now - self._retention, self._boot, self.mirror.written, self._lease)
            sweeping.shrink(db, self._max_bytes)
            return at

        at = await self._call(work)
        if row and self.mirror.note(at, len(row)):
            for num, _, tail, _ in laggards:
                self.mirror.drop(num, tail + 1)
        foreign = set(self.mirror.runs) - set(self._held)
        if foreign:
            open_logs = dict(await self._db.rows("SELECT num, tail FROM logs WHERE ended IS NULL"))
            for num in foreign:
                self.mirror.drop(num, open_logs.get(num, 1 << 62) + 1)
        await self._db.maintain(sweeping.vacuum)


def listed(nums: Iterable[int]) -> str:
    """Return numbers as SQLite's json_each takes them."""
    return orjson.dumps(list(nums)).decode()
