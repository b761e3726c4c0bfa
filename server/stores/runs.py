"""Records as bytes, one after the other: how durable stores keep many records in one value."""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence

from server.core.records import Record, Tokens

HEAD = struct.Struct("<BI")  # size of the kind, size of the data; both follow


def pack(records: Sequence[Record]) -> bytes:
    """Return records one after the other."""
    if isinstance(records, Tokens):
        before, after = records.before, records.after
        name = records.kind.encode()
        around = len(before) + len(after)
        return b"".join(
            [HEAD.pack(len(name), around + len(text)) + name + before + text + after for text in records.texts]
        )
    if len(records) == 1:
        kind, data = records[0]
        return HEAD.pack(len(kind), len(data)) + kind.encode() + data
    return b"".join([HEAD.pack(len(kind), len(data)) + kind.encode() + data for kind, data in records])


class Run:
    """Records of one log that follow each other, numbers `first` to `last`. An empty run has `last == first - 1`.

    `start` is the size of the data of all records before them, in bytes, and `size` that of all data up to `last`.
    `since` is the place where a store keeps the oldest of them. The place of each record is found out only when
    somebody reads: what was shown live is hardly ever read.
    """

    __slots__ = ("_ends", "_late", "_packed", "_sizes", "first", "last", "since", "size", "start")

    def __init__(self, first: int, start: int, packed: bytes = b"", since: int = 0) -> None:
        self.first = first
        self.start = self.size = start
        self.last = first - 1
        self.since = since
        self._packed = bytearray()
        self._late: list[bytes] = []  # added since the last read: copying it into the rest would cost as much
        self._ends = array("Q")  # of each record: bytes of `_packed` up to and with it
        self._sizes = array("Q")  # of each record: bytes of data up to and with it, from `start` on
        if packed:
            self.extend(packed)

    def extend(self, packed: bytes) -> None:
        """Add records at the end."""
        self._late.append(packed)
        self._index()
        self.last = self.first + len(self._ends) - 1
        self.size = self.start + self._sizes[-1]

    def add(self, packed: bytes, last: int, size: int) -> None:
        """Add records at the end, up to number `last`. With them, all data of the log has `size` bytes."""
        self._late.append(packed)
        self.last, self.size = last, size

    @property
    def packed(self) -> bytes:
        """All records, one after the other."""
        return b"".join([self._packed, *self._late])

    def _index(self) -> None:
        """Find the records that have been added since the last time."""
        at, size = (self._ends[-1], self._sizes[-1]) if self._ends else (0, 0)
        self._packed += b"".join(self._late)
        self._late.clear()
        while at < len(self._packed):
            kind, data = HEAD.unpack_from(self._packed, at)
            at += HEAD.size + kind + data
            size += data
            self._ends.append(at)
            self._sizes.append(size)

    def read(self, after: int, max_bytes: int) -> list[Record]:
        """Return records after number `after`: at least one if there is one, then as many as fit `max_bytes`."""
        index = after + 1 - self.first
        if index < 0 or after >= self.last:
            return []
        self._index()
        bound = (self._sizes[index - 1] if index else 0) + max_bytes
        last = max(index + 1, bisect_right(self._sizes, bound, index))
        at = self._ends[index - 1] if index else 0
        records = []
        for end in self._ends[index:last]:
            kind, _ = HEAD.unpack_from(self._packed, at)
            at += HEAD.size
            records.append(Record(self._packed[at : at + kind].decode(), bytes(self._packed[at + kind : end])))
            at = end
        return records

    def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`: a record of this run, or the number before the first."""
        index = cursor - self.first
        self._index()
        return self.start + (self._sizes[index] if index >= 0 else 0)
