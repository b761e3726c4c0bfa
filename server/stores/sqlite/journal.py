"""The journal: what streams have appended and no chunk holds yet, one row per commit, mirrored in memory.

A row for each token would cost 20 us of CPU, most of it for touching a page of the file for each stream. One row per
commit costs a tenth of that. What a log has gathered goes into a chunk when there is enough of it, and at its ending.
Journal rows are deleted when chunks hold all of their records.

Every process reads the rows of the others into its mirror. So a live log is read from memory, whichever process writes
it.
"""

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from server.stores.runs import Run

if TYPE_CHECKING:
    from server.stores.group_commit import Append
    from server.stores.sqlite.log import SqliteLog

ENTRY = struct.Struct("<IQQI")  # log, number of the first record, bytes of data before it, size; the records follow
JOURNAL_BYTES = 16 << 20  # then the logs that hold the oldest rows are put into chunks


class Part(NamedTuple):
    """What a row says about one log. Without records: everything before `first` is in chunks."""

    log: int
    first: int
    start: int
    packed: bytes


def entry(log: int, first: int, start: int, packed: bytes = b"") -> bytes:
    """Return a part as a row holds it; a row is its parts, one after the other."""
    return ENTRY.pack(log, first, start, len(packed)) + packed


def parts_of(data: bytes) -> Iterator[Part]:
    """Yield the parts of a row that was read."""
    place = 0
    while place < len(data):
        log, first, start, size = ENTRY.unpack_from(data, place)
        place += ENTRY.size + size
        yield Part(log, first, start, data[place - size : place])


class Mirror:
    """The journal in memory: of each log the run of records that no chunk holds."""

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self.written: dict[int, float] = {}  # when each of these logs was appended to last
        self.seen = 0  # every row up to this one is here
        self._own: set[int] = set()  # later rows that are here, because this process wrote them
        self._sizes: deque[tuple[int, int]] = deque()  # rows with their bytes, oldest first
        self._total = 0
        self._watches: dict[int, set[int]] = {}  # the sets of `dropping`, by identity: two of them may be equal

    def note(self, at: int, size: int) -> bool:
        """Note a row of `size` bytes that this process has just written; False if it has been read already."""
        if at <= self.seen:
            return False
        self._count(at, size)
        self._own.add(at)
        while self.seen + 1 in self._own:
            self.seen += 1
            self._own.discard(self.seen)
        return True

    def catch_up(self, rows: Iterable[tuple[int, float, bytes]]) -> None:
        """Take in rows that were read, in their order, except those that are here already."""
        for at, written, data in rows:
            if at <= self.seen:
                continue
            if at not in self._own:
                self._count(at, len(data))
                for part in parts_of(data):
                    self._take(at, written, part)
            self._own.discard(at)
            self.seen = at

    def _count(self, at: int, size: int) -> None:
        self._sizes.append((at, size))
        self._total += size

    def _take(self, at: int, written: float, part: Part) -> None:
        log, first, start, packed = part
        if not packed:
            self.drop(log, first)
            return
        run = self.runs.get(log)
        if run is None or first > run.last + 1:
            self.runs[log] = Run(first, start, packed, at)
        elif first == run.last + 1:
            run.extend(packed)
        self.written[log] = written

    def add(self, at: int, written: float, writes: Iterable["Append[SqliteLog]"]) -> None:
        """Take in appends that were written with row `at`."""
        runs, times = self.runs, self.written
        for write in writes:
            log = write.log.num
            run = runs.get(log)
            if run is None or write.first > run.last + 1:
                run = runs[log] = Run(write.first, write.start, since=at)
            run.add(write.packed, write.tail, write.size)
            times[log] = written

    @contextmanager
    def dropping(self) -> Iterator[set[int]]:
        """Collect the logs that are dropped in the block: what was read of them before may lack what their runs had."""
        dropped: set[int] = set()
        self._watches[id(dropped)] = dropped
        try:
            yield dropped
        finally:
            del self._watches[id(dropped)]

    def drop(self, log: int, before: int) -> None:
        """Forget a log's run if all of it is before number `before`."""
        for dropped in self._watches.values():
            dropped.add(log)
        run = self.runs.get(log)
        if run is not None and run.last < before:
            del self.runs[log]
            self.written.pop(log, None)

    @property
    def floor(self) -> int:
        """The oldest row that is still needed."""
        return min((run.since for run in self.runs.values()), default=self.seen + 1)

    def trim(self, floor: int) -> None:
        """Note that the rows before `floor` are deleted."""
        while self._sizes and self._sizes[0][0] < floor:
            self._total -= self._sizes.popleft()[1]

    def laggards(self) -> list[int]:
        """Return the logs to put into chunks, so that the older half of a journal that is too large can go."""
        if self._total <= JOURNAL_BYTES:
            return []
        middle = self._sizes[len(self._sizes) // 2][0]
        return [log for log, run in self.runs.items() if run.since <= middle]
