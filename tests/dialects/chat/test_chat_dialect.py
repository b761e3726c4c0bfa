"""Chat completions in a log and on the wire, beside the native protocol."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.lifecycle import State
from server.core.openai.sse import Decoder
from server.core.openai.transcript import Transcript
from server.core.records import WHOLE, Ending, Record
from server.core.upstream_api import Piece
from server.dialects.chat import Chat
from server.dialects.chat.writer import CHUNK, DONE, ERROR, ChatWriter
from server.dialects.native import Native

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
FIRST = {"id": "c", "created": 1, "model": "m"}


def ending(**fields: Any) -> Ending:
    return Ending(State.COMPLETE, "stop", 0.0, "t", **fields)


def spoken(*, usage_chunk: bool = False) -> Transcript:
    transcript = Transcript()
    transcript.observe({**FIRST, "choices": [{"delta": {"content": "x"}}]})
    if usage_chunk:
        transcript.observe({"choices": [], "usage": USAGE})
    return transcript


def test_pieces() -> None:
    """Each chunk is one record, byte for byte; this dialect has no record for a recovery."""
    writer = ChatWriter(show_usage=True)
    assert writer.pieces([Piece(b"{ }", {}), Piece(b"[]", {})]) == [Record(CHUNK, b"{ }"), Record(CHUNK, b"[]")]
    assert writer.recovery({"attempt": 1}) == []


@pytest.mark.parametrize(("asked", "came"), [(True, True), (True, False), (False, False)])
def test_usage_is_sent_once(asked: bool, came: bool) -> None:
    """A client that asked for usage gets it exactly once: the upstream's own chunk, or ours before `[DONE]`."""
    usage = {**USAGE, "measured": True}
    records = ChatWriter(show_usage=asked).ending(ending(usage=usage), spoken(usage_chunk=came))
    assert records[-1] == Record(DONE, b"[DONE]")
    sent = [orjson.loads(data) for kind, data in records if kind == CHUNK]
    owed = {**FIRST, "object": "chat.completion.chunk", "choices": [], "usage": usage}
    assert sent == ([owed] if asked and not came else [])


def test_error_ends_it() -> None:
    """After an error there is neither usage nor `[DONE]`."""
    error = {"error": {"message": "x", "code": "y"}}
    records = ChatWriter(show_usage=True).ending(ending(error=error, usage=USAGE), spoken())
    assert [(kind, orjson.loads(data)) for kind, data in records] == [(ERROR, error)]


def test_whole_answer() -> None:
    """A non-streaming answer is the one record of its stream, byte for byte."""
    writer = ChatWriter(show_usage=False)
    writer.whole_answer(Piece(b'{ "choices": [] }', {"choices": []}))
    assert writer.ending(ending(usage=USAGE), Transcript()) == [Record(WHOLE, b'{ "choices": [] }')]


def test_what_another_api_says() -> None:
    """A chat client gets what an upstream that speaks another API means, and nothing if that has no words here."""
    says = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    pieces = [Piece(b"said", says, "other"), Piece(b"ping", {"choices": []}, "other")]
    assert ChatWriter(show_usage=True).pieces(pieces) == [Record(CHUNK, orjson.dumps(says))]
    writer = ChatWriter(show_usage=True)
    writer.whole_answer(Piece(b"said", says, "other"))
    assert writer.ending(ending(), Transcript()) == [Record(WHOLE, orjson.dumps(says))]


DATA = st.binary(max_size=30).map(lambda data: data.replace(b"\r", b""))
RECORDS = st.lists(st.builds(Record, st.sampled_from(["chunk", "token", "done"]), DATA), min_size=1, max_size=6)


@given(RECORDS, st.integers(1, 10**17))
def test_frames(records: list[Record], first: int) -> None:
    """Records go out numbered and whole, with the event's name in the native protocol only, alone or many at once."""
    for dialect in (Chat(), Native()):
        events = Decoder().feed(dialect.frames(first, records))
        assert [int(event.id or 0) for event in events] == [*range(first, first + len(records))]
        assert [event.data for event in events] == [record.data for record in records]
        names = [record.kind.encode() if dialect.name == "native" else b"" for record in records]
        assert [event.type for event in events] == names
