"""The database file of the SQLite store: its connections, with a thread each, and its errors in words."""

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from server.aio.threads import WorkerThread
from server.core.errors import StoreError
from server.stores.sqlite.files import Files
from server.stores.sqlite.schema import prepare

logger = structlog.get_logger("sluiceway.stores")
Result = TypeVar("Result")
Connection = sqlite3.Connection

BUSY_TIMEOUT = 5.0  # seconds that a write waits for the lock of another process
LOCKED_TIMEOUT = 0.05  # the same after a write that has waited in vain: the next caller is told soon
WAL_PAGES = 4000  # pages of the write-ahead log with which a commit makes a checkpoint itself
WAL_LIMIT = 64 << 20  # bytes that the write-ahead log is cut back to when it has been copied

# By SQLite's result codes (https://www.sqlite.org/rescode.html): an extended one goes before its primary one.
WORDS = {
    sqlite3.SQLITE_IOERR_SHMSIZE: "cannot grow: the disk is full",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error",
    sqlite3.SQLITE_PERM: "may not be used by this user",
}
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """One file, opened by `open`. Writes and reads each have a connection and a thread: neither waits for the other."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.damage: str | None = None  # in one sentence, once damage has been met
        self.gone: str | None = None  # in one sentence, while a file is not where it was opened
        self._files = Files(self.path)
        self._writing: WorkerThread
        self._reading: WorkerThread
        self._copying: WorkerThread
        self._writer: Connection | None = None
        self._patience = BUSY_TIMEOUT  # the writer's, at present
        self._reader: Connection | None = None
        self._copier: Connection | None = None

    async def open(self) -> None:
        """Open the file, or make it. Raises StoreError."""
        self._writing, self._reading, self._copying = (
            WorkerThread(f"sqlite-{name}") for name in ("write", "read", "copy")
        )
        await self._run(self._writing, self._open)

    def _open(self) -> None:
        try:
            self._files.prepare()
        except OSError as error:
            raise StoreError(f"The database {self.path} cannot be opened: {error.strerror}.") from error
        self._writer = self._connect()
        prepare(self._writer, self.path)
        self._reader = self._connect()
        self._copier = self._connect()
        self._files.remember()

    def _connect(self) -> Connection:
        made = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        made.execute("PRAGMA auto_vacuum = INCREMENTAL")  # heeded only before the first table is made
        made.execute("PRAGMA journal_mode = WAL")
        # A commit is in the kernel's hands when it returns: it survives a SIGKILL at any point, but not a power loss.
        # FULL would wait for the disk (measured: 3 ms) for each batch of tokens. What a power loss takes is noticed by
        # the boot's id, and shows as a gap: see SqliteStore.claim.
        made.execute("PRAGMA synchronous = NORMAL")
        made.execute("PRAGMA secure_delete = FAST")  # no prompts in freed pages, if that costs no write
        made.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
        made.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        return made

    async def close(self) -> None:
        """Copy the write-ahead log into the file and close it."""
        await self._writing.run(self._close)
        for thread in (self._writing, self._reading, self._copying):
            thread.stop()

    def _close(self) -> None:
        for one in (self._copier, self._reader, self._writer):  # the last one to close makes the checkpoint
            if one is not None:
                one.close()

    def verify(self, crc: int, *data: bytes) -> None:
        """Compare data that was read with the checksum that it was written with. Raises StoreError."""
        if crc != checksum(*data):
            self.damage = f"The database {self.path} {WORDS[sqlite3.SQLITE_CORRUPT]}."
            raise StoreError(self.damage)

    async def look(self) -> None:
        """Look whether the files are still there. If not, `gone` says so, and so does the log, once."""
        gone = await self._reading.run(self._missing)
        if gone is not None and gone != self.gone:
            logger.error("database gone", error=gone)
        self.gone = gone

    def _missing(self) -> str | None:
        missing = self._files.missing()
        return None if missing is None else f"The database {self.path} is gone: {missing.name} was deleted or replaced."

    def check_there(self, *, closely: bool) -> None:
        """Raise StoreError if the files are not there any more: what is written now would be gone at the next start.

        In the writer's thread. `closely`: look again. Otherwise it is known from the last `look`, up to a moment ago.
        """
        gone = self._missing() if closely else self.gone
        if gone is not None:
            raise StoreError(gone)

    async def version(self) -> int:
        """Return a number that is another one if anything was committed since. Raises StoreError."""
        return int(await self.read(lambda db: db.execute("PRAGMA data_version").fetchone()[0]))

    async def write(self, transaction: Callable[[Connection], Result]) -> Result:
        """Run `transaction` in the writer's thread, all or nothing. Raises StoreError."""
        return await self._run(self._writing, partial(self.transact, transaction))

    def give(self, work: Callable[[], Any], answer: Callable[[Any, Exception | None], None]) -> None:
        """Run `work` in the writer's thread; `answer` gets what it returns, or a StoreError or what else it raises."""

        def translated(result: Any, error: Exception | None) -> None:
            answer(result, self._translated(error) if isinstance(error, sqlite3.Error) else error)

        self._writing.give(work, translated)

    # --- in the writer's thread ----------------------------------------------------------------------------------

    def transact(self, transaction: Callable[[Connection], Result]) -> Result:
        """Run `transaction`, all or nothing."""
        assert self._writer is not None
        self._begin(self._writer, "BEGIN IMMEDIATE")
        try:
            result = transaction(self._writer)
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return result

    def insert(self, query: str, values: Sequence[Any]) -> int | None:
        """Run one INSERT as a transaction; return the number of its row, or None without one."""
        assert self._writer is not None
        done = self._begin(self._writer, query, values)
        return done.lastrowid if done.rowcount == 1 else None

    def _begin(self, writer: Connection, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run the first statement of a transaction: it waits for the lock."""
        try:
            done = writer.execute(query, values)
        except sqlite3.Error:
            self._wait(writer, LOCKED_TIMEOUT)
            raise
        self._wait(writer, BUSY_TIMEOUT)
        return done

    def _wait(self, writer: Connection, seconds: float) -> None:
        """Let the next write wait as long as this for a lock."""
        if seconds != self._patience:
            self._patience = seconds
            writer.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")

    # --- in the loop ---------------------------------------------------------------------------------------------

    async def maintain(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in the writer's thread, outside a transaction. Raises StoreError."""

        def run() -> Result:
            assert self._writer is not None
            return work(self._writer)

        return await self._run(self._writing, run)

    async def checkpoint(self) -> None:
        """Copy what was committed into the file, while commits go on. Raises StoreError.

        The copy waits for the disk, which would hold up the writer for too long. What is committed meanwhile is little.
        That is copied between two commits, so that the write-ahead log begins anew: it grows as long as anything is
        left in it.
        """
        for thread, connection in ((self._copying, self._copier), (self._writing, self._writer)):
            await self._run(thread, partial(_copy, connection))

    async def read(self, query: Callable[[Connection], Result]) -> Result:
        """Run `query` in the reader's thread. Raises StoreError."""

        def run() -> Result:
            assert self._reader is not None
            return query(self._reader)

        return await self._run(self._reading, run)

    async def rows(self, query: str, *values: Any) -> list[Any]:
        """Return all rows of a query. Raises StoreError."""
        return await self.read(lambda db: db.execute(query, values).fetchall())

    async def _run(self, thread: WorkerThread, work: Callable[[], Result]) -> Result:
        try:
            return await thread.run(work)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> StoreError:
        words = in_words(self.path, error)
        if primary_code(error) in DAMAGE:
            self.damage = words
        return StoreError(words)


def _copy(connection: Connection | None) -> None:
    assert connection is not None
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def checksum(*data: bytes) -> int:
    """Return the checksum of data one after the other."""
    crc = 0
    for piece in data:
        crc = zlib.crc32(piece, crc)
    return crc


def in_words(path: Path, error: sqlite3.Error) -> str:
    """Return one sentence that says what is wrong with a database."""
    words = WORDS.get(_code(error)) or WORDS.get(primary_code(error)) or f"cannot be used: {error}"
    return f"The database {path} {words}."


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary part of SQLite's result code; 0 if the error is the module's own."""
    return _code(error) & 0xFF


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0))
