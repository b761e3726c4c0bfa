"""What a log in memory keeps of records that are alike, and that it gives back exactly what it was given."""

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from server.stores.segments import Segments, common

TEXT = st.text(max_size=8)
ALIKE = st.builds(lambda text, number: b'{"id":"a","n":%d,"text":%b}' % (number, json.dumps(text).encode()), TEXT,
                  st.integers(0, 12))  # fmt: skip
RECORDS = st.lists(st.one_of(ALIKE, st.binary(max_size=40), st.sampled_from([b"", b"[DONE]"])), max_size=60)


def filled(records: list[bytes]) -> Segments:
    made = Segments()
    for record in records:
        made.add(record)
    return made


@given(RECORDS)
def test_gives_back_what_it_was_given(records: list[bytes]) -> None:
    """From every cursor, whatever the records have in common with their neighbours; and their sizes."""
    made = filled(records)
    for cursor in range(len(records) + 1):
        assert list(made.read(cursor)) == records[cursor:]
        assert made.offset(cursor) == sum(map(len, records[:cursor]))


@given(st.binary(max_size=30), st.binary(max_size=30), st.binary(max_size=30), st.binary(max_size=30))
def test_what_two_records_have_in_common(start: bytes, one: bytes, other: bytes, end: bytes) -> None:
    """They begin and end with it, it fits into either, and it is not there where it is not worth it."""
    first, second = start + one + end, start + other + end
    before, after = common(first, second)
    shorter = min(len(first), len(second))
    for record in (first, second):
        assert record.startswith(before)
        assert record.endswith(after)
        assert len(before) + len(after) <= len(record)
    shared = len(before) + len(after)
    assert shared == 0 or 2 * shared >= shorter
    if 2 * (len(start) + len(end)) >= shorter:
        assert shared >= min(shorter, len(start) + len(end))


def token(number: int, made: int = 0) -> bytes:
    delta = {"index": 0, "delta": {"content": f" w{number}"}, "finish_reason": None}
    facts = {"id": "chatcmpl-" + "x" * 24, "object": "chat.completion.chunk", "created": 1_700_000_000 + made}
    return json.dumps({**facts, "model": "small", "choices": [delta]}, separators=(",", ":")).encode()


def test_tokens_take_little_more_than_their_text() -> None:
    """A thousand frames of an upstream, 180 bytes each, take less than 20 each."""
    records = [token(number) for number in range(1000)]
    made = filled(records)
    assert min(map(len, records)) > 170
    assert made.footprint < 20 * len(records)
    assert list(made.read(0)) == records


def test_frames_that_carry_the_time_are_alike_as_well() -> None:
    """llama.cpp writes into each frame when it was made: they share less, and still more than half."""
    records = [token(number, made=number // 3) for number in range(1000)]
    made = filled(records)
    assert made.footprint < 110 * len(records)
    assert list(made.read(0)) == records


def test_records_of_two_forms_in_turn_cost_no_more_than_themselves() -> None:
    """A look at each of them, for a form that the next one does not have, would make a segment a record."""
    records = [form for number in range(1000) for form in (token(number), b"%d" % number * 20)]
    made = filled(records)
    assert made.footprint < 1.2 * sum(map(len, records))
    assert list(made.read(0)) == records


def test_a_long_log_is_kept_in_pieces() -> None:
    """No buffer grows past a mebibyte and a record, so that none is copied whole for the sake of one more."""
    random = Random(1)
    records = [random.randbytes(20_000) for _ in range(300)]
    made = filled(records)
    assert len(made._all) > 5
    assert list(made.read(290)) == records[290:]
    assert made.offset(300) == sum(map(len, records))
