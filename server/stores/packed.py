"""Records as bytes, one after the other: how durable stores keep many records in one value."""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Sequence

from server.core.records import Record

HEAD = struct.Struct("<BI")  # size of the kind, size of the data; both follow


def pack(records: Sequence[Record]) -> bytes:
    """Return records one after the other."""
    return b"".join([HEAD.pack(len(kind), len(data)) + kind.encode() + data for kind, data in records])


class Run:
    """Records of one log that follow each other, from number `first` on.

    `start` is the size of the data of all records before them, in bytes, `since` the place where a store keeps the
    oldest of them.
    """

    __slots__ = ("_ends", "_sizes", "first", "packed", "since", "start")

    def __init__(self, first: int, start: int, packed: bytes = b"", since: int = 0) -> None:
        self.first = first
        self.start = start
        self.since = since
        self.packed = bytearray()
        self._ends = array("Q")  # of each record: bytes of `packed` up to and with it
        self._sizes = array("Q")  # of each record: bytes of data up to and with it, from `start` on
        self.add(packed)

    @property
    def last(self) -> int:
        """Number of the last record; `first - 1` where there is none."""
        return self.first + len(self._ends) - 1

    @property
    def size(self) -> int:
        """Bytes of the data of all records of the log up to the last one here."""
        return self.start + (self._sizes[-1] if self._sizes else 0)

    def add(self, packed: bytes) -> None:
        """Add records at the end."""
        at, size, base = 0, self._sizes[-1] if self._sizes else 0, len(self.packed)
        while at < len(packed):
            kind, data = HEAD.unpack_from(packed, at)
            at += HEAD.size + kind + data
            size += data
            self._ends.append(base + at)
            self._sizes.append(size)
        self.packed += packed

    def read(self, after: int, max_bytes: int) -> list[Record]:
        """Return records after number `after`: at least one if there is one, then as many as fit `max_bytes`."""
        index = after + 1 - self.first
        if not 0 <= index < len(self._ends):
            return []
        bound = (self._sizes[index - 1] if index else 0) + max_bytes
        last = max(index + 1, bisect_right(self._sizes, bound, index))
        at = self._ends[index - 1] if index else 0
        found = []
        for end in self._ends[index:last]:
            kind, _ = HEAD.unpack_from(self.packed, at)
            at += HEAD.size
            found.append(Record(self.packed[at : at + kind].decode(), bytes(self.packed[at + kind : end])))
            at = end
        return found

    def offset(self, cursor: int) -> int:
        """Return the size of the data up to `cursor`, which is here, or the number before the first."""
        index = cursor - self.first
        return self.start + (self._sizes[index] if index >= 0 else 0)
