r"""Decodes Server-Sent Events (WHATWG HTML standard, section 9.2.6): bytes in, whole events out.

It works on bytes, because `str.splitlines()` would also split a text at U+2028, U+0085 and \x0b.
"""

import re
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"
LINE_END = re.compile(rb"\r\n|\r|\n")


class Event(NamedTuple):
    """One event: its type (empty: the default), its data, and the id in the event itself (or None)."""

    type: bytes
    data: bytes
    id: bytes | None


class Decoder:
    """Takes bytes in pieces of any size. An event that is incomplete at the end is never returned."""

    def __init__(self) -> None:
        self.retry: int | None = None  # the last reconnection time that the stream set, in milliseconds
        self._at_start = True
        self._rest = b""  # the incomplete line
        self._data: list[bytes] = []  # of the incomplete event, as are these:
        self._type = b""
        self._id: bytes | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes."""
        received = self._rest + chunk
        if self._at_start:
            if len(received) < len(BOM) and BOM.startswith(received):
                self._rest = received  # it may still become a byte order mark
                return []
            self._at_start = False
            received = received.removeprefix(BOM)
        # A \r at the end may be half of a \r\n. Keep it until more comes: otherwise there would be an empty line.
        half = b"\r" if received.endswith(b"\r") else b""
        *lines, rest = LINE_END.split(received.removesuffix(half))
        self._rest = rest + half
        return [event for line in lines if (event := self._take(line))]

    def _take(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._type = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry = int(value)
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._type, b"\n".join(self._data), self._id) if self._data else None
        self._data, self._type, self._id = [], b"", None
        return event


def frame(event: Event) -> bytes:
    """Return the event as bytes on the wire."""
    head = b"event: %b\n" % event.type if event.type else b""
    if event.id is not None:
        head += b"id: %b\n" % event.id
    return b"%bdata: %b\n\n" % (head, event.data.replace(b"\n", b"\ndata: "))
