"""The records of one log in little memory: what they begin and end with, one like the other, is kept once.

An upstream repeats its id, its fields and their order with every token: of a record of 220 bytes 200 are those of the
one before. An object a record would cost fifty bytes more, and make the garbage collector walk over every token.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

SEGMENT_BYTES = 1 << 20  # past it a new segment begins: a buffer that grows is copied again and again
SEGMENT_OVERHEAD = 320  # bytes of a segment beside its data
RECORD_OVERHEAD = 4  # bytes of a record beside its data: where it ends
WORTHWHILE = 16  # records alike, for which a segment has been worth its overhead
PATIENCE = 64  # as `room`: how often a segment may end before that without a pause in looking
MOST_ROOM = 4096


class Segment:
    """Records that follow each other and all begin with `before` and end with `after`; kept is what is in between.

    `first` is the number of the first one, `start` the bytes of data before it; there are `room` at most.
    """

    __slots__ = ("_data", "_ends", "_room", "_shared", "after", "before", "first", "start")

    def __init__(self, first: int, start: int, room: int, before: bytes = b"", after: bytes = b"") -> None:
        self.first = first
        self.start = start
        self.before, self.after = before, after
        self._room = room
        self._shared = len(before) + len(after)
        self._data = bytearray()
        self._ends = array("I")  # of each record, in `_data`

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def footprint(self) -> int:
        """Memory that it takes, in bytes."""
        return SEGMENT_OVERHEAD + self._shared + len(self._data) + RECORD_OVERHEAD * len(self._ends)

    def add(self, data: bytes) -> bool:
        """Add a record; False where it is none of these, or one too many."""
        kept, ends = self._data, self._ends
        if len(ends) >= self._room or len(kept) > SEGMENT_BYTES:
            return False
        if self._shared:
            if len(data) < self._shared or not (data.startswith(self.before) and data.endswith(self.after)):
                return False
            data = data[len(self.before) : len(data) - len(self.after)]
        kept += data
        ends.append(len(kept))
        return True

    def record(self, index: int) -> bytes:
        """Return the record at a place, from 0."""
        start = self._ends[index - 1] if index else 0
        return b"".join((self.before, self._data[start : self._ends[index]], self.after))

    def size(self, count: int) -> int:
        """Return the size of the first `count` records, in bytes."""
        return count * self._shared + (self._ends[count - 1] if count else 0)


class Segments:
    """All records of a log, by number from 1."""

    __slots__ = ("_all", "_footprint", "_last", "_room")

    def __init__(self) -> None:
        # Records of no common form after which one is looked for. A stream begins with its role; then they are alike.
        self._room = 2
        self._last = Segment(1, 0, self._room)
        self._all = [self._last]
        self._footprint = 0  # of all but the last

    @property
    def footprint(self) -> int:
        """Memory that they take, in bytes, as near as counting gets."""
        return self._footprint + self._last.footprint

    def add(self, data: bytes) -> None:
        """Add a record."""
        if not self._last.add(data):
            last = self._last
            self._footprint += last.footprint
            count = len(last)
            self._last = self._following(last, data, last.first + count, last.start + last.size(count))
            self._all.append(self._last)
            self._last.add(data)

    def _following(self, last: Segment, data: bytes, first: int, start: int) -> Segment:
        """Return the segment that begins with `data`, which `last` has not taken.

        Records of ever other forms are not worth looking at each: the next look is farther away each time.
        """
        plain = not last.before and not last.after
        if not plain and len(last) >= WORTHWHILE:
            self._room = 2
        elif not plain:
            self._room = min(2 * self._room, MOST_ROOM)
        if plain or self._room < PATIENCE:
            before, after = common(last.record(len(last) - 1), data)
            if before or after:
                return Segment(first, start, 1 << 31, before, after)
        if plain:
            self._room = min(2 * self._room, MOST_ROOM)
        return Segment(first, start, self._room)

    def read(self, after: int) -> Iterator[bytes]:
        """Yield the records after number `after`."""
        place = self._place(after + 1)
        for segment in self._all[place:]:
            for index in range(max(0, after + 1 - segment.first), len(segment)):
                yield segment.record(index)

    def offset(self, cursor: int) -> int:
        """Return the size of records 1 to `cursor`, in bytes."""
        segment = self._all[self._place(cursor)]
        return segment.start + segment.size(max(0, cursor + 1 - segment.first))

    def _place(self, number: int) -> int:
        """Return which segment has a record; the first for 0, the last for the one that is yet to come."""
        return max(0, bisect_right(self._all, number, key=lambda segment: segment.first) - 1)


def common(one: bytes, other: bytes) -> tuple[bytes, bytes]:
    """Return what both begin with and what both end with; nothing where it is less than half of the shorter one."""
    shorter = min(len(one), len(other))
    before = bisect_left(range(shorter), True, key=lambda at: one[: at + 1] != other[: at + 1])
    left = shorter - before
    after = bisect_left(range(left), True, key=lambda at: one[-at - 1 :] != other[-at - 1 :])
    if 2 * (before + after) < shorter:
        return b"", b""
    return one[:before], one[len(one) - after :]
