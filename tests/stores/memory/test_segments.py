"""What a log in memory keeps of records that are alike, and that it gives back exactly what it was given."""

import json
from random import Random

import internals
from hypothesis import given
from hypothesis import strategies as st

from server.stores.memory.segments import BLOCK, PLAIN, Segments, common, cut

TEXT = st.text(max_size=8)
ALIKE = st.builds(lambda text, number: b'{"id":"a","n":%d,"text":%b}' % (number, json.dumps(text).encode()), TEXT,
                  st.integers(0, 12))  # fmt: skip
RECORDS = st.lists(st.one_of(ALIKE, st.binary(max_size=40), st.sampled_from([b"", b"[DONE]"])), max_size=5 * BLOCK)


def filled(records: list[bytes]) -> Segments:
    """Give a log with as many of them as are whole blocks."""
    made = Segments()
    del records[len(records) // BLOCK * BLOCK :]
    for at in range(0, len(records), BLOCK):
        made.add(records[at : at + BLOCK])
    return made


@given(RECORDS)
def test_gives_back_what_it_was_given(records: list[bytes]) -> None:
    """From every cursor, whatever the records have in common with their neighbours; and their sizes."""
    made = filled(records)
    for cursor in range(len(records) + 1):
        assert list(made.read(cursor)) == records[cursor:]
        assert made.offset(cursor) == sum(map(len, records[:cursor]))


@given(st.binary(max_size=30), st.lists(st.binary(max_size=30), min_size=1, max_size=9), st.binary(max_size=30))
def test_what_records_have_in_common(start: bytes, texts: list[bytes], end: bytes) -> None:
    """All begin and end with it, it fits into each, and is half of the shortest, or there is none."""
    records = [start + text + end for text in texts]
    before, after = common(records, PLAIN)
    shortest = min(map(len, records))
    for record in records:
        assert record.startswith(before)
        assert record.endswith(after)
        assert len(before) + len(after) <= len(record)
    if (before, after) != PLAIN:
        assert 2 * len(before + after) >= shortest
        assert cut(records, (before, after)) == [record[len(before) : len(record) - len(after)] for record in records]


def test_a_shape_becomes_the_true_one() -> None:
    """What the texts of one block have in common by chance is in the shape once, and never again."""
    blocks = [[b"<data>%b%d</data>" % (text, n) for n in range(10, 26)] for text in (b"aaaa", b"ab", b"b", b"aaaa")]
    made = filled([record for block in blocks for record in block])
    assert [segment.shape[0] for segment in internals.segments(made)] == [b"", b"<data>aaaa", b"<data>a", b"<data>"]


def token(number: int, made: int = 0) -> bytes:
    delta = {"index": 0, "delta": {"content": f" w{number}"}, "finish_reason": None}
    facts = {"id": "chatcmpl-" + "x" * 24, "object": "chat.completion.chunk", "created": 1_700_000_000 + made}
    return json.dumps({**facts, "model": "small", "choices": [delta]}, separators=(",", ":")).encode()


def test_tokens_take_little_more_than_their_text() -> None:
    """A thousand frames of an upstream, 180 bytes each, take less than 20 each."""
    records = [token(number) for number in range(1000)]
    made = filled(records)
    assert min(map(len, records)) > 170
    assert made.footprint < 16 * len(records)
    assert list(made.read(0)) == records


def test_frames_that_carry_the_time_are_alike_as_well() -> None:
    """llama.cpp writes into each frame when it was made: they share less, and still more than half."""
    records = [token(number, made=number // 3) for number in range(1000)]
    made = filled(records)
    assert made.footprint < 110 * len(records)
    assert list(made.read(0)) == records


def test_records_of_two_forms_in_turn_cost_no_more_than_themselves() -> None:
    """What has no common shape is kept as it is."""
    records = [form for number in range(1000) for form in (token(number), b"%d" % number * 20)]
    made = filled(records)
    assert made.footprint < 1.2 * sum(map(len, records))
    assert list(made.read(0)) == records


def test_a_record_that_is_not_of_the_shape() -> None:
    """Wherever it is, and whatever the others are, nothing is cut."""
    assert cut([b"<a>", b"<b>", b"<>"], (b"<", b">")) == [b"a", b"b", b""]
    for other in (b"", b"<", b"<a", b"a>", b"aa>", b"<a>."):
        for records in ([other, b"<b>", b"<c>"], [b"<a>", other, b"<c>"], [b"<a>", b"<b>", other]):
            assert not cut(records, (b"<", b">"))


def test_a_long_log_is_kept_in_pieces() -> None:
    """No buffer grows past a mebibyte and a block, so that none is copied whole for the sake of one more."""
    random = Random(1)
    records = [random.randbytes(20_000) for _ in range(300)]
    made = filled(records)
    assert len(internals.segments(made)) == 5
    assert list(made.read(280)) == records[280:]
    assert made.offset(len(records)) == sum(map(len, records))
