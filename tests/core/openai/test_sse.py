r"""The SSE codec against the WHATWG standard, at every split.

`feed_all` gives every input whole, byte by byte, and with something trailing, and wants the same events each time.
"""

import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.core.openai.sse import Decoder, Event, EventTooLargeError, frame, retry


def feed(parts: list[bytes]) -> list[Event]:
    """The events of one stream that comes in these parts."""
    decoder = Decoder()
    return [event for part in parts for event in decoder.feed(part)]


def feed_short(parts: list[bytes]) -> list[Event]:
    """The same by the short way, for each part that can take it."""
    decoder = Decoder()
    events = []
    for part in parts:
        lone = decoder.lone(part)
        events += decoder.feed(part) if lone is None else [Event(b"", lone, None)]
    return events


def feed_all(data: bytes) -> list[Event]:
    """The events of `data`, after a check that they do not depend on the reads, or on an unfinished event after it."""
    events = feed([data])
    assert feed([data[i : i + 1] for i in range(len(data))]) == events
    assert feed([data, b"data: unfinis"]) == events
    return events


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def whatwg_lines(stream: bytes) -> list[bytes]:
    """The lines of a stream: "separated by either a CRLF pair, a single LF or a single CR character"."""
    lines, line, before = [], bytearray(), 0
    for byte in stream:
        if byte == 0x0A and before == 0x0D:
            pass  # the second half of a CRLF
        elif byte in (0x0A, 0x0D):
            lines.append(bytes(line))
            line.clear()
        else:
            line.append(byte)
        before = byte
    return lines  # "Once the end of the file is reached, any pending data must be discarded"


def whatwg(stream: bytes) -> list[Event]:
    """The event stream interpretation of the HTML standard, section 9.2.6, line by line as it is written there.

    Two differences, both on purpose: bytes instead of decoded text, and an id is kept for its own block only.
    """
    found = []
    data, event_type, last_id = bytearray(), b"", None
    for line in whatwg_lines(stream.removeprefix(b"\xef\xbb\xbf")):
        if line == b"":  # "If the line is empty: dispatch the event"
            if data:  # "If the data buffer is an empty string, set [both] to the empty string and return."
                found.append(Event(event_type, bytes(data[:-1]), last_id))  # "remove the last character" (an LF)
            data, event_type, last_id = bytearray(), b"", None
            continue
        if line.startswith(b":"):  # "If the line starts with a COLON: ignore the line."
            continue
        field, colon, value = line.partition(b":")  # "Collect the characters before the first COLON"
        if colon and value.startswith(b" "):  # "If value starts with a SPACE, remove it"
            value = value[1:]
        if field == b"event":
            event_type = value
        elif field == b"data":
            data += value + b"\n"
        elif field == b"id" and b"\0" not in value:
            last_id = value
    return found


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data: x\n\n", [(b"", b"x", None)]),
        (b"data:x\n\n", [(b"", b"x", None)]),
        (b"data:  x\n\n", [(b"", b" x", None)]),
        (b"data\n\n", [(b"", b"", None)]),
        (b"data:\n\n", [(b"", b"", None)]),
        (b"data: a\ndata: b\n\n", [(b"", b"a\nb", None)]),
        (b"data: a\ndata:\ndata\n\n", [(b"", b"a\n\n", None)]),
        (b"data\ndata: b\n\n", [(b"", b"\nb", None)]),
        (b"event: e\nid: 7\ndata: x\n\n", [(b"e", b"x", b"7")]),
        (b"data: x\nid: 7\nevent: e\n\n", [(b"e", b"x", b"7")]),
        (b"id\ndata: x\n\n", [(b"", b"x", b"")]),
        (b"id: a\0b\ndata: x\n\n", [(b"", b"x", None)]),
        (b"id: 1\nid: a\0b\ndata: x\n\n", [(b"", b"x", b"1")]),
        (b": comment\n\ndata: x\n\n", [(b"", b"x", None)]),
        (b"data: x\n: in the middle\ndata: y\n\n", [(b"", b"x\ny", None)]),
        (b"event: lost\n\ndata: x\n\n", [(b"", b"x", None)]),
        (b"id: 3\n\ndata: x\n\n", [(b"", b"x", None)]),
        (b"Data: x\nDATA: y\n datA: z\n data: z\n\n", []),
        (b"unknown: x\ndata: y\n\n", [(b"", b"y", None)]),
        (b"\n\n\n\ndata: x\n\n\n\n\ndata: y\n\n\n", [(b"", b"x", None), (b"", b"y", None)]),
        (b"data: x\r\n\r\ndata: y\r\rdata: z\n\n", [(b"", b"x", None), (b"", b"y", None), (b"", b"z", None)]),
        (b"data: x\r\n\ndata: y\n\r\ndata: z\r\n\r", [(b"", b"x", None), (b"", b"y", None), (b"", b"z", None)]),
        (b"data: a\rdata: b\ndata: c\r\n\r\n", [(b"", b"a\nb\nc", None)]),
        (b"\xef\xbb\xbfdata: x\n\n", [(b"", b"x", None)]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\ndata: y\n\n", [(b"", b"y", None)]),
        (b"data: \xef\xbb\xbf\n\n", [(b"", b"\xef\xbb\xbf", None)]),
        (b"\xef\xbbdata: x\n\ndata: y\n\n", [(b"", b"y", None)]),
        (b"data: x", []),
        (b"data: x\n", []),
        (b"data: x\n\ndata: y\n", [(b"", b"x", None)]),
        (b"", []),
    ],
)
def test_decodes(data: bytes, events: list[tuple[bytes, bytes, bytes | None]]) -> None:
    """Line ends, fields, comments, ids and marks mean what the standard says, however the bytes come."""
    assert feed_all(data) == events
    assert whatwg(data) == events


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\0"])
def test_other_separators_are_text(separator: str) -> None:
    r"""What `str.splitlines` takes for line ends (U+2028, U+0085, \x0b …) stays in the text."""
    text = f"one{separator}two".encode()
    assert feed_all(b"data: " + text + b"\n\n") == [(b"", text, None)]


