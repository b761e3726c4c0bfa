"""What a client holds, read back from a log of any dialect."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from server.core.openai.chunks import DONE_DATA
from server.core.records import Beginning, Record
from server.core.recovery.seam import Suppression, Texts
from server.core.replay import replay, running
from server.dialects.chat import Chat
from server.dialects.chat.writer import CHUNK, DONE, ERROR
from server.dialects.native import Native

DIALECTS = {"chat": Chat(), "native": Native()}
CALL = {"name": "add", "arguments": {}, "incomplete": False, "server": True}


def texts(dialect: str, records: list[Record]) -> Texts:
    """Give the delivered texts of the turn that is under way."""
    beginning = Beginning("s", "", dialect, "m", 0.0, b"{}")
    return running(replay(DIALECTS[dialect].reader(beginning), records)).texts


def chunk(*choices: dict[str, Any], **fields: Any) -> Record:
    return Record(CHUNK, orjson.dumps({"choices": list(choices), **fields}))


def event(kind: str, **fields: Any) -> Record:
    return Record(kind, orjson.dumps({"type": kind, **fields}))


def test_openai() -> None:
    """Texts are joined by choice and kind. Roles, nulls, usage, calls and the ending add nothing."""
    records = [
        chunk({"index": 0, "delta": {"role": "assistant", "content": ""}}),
        chunk({"index": 0, "delta": {"reasoning_content": "hm"}}),
        chunk({"index": 1, "delta": {"reasoning": "so", "reasoning_content": "so"}}),
        chunk({"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "x", "reasoning": None}}),
        chunk({"delta": {"content": "b"}}, {"index": None, "delta": None}, {"index": 1, "delta": {"refusal": "no"}}),
        chunk({"index": 0, "delta": {"tool_calls": [{"index": 0}]}, "finish_reason": "stop"}),
        chunk(usage={"prompt_tokens": 1}),
        Record(CHUNK, b'{"choices": null}'),
        Record(DONE, DONE_DATA),
        Record(ERROR, b'{"error": {}}'),
    ]
    assert texts("chat", records) == {
        (0, "reasoning"): "hm",
        (1, "reasoning"): "so",
        (0, "content"): "ab",
        (1, "content"): "x",
        (1, "refusal"): "no",
    }


def test_native() -> None:
    """Tokens, reasoning and refusals are joined, without those of the turns before the last tool results."""
    said = [
        event("start", stream_id="s"),
        event("reasoning", content="hm", field="reasoning_content"),
        event("token", content="a", token_count=1),
        event("recovery", attempt=1),
        event("token", content="b", token_count=2),
        event("token", content="no", token_count=2, field="refusal"),
    ]
    assert texts("native", said) == {(0, "reasoning"): "hm", (0, "content"): "ab", (0, "refusal"): "no"}
    called = [*said, event("tool_call", id="1", **CALL), event("tool_result", id="1", content="4")]
    assert texts("native", called) == {}
    assert texts("native", [*called, event("token", content="c")]) == {(0, "content"): "c"}


@given(st.lists(st.text(max_size=5)))
def test_all_of_a_text(pieces: list[str]) -> None:
    """No piece of a text is lost, in either form."""
    whole = "".join(pieces)
    wanted = {(0, "content"): whole} if whole else {}
    assert texts("chat", [chunk({"index": 0, "delta": {"content": piece}}) for piece in pieces]) == wanted
    assert texts("native", [event("token", content=piece) for piece in pieces if piece]) == wanted


def test_no_text() -> None:
    """Content that is a list of parts counts as delivered, and no restart can be joined to it."""
    parts = [{"type": "thinking", "thinking": "hm"}]
    for dialect, record in (
        ("chat", chunk({"index": 0, "delta": {"content": parts}})),
        ("native", event("token", content=parts)),
    ):
        found = texts(dialect, [record])
        assert list(found) == [(0, "parts")]
        seam = Suppression(found)
        assert seam.join({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}) == []
