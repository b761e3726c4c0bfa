r"""The Server-Sent Events codec, as the WHATWG HTML standard section 9.2.6 defines the format.

The decoder works on bytes: `str.splitlines()` would also split on U+2028, U+0085 and \x0b inside a text. It is
incremental to the byte, so an event (or a character) that is split across reads comes out once and whole.
"""

from typing import NamedTuple

HEARTBEAT = b": hb\n"  # no blank line after it: it would dispatch an empty event after an `id:`
MAX_EVENT_BYTES = 4 * 1024 * 1024  # an event that is still not whole after this is garbage, not a token


class Event(NamedTuple):
    """One dispatched event: its type (empty for the default), its data, and the id that its block set (or None)."""

    type: bytes
    data: bytes
    id: bytes | None


class EventTooLargeError(ValueError):
    """An event grew past the decoder's bound without ending."""


def frame(seq: int, data: bytes, event: bytes = b"") -> bytes:
    """Return one event block, `event:` first, for record `seq`."""
    head = b"event: %b\nid: %d\n" % (event, seq) if event else b"id: %d\n" % seq
    if b"\n" in data:
        return b"%bdata: %b\n\n" % (head, data.replace(b"\n", b"\ndata: "))
    return b"%bdata: %b\n\n" % (head, data)


def retry(milliseconds: int) -> bytes:
    """Return the line that sets a client's reconnection time, to be followed by an event or the end."""
    return b"retry: %d\n" % milliseconds


class Decoder:
    """Bytes in, whole events out; an incomplete event at the end of input is never dispatched."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._rest = b""
        self._max = max_event_bytes
        self._at_start = True
        self._retry: int | None = None
        self._skip_lf = False  # the last read ended in \r: a \n that follows belongs to the same line end

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes.

        Raises:
            EventTooLargeError: an event is past the bound.

        """
        if not chunk:
            return []
        buffer = self._rest + chunk if self._rest else chunk
        if self._at_start:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                self._rest = buffer
                return []
            self._at_start = False
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in chunk or self._skip_lf:
            buffer = self._normalised(buffer)
        blocks = buffer.split(b"\n\n")
        self._rest = blocks.pop()
        if len(self._rest) > self._max:
            raise EventTooLargeError(f"an event is larger than {self._max} bytes")
        events = []
        for block in blocks:
            # Nearly every block of an LLM's stream is this one line: keep it to two look-ups.
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(Event(b"", block[6:], None))
            elif (event := self._parse(block)) is not None:
                events.append(event)
        return events

    @property
    def retry(self) -> int | None:
        """The reconnection time that the stream asked for last, in milliseconds; also if no event followed it."""
        for line in self._rest.split(b"\n")[:-1]:
            self._take_retry(line)
        return self._retry

    def _take_retry(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"retry" and (digits := value.removeprefix(b" ")).isdigit() and len(digits) < 10:
            self._retry = int(digits)

    def _parse(self, block: bytes) -> Event | None:
        """Return the event of one block of lines, or None where the block has no data (comments, `retry:`)."""
        kind, identity, data = b"", None, []
        for line in block.split(b"\n"):
            name, colon, value = line.partition(b":")
            if colon:
                value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value
            elif name == b"id" and b"\0" not in value:
                identity = value
            elif name == b"retry":
                self._take_retry(line)
        return Event(kind, b"\n".join(data), identity) if data else None

    def _normalised(self, buffer: bytes) -> bytes:
        r"""Return `buffer` with every line end as \n. A last \r ends its line now; a \n after it is skipped."""
        if self._skip_lf:
            # `_rest` was left without a trailing \r, so the \n in question is the first byte of what is new.
            at = len(self._rest)
            if buffer[at : at + 1] == b"\n":
                buffer = buffer[:at] + buffer[at + 1 :]
        self._skip_lf = buffer.endswith(b"\r")
        return buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