def test_character_split_across_reads() -> None:
    """A character whose bytes come in four reads comes out once and whole."""
    assert feed_all("data: 🙂é\n\n".encode()) == [(b"", "🙂é".encode(), None)]


LINES = st.sampled_from(
    [
        b"data: x",
        b"data:",
        b"data",
        b"event: e",
        b"id: 1",
        b"id: \0",
        b"id",
        b": c",
        b"",
        b"",
        b"retry: 5",
        b"\xef\xbb\xbf",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LIKELY = st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=12).map(b"".join)


@given(st.one_of(LIKELY, st.binary(max_size=200)), st.lists(st.integers(0, 10_000), max_size=8))
@example(b"data: x\r\n\r\n", [8, 9, 10])
@example(b"\xef\xbb\xbfdata: x\n\n", [1, 2, 3])
def test_any_bytes_any_splits(data: bytes, cuts: list[int]) -> None:
    """Any bytes, cut anywhere, give what the standard's own algorithm gives, and no exception."""
    assert feed(split(data, cuts)) == whatwg(data)
    assert feed_short(split(data, cuts)) == whatwg(data)


TEXT = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=40).map(str.encode)
NAMES = st.sampled_from([b"", b"token", b"done"])


@given(st.lists(st.tuples(NAMES, TEXT, st.integers(0, 10**18 - 1))), st.lists(st.integers(0, 10_000), max_size=8))
def test_round_trip(events: list[tuple[bytes, bytes, int]], cuts: list[int]) -> None:
    """What `frame` writes comes out of the decoder as it went in, wherever the stream is cut into reads."""
    stream = b"".join(frame(seq, data, name) for name, data, seq in events)
    assert feed(split(stream, cuts)) == [(name, data, b"%d" % seq) for name, data, seq in events]


