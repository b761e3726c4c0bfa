"""The records of one log in little memory: what they all begin and end with is kept once.

An upstream repeats its id, its fields and their order with every token: of a record of 220 bytes, 200 are those of the
record before. Records are compared a block at a time, in calls that take the whole block: one by one it would cost a
twentieth of all that a token costs.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

BLOCK = 16  # records that are packed together, at least
SEGMENT_BYTES = 1 << 20  # then a new segment begins: a buffer that grows is copied again and again
SEGMENT_OVERHEAD = 320  # bytes of a segment beside its data
RECORD_OVERHEAD = 4  # bytes of a record beside its data: where it ends

Shape = tuple[bytes, bytes]  # what records begin with, and what they end with
PLAIN: Shape = (b"", b"")


class Segment:
    """Records that follow each other and have one shape. Only what lies between its two ends is kept.

    `first` is the number of the first one, `start` the bytes of data before it.
    """

    __slots__ = ("_data", "_ends", "_shared", "first", "shape", "start")

    def __init__(self, first: int, start: int, shape: Shape) -> None:
        self.first = first
        self.start = start
        self.shape = shape
        self._shared = len(shape[0]) + len(shape[1])
        self._data = bytearray()
        self._ends = array("I")  # of each record, in `_data`

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def footprint(self) -> int:
        """Memory that it takes, in bytes."""
        return SEGMENT_OVERHEAD + self._shared + len(self._data) + RECORD_OVERHEAD * len(self._ends)

    def add(self, texts: Sequence[bytes]) -> bool:
        """Add records; `texts` is what the shape leaves over of each. Return whether more should be added."""
        data, ends = self._data, self._ends
        for text in texts:
            data += text
            ends.append(len(data))
        return len(data) <= SEGMENT_BYTES

    def record(self, index: int) -> bytes:
        """Return the record at a place, from 0."""
        start = self._ends[index - 1] if index else 0
        return self.shape[0] + self._data[start : self._ends[index]] + self.shape[1]

    def size(self, count: int) -> int:
        """Return the size of the first `count` records, in bytes."""
        return count * self._shared + (self._ends[count - 1] if count else 0)


class Segments:
    """The records of a log from number 1 to `tail`."""

    __slots__ = ("_all", "_earlier", "_last")

    def __init__(self) -> None:
        self._all: list[Segment] = []
        self._last: Segment | None = None  # the one that takes more
        self._earlier = 0  # footprint of all segments but the last

    @property
    def tail(self) -> int:
        """The number of the last record."""
        return self._all[-1].first + len(self._all[-1]) - 1 if self._all else 0

    @property
    def size(self) -> int:
        """Bytes of all data."""
        return self._all[-1].start + self._all[-1].size(len(self._all[-1])) if self._all else 0

    @property
    def footprint(self) -> int:
        """Bytes of memory, as near as counting gets."""
        return self._earlier + self._all[-1].footprint if self._all else 0

    def add(self, records: Sequence[bytes]) -> None:
        """Add a block of records. Find out what they have in common."""
        if not self._all:  # the first record of a stream names the role, and is not like the next ones
            self.put(PLAIN, records[:1])
            records = records[1:]
            if not records:
                return
        shape = self._all[-1].shape
        texts = cut(records, shape) if shape != PLAIN else ()
        if not texts:
            shape = common(records, shape)
            texts = cut(records, shape)
        self.put(shape, texts)

    def put(self, shape: Shape, texts: Sequence[bytes]) -> None:
        """Add records of a known shape: `texts` is what it leaves over of each."""
        last = self._last
        if last is None or last.shape != shape:
            self._earlier = self.footprint
            last = self._last = Segment(self.tail + 1, self.size, shape)
            self._all.append(last)
        if not last.add(texts):
            self._last = None

    def read(self, after: int) -> Iterator[bytes]:
        """Yield the records after number `after`."""
        for segment in self._all[self._place(after + 1) :]:
            for index in range(max(0, after + 1 - segment.first), len(segment)):
                yield segment.record(index)

    def offset(self, cursor: int) -> int:
        """Return the size of records 1 to `cursor`, which is not past `tail`, in bytes."""
        if cursor == 0:
            return 0
        segment = self._all[self._place(cursor)]
        return segment.start + segment.size(cursor + 1 - segment.first)

    def _place(self, number: int) -> int:
        """Return which segment has a record; the last segment if the record is still to come."""
        return max(0, bisect_right(self._all, number, key=lambda segment: segment.first) - 1)


def common(records: Sequence[bytes], last: Shape) -> Shape:
    """Return what all records begin and end with; `PLAIN` if that is less than half of the shortest record.

    If they also have half of it in common with the last shape, return only what is common to all of these. Texts that
    happen to begin with the same letters make a shape too long; so it becomes the true one.
    """
    shortest = min(map(len, records))
    backwards = [record[::-1] for record in records]
    before, after = _prefix(min(records), max(records)), _prefix(min(backwards), max(backwards))[::-1]
    shared = (_prefix(before, last[0]), _prefix(after[::-1], last[1][::-1])[::-1])
    for shape in (shared, (before, after)):
        size = len(shape[0]) + len(shape[1])
        if size <= shortest <= 2 * size:
            return shape
    return PLAIN


def _prefix(one: bytes, other: bytes) -> bytes:
    """Return the longest common beginning."""
    size = min(len(one), len(other))
    different = int.from_bytes(one[:size]) ^ int.from_bytes(other[:size])
    return one[: size - (different.bit_length() + 7) // 8]


def cut(records: Sequence[bytes], shape: Shape) -> Sequence[bytes]:
    """Return what the shape leaves over of each record; nothing if any record does not have the shape."""
    before, after = shape
    if min(map(len, records)) < len(before) + len(after):
        return ()
    texts = [record[len(before) : len(record) - len(after)] for record in records]
    # One comparison for all: if one record differs from the shape, the joined bytes differ at its place.
    return texts if before + (after + before).join(texts) + after == b"".join(records) else ()
