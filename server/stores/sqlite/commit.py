"""One batch of the SQLite store: what its transaction writes."""

from collections.abc import Mapping, Sequence

import orjson

from server.core.records import dump_ending, writable
from server.stores.group_commit import Append
from server.stores.runs import Run
from server.stores.sqlite.database import Connection, checksum
from server.stores.sqlite.journal import ENTRY, Mirror, entry
from server.stores.sqlite.log import SqliteLog

CHUNK = 65_536  # bytes of a log that are gathered before they become a chunk
CHUNKS = 8  # logs that are put into chunks by one commit: the others lose nothing by waiting

PAGE_SIZE = 4096  # bytes
COMMIT_PAGES = 4
ROW = "INSERT INTO journal (written, data, crc) VALUES (?, ?, ?)"
# It does nothing if there are new claims. Old claims are deleted, but not before the instances whose lease was over: so
# it also does nothing if this instance is not there any more.
UNCLAIMED_ROW = """INSERT INTO journal (written, data, crc) SELECT ?, ?, ?
    WHERE NOT EXISTS (SELECT 1 FROM claims WHERE at > ?) AND EXISTS (SELECT 1 FROM instances WHERE name = ?)"""
RETARGET = """UPDATE logs SET target = named.target FROM (
    SELECT json_extract(value, '$[0]') AS num, json_extract(value, '$[1]') AS target FROM json_each(?)) AS named
    WHERE logs.num = named.num"""

Chunk = tuple[int, int, bytes]  # number of the first record, bytes of data before it, the records


class Commit:
    """Appends, the row of the journal that holds them, and the logs that are put into a chunk now.

    The event loop makes it, and the writer's thread writes it. So the thread has little left to do: it competes with
    the loop for the interpreter.
    """

    def __init__(self, writes: Sequence[Append[SqliteLog]], mirror: Mirror, now: float) -> None:
        self.at = 0  # the row
        self.now = now
        self.left_out: Sequence[Append[SqliteLog]] = ()
        self._mirror = mirror
        self._choose(writes)

    def _choose(self, writes: Sequence[Append[SqliteLog]]) -> None:
        self.writes = writes
        self._chunks: dict[Append[SqliteLog], Chunk] = {}
        pieces: list[bytes] = []
        runs = self._mirror.runs
        self._targets: list[tuple[int, str]] = []
        for write in writes:
            log = write.log
            num = log.num
            run = runs.get(num)
            gathered = write.size - (write.start if run is None else run.start)
            if write.ending is not None or (gathered >= CHUNK and len(self._chunks) < CHUNKS):
                self._chunks[write] = _gathered(write, run)
                pieces.append(entry(num, write.tail + 1, write.size))
            else:
                packed = write.packed
                pieces.append(ENTRY.pack(num, write.first, write.start, len(packed)))
                pieces.append(packed)
            if log.target != log.stored_target:
                self._targets.append((num, writable(log.target)))
        self.row = b"".join(pieces)

    @property
    def values(self) -> tuple[float, bytes, int]:
        """What is stored of the row."""
        return self.now, self.row, checksum(self.row)

    @property
    def pages(self) -> int:
        """About how many pages it writes: those of its data, and what a commit takes in any case."""
        data = len(self.row) + sum(len(records) for _, _, records in self._chunks.values())
        return COMMIT_PAGES + data // PAGE_SIZE

    @property
    def is_row(self) -> bool:
        """Whether the row is all that there is to write."""
        return bool(self.row) and not self._chunks and not self._targets

    @property
    def ends(self) -> bool:
        """Whether a stream ends with it."""
        return any(write.ending is not None for write in self.writes)

    @property
    def nums(self) -> list[int]:
        """The logs that are appended to."""
        return [write.log.num for write in self.writes]

    def keep(self, epochs: Mapping[int, int]) -> None:
        """Leave out every append that is not of the epoch in which its log is held: `epochs`, by number."""
        self.left_out = [write for write in self.writes if epochs.get(write.log.num) != write.epoch]
        self._choose([write for write in self.writes if epochs.get(write.log.num) == write.epoch])

    def run(self, db: Connection) -> None:
        """Write all of it, in a transaction.

        Each statement gives the interpreter away and has to get it back from a busy event loop, which can take
        milliseconds. So there are as few statements as possible, however many logs there are.
        """
        if self.row:
            self.at = put_row(db, self.now, self.row)
        for write, chunk in self._chunks.items():
            put_chunk(db, write.log.num, chunk)
            self._note(db, write)
        if self._targets:
            db.execute(RETARGET, (orjson.dumps(self._targets).decode(),))

    def _note(self, db: Connection, write: Append[SqliteLog]) -> None:
        """Note in its row what of a log is in chunks now, and the ending."""
        end, facts = write.ending, (self.now, write.tail, write.size)
        if end is None:
            db.execute("UPDATE logs SET active = ?, tail = ?, size = ? WHERE num = ?", (*facts, write.log.num))
        else:
            ending = dump_ending(end)
            query = """UPDATE logs SET active = ?, tail = ?, size = ?, instance = NULL, ended = ?, ending = ?,
                ending_crc = ? WHERE num = ?"""
            db.execute(query, (*facts, end.at, ending, checksum(ending), write.log.num))

    def mirror(self) -> None:
        """Take what was written into the mirror."""
        if not self.row or not self._mirror.note(self.at, len(self.row)):
            return
        if not self._chunks:
            self._mirror.add(self.at, self.now, self.writes)
            return
        for write in self.writes:
            if write in self._chunks:
                self._mirror.drop(write.log.num, write.tail + 1)
            else:
                self._mirror.add(self.at, self.now, (write,))


def _gathered(write: Append[SqliteLog], run: Run | None) -> Chunk:
    """Return all of a log that no chunk holds, up to the end of an append. `run`: what the journal has of it."""
    pieces = [write.packed]
    while write.before is not None:
        write = write.before
        pieces.append(write.packed)
    if run is None or run.last != write.first - 1:
        return write.first, write.start, b"".join(reversed(pieces))
    return run.first, run.start, b"".join([run.packed, *reversed(pieces)])


def put_row(db: Connection, written: float, data: bytes) -> int:
    """Store a row of the journal; return its number."""
    return db.execute(ROW, (written, data, checksum(data))).lastrowid or 0


def put_chunk(db: Connection, log: int, chunk: Chunk) -> None:
    """Store a chunk. Of two that begin at the same record, the longer one stays."""
    db.execute(
        """INSERT INTO chunks (log, first, start, data, crc) VALUES (?, ?, ?, ?, ?) ON CONFLICT (log, first)
        DO UPDATE SET data = excluded.data, crc = excluded.crc WHERE length(excluded.data) > length(data)""",
        (log, *chunk, checksum(chunk[2])),
    )