def test_lone_event() -> None:
    """A read that is one event of one line goes the short way, but only at rest and past a start that is known."""
    decoder = Decoder()
    assert decoder.lone(b"data: 1\n\n") is None
    assert decoder.feed(b"data: 0\n\n") == [(b"", b"0", None)]
    assert decoder.lone(b"data: 1\n\n") == b"1"
    others = (b"data: 1\n", b"data: 1\r\n\r\n", b"data: a\rb\n\n", b"data:1\n\n", b"data: 1\n\ndata: 2\n\n", b": hb\n")
    assert [decoder.lone(other) for other in (*others, b"")] == [None] * 7
    assert decoder.feed(b"id: 1\n") == []
    assert decoder.lone(b"data: 1\n\n") is None


def test_frame_on_the_wire() -> None:
    """A frame is `event:` (if any), `id:`, `data:` and a blank line, each value after one space."""
    assert frame(7, b"{}") == b"id: 7\ndata: {}\n\n"
    assert frame(7, b"{}", b"token") == b"event: token\nid: 7\ndata: {}\n\n"
    assert frame(7, b"a\nb") == b"id: 7\ndata: a\ndata: b\n\n"


def test_retry() -> None:
    """The last valid `retry:` is kept, even if the stream was cut right after its line. Others are ignored."""
    decoder = Decoder()
    assert decoder.retry is None
    decoder.feed(b"retry: 5s\nretry: -1\nretry: \xd9\xa3\nretry:\nretry: 1e3\n\n")
    assert decoder.retry is None
    decoder.feed(b"data: x\n\nretry: 10")
    assert decoder.retry is None
    decoder.feed(b"00\n")
    assert decoder.retry == 1000
    decoder.feed(retry(2500) + b"retry: " + b"9" * 5000 + b"\n")
    assert decoder.retry == 2500


@pytest.mark.parametrize("line", [b"x" * 10, b"data: x\n", b"data\n", b"data: \r\n"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_size_bound(line: bytes, size: int) -> None:
    """An event that only grows is given up at the bound, whether it is one line or many, read in whatever sizes."""
    decoder = Decoder(max_event_bytes=2000)
    stream = line * 10_000
    with pytest.raises(EventTooLargeError):  # noqa: PT012 — which read it is depends on the sizes
        for at in range(0, len(stream), size):
            decoder.feed(stream[at : at + size])


def test_size_bound_keeps_what_came_before() -> None:
    """Events before one that is too large are returned; the next read raises."""
    decoder = Decoder(max_event_bytes=100)
    assert decoder.feed(b"data: x\n\ndata: " + b"y" * 200) == [(b"", b"x", None)]
    with pytest.raises(EventTooLargeError):
        decoder.feed(b"y")


def test_size_bound_is_of_one_event() -> None:
    """The bound is for one event: a long stream of small events and comments never meets it."""
    decoder = Decoder(max_event_bytes=100)
    for _ in range(1000):
        assert decoder.feed(b": comment\n" * 20 + b"data: " + b"x" * 40 + b"\ndata: " + b"y" * 40) == []
        assert len(decoder.feed(b"\n\n: comment")) == 1
        assert decoder.feed(b"\n") == []


@pytest.mark.parametrize("line", [b"x" * 4_000_000, b"data: x\r\n" * 444_000, b"data\n" * 700_000])
def test_large_event_is_linear(line: bytes) -> None:
    """An event of 4 MB in reads of 1 KB is decoded in time that grows with its size, not with its square."""
    stream = b"data: " + line + b"\n\n"
    decoder = Decoder(1 << 26)
    began = time.process_time()
    events = [event for at in range(0, len(stream), 1024) for event in decoder.feed(stream[at : at + 1024])]
    spent = time.process_time() - began
    assert events == whatwg(stream)
    assert spent < 2.0  # one that looks at the whole event for each read takes 8 to 25 s
