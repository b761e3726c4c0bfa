r"""The Server-Sent Events codec, as the WHATWG HTML standard section 9.2.6 defines the format.

The decoder works on bytes, because `str.splitlines()` would also split a text at U+2028, U+0085 and \x0b. It is
incremental to the byte: an event (or a character) that is split across reads comes out once and whole.
"""

from typing import NamedTuple

LF, CR = b"\n\r"  # as numbers: `number in bytes` takes a fifth of the time of `b"\n" in bytes`
BOM = b"\xef\xbb\xbf"
HEARTBEAT = b": hb\n"  # no blank line after it: that would dispatch an empty event after an `id:`
MAX_EVENT_BYTES = 4 * 1024 * 1024  # a larger event is garbage, not a token
LINE_BYTES = 64  # memory of each further line beside its text: millions of short lines are large, too


class Event(NamedTuple):
    """One dispatched event: its type (empty: the default), its data, and the id that its block set (or None)."""

    type: bytes
    data: bytes
    id: bytes | None


class EventTooLargeError(ValueError):
    """An event grew past the decoder's bound without ending."""


def frame(seq: int, data: bytes, event: bytes = b"") -> bytes:
    r"""Return one event block, `event:` first, for record `seq`. `data` has no \r: it would end a line."""
    head = b"event: %b\nid: %d\n" % (event, seq) if event else b"id: %d\n" % seq
    if LF in data:
        return b"%bdata: %b\n\n" % (head, data.replace(b"\n", b"\ndata: "))
    return b"%bdata: %b\n\n" % (head, data)


def unnumbered(data: bytes, event: bytes = b"") -> bytes:
    """Return one event block without `id:`, so the client's cursor stays where it was."""
    return b"event: %b\ndata: %b\n\n" % (event, data) if event else b"data: %b\n\n" % data


def retry(milliseconds: int) -> bytes:
    """Return the line that sets a client's reconnection time. An event or the end must follow."""
    return b"retry: %d\n" % milliseconds


# NamedTuple's own constructor is a Python function. It takes longer than the rest of the work for an event.
_event = tuple.__new__


class Decoder:
    """Bytes in, whole events out. An incomplete event at the end of input is never dispatched."""

    __slots__ = (
        "_bom",
        "_data",
        "_further_bytes",
        "_id",
        "_line",
        "_max",
        "_skip_lf",
        "_type",
        "at_rest",
        "retry",
    )

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.retry: int | None = None  # the last reconnection time that the stream set, in milliseconds
        self._max = max_event_bytes
        self.at_rest = False  # past the start, and no event is incomplete
        self._bom: bytes | None = b""  # the first bytes, if they may begin a byte order mark; None past the start
        self._skip_lf = False  # the last read ended in \r: a \n at the start of the next one is the same line end
        self._line = bytearray()  # of the incomplete line
        self._data: list[bytes] = []  # lines of the incomplete event, as are these:
        self._further_bytes = 0  # memory of the lines after the first one in `_data`, in bytes
        self._type = b""
        self._id: bytes | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes.

        Raises:
            EventTooLargeError: an event is past the bound. The calls before have returned the events before it.

        """
        if self._bom is not None:
            chunk = self._without_bom(chunk)
        if CR in chunk or self._skip_lf:
            chunk = self._normalised(chunk)
        return self._by_lines(chunk)

    def lone(self, chunk: bytes) -> bytes | None:
        """Return the data of a chunk that is one whole event of one line. Otherwise return None and change nothing.

        Most tokens come this way: one read, one event.
        """
        if self.at_rest and chunk[:6] == b"data: " and chunk.find(b"\n") == len(chunk) - 2 and chunk[-1] == LF:
            return None if CR in chunk else chunk[6:-2]
        return None

    def _by_lines(self, chunk: bytes) -> list[Event]:
        lines = chunk.split(b"\n")  # a split at b"\n\n" costs four times as much
        events: list[Event] = []
        if len(lines) > 1 and self._line:
            lines[0] = b"".join((self._line, lines[0]))
            self._line.clear()
        self._line += lines.pop()
        data = self._data
        for line in lines:
            # Nearly every event of an LLM's stream is one such line and an empty one. It costs a few look-ups.
            if line.startswith(b"data: ") and not data:
                data.append(line[6:])
            elif line:
                self._field(line)
            else:
                if data:
                    events.append(_event(Event, (self._type, b"\n".join(data), self._id)))
                    data.clear()
                self._type, self._id, self._further_bytes = b"", None, 0
        unfinished = self._line or data or self._type or self._id is not None or self._skip_lf
        self.at_rest = self._bom is None and not unfinished
        if not events and len(self._line) + (len(data[0]) if data else 0) + self._further_bytes > self._max:
            raise EventTooLargeError(f"an event is larger than {self._max} bytes")
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._further_bytes += len(value) + LINE_BYTES if self._data else 0
            self._data.append(value)
        elif name == b"event":
            self._type = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry = int(value)

    def _without_bom(self, chunk: bytes) -> bytes:
        """Return the start of the stream without its byte order mark; empty while it may still become one."""
        start = (self._bom or b"") + chunk
        if len(start) < len(BOM) and BOM.startswith(start):
            self._bom = start
            return b""
        self._bom = None
        return start.removeprefix(BOM)

    def _normalised(self, chunk: bytes) -> bytes:
        r"""Return `chunk` with every line end as \n. A \r at the end ends its line now; a \n after it is skipped."""
        if not chunk:
            return chunk
        if self._skip_lf:
            chunk = chunk.removeprefix(b"\n")
        self._skip_lf = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
