"""How a stream looks in another dialect: ids and what they promise. Pure, no I/O."""

import re
from types import SimpleNamespace
from typing import Any

import orjson

from server.core.generation import Generation
from server.core.lifecycle import State
from server.core.openai.chunks import DONE_DATA
from server.core.projection import Projection
from server.core.records import Beginning, Ending, Record
from server.dialects.chat import Chat
from server.dialects.chat.writer import CHUNK, DONE, ERROR
from server.dialects.native import Native
from server.dialects.native.events import event

FRAME = re.compile(rb"(?:event: (\w+)\n)?id: (\d+)\ndata: (.*)\n\n")
FAILURE = {"error": {"message": "gone", "type": "api_error", "param": None, "code": "upstream_cut", "retryable": True}}


CHAT_DIALECT, NATIVE_DIALECT = Chat(), Native()


def shown(name: str, records: list[Record], after: int = 0, error: Any = None) -> list[tuple[int, str, Any]]:
    """Show a stream, created in the other dialect; return id, type and data of each event."""
    created, other = (NATIVE_DIALECT, CHAT_DIALECT) if name == "chat" else (CHAT_DIALECT, NATIVE_DIALECT)
    ending = None
    if records[-1].kind in (DONE, ERROR):
        state = State.FAILED if error else State.COMPLETE
        ending = Ending(state=state, reason="stop", at=0.0, target="local/m", tokens=2, error=error)
    beginning = Beginning("strm_1", "", created.name, "m", 12.5, b"{}")
    log = SimpleNamespace(beginning=beginning, target="local/m", tail=len(records), ending=ending)
    generation = Generation(created.name, "m", {}, stream=True, policy="cancel")
    projection = Projection(log, generation, created, other, after)
    found = []
    for record in records:
        frames = projection.frames([record])
        assert b"".join(match[0] for match in FRAME.finditer(frames)) == frames
        for kind, number, data in FRAME.findall(frames):
            found.append((int(number), kind.decode(), data if data == DONE_DATA else orjson.loads(data)))
    return found


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> Record:
    """Give a chunk."""
    return Record(CHUNK, orjson.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}))


CHUNKS = [chunk({"role": "assistant"}), chunk({"content": "a"}), chunk({}, "stop"), Record(DONE, DONE_DATA)]
NATIVE = [
    event("start", stream_id="strm_1", model="m", target="local/m"),
    event("token", content="a", token_count=1, timestamp=1),
    event("recovery", attempt=1, strategy="restart", target="x", reason="upstream_cut", exact=True),
    event("done", status="complete", reason="stop", token_count=1, usage=None, ttft_ms=1.0),
]


def test_natively() -> None:
    """Chunks become events with the ids of their records. A chunk that has no event is skipped."""
    assert [(seq, kind) for seq, kind, _ in shown("native", CHUNKS)] == [(1, "start"), (2, "token"), (4, "done")]


def test_as_chunks() -> None:
    """Events become chunks with the request's model and one identity; a recovery is skipped."""
    found = shown("chat", NATIVE)
    assert [seq for seq, _, _ in found] == [1, 2, 2, 4]
    assert {(one["id"], one["created"], one["model"]) for _, _, one in found[:-1]} == {("chatcmpl-strm_1", 12, "m")}
    assert found[2][2]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert found[3] == (4, "", DONE_DATA)


def test_several_events_of_one_record() -> None:
    """All but the last carry the id that the client has: a cut between them repeats, and loses nothing."""
    silent = chunk({"tool_calls": [{"index": 0, "function": {"name": "look"}}]})
    records = [chunk({"content": "a"}), silent, chunk({"content": "b", "reasoning": "r", "refusal": "no"}, "stop")]
    found = [(seq, kind) for seq, kind, _ in shown("native", records)]
    assert found == [(0, "start"), (1, "token"), (1, "reasoning"), (1, "token"), (3, "token")]
    assert [(seq, kind) for seq, kind, _ in shown("native", records, after=1)] == found[2:]
    # From a cursor of the other form, at a record that has no event here.
    assert [seq for seq, _, _ in shown("native", records, after=2)] == [2, 2, 3]


def test_a_failure_is_the_last_event_in_both() -> None:
    """A failed stream ends at its tail in either form. So a reader at the tail has seen everything."""
    native = shown("native", [*CHUNKS[:2], Record(ERROR, orjson.dumps(FAILURE))], error=FAILURE)
    assert [(seq, kind) for seq, kind, _ in native] == [(1, "start"), (2, "token"), (2, "error"), (3, "done")]
    failed = [
        *NATIVE[:2],
        event("error", message="gone", code="upstream_cut"),
        event("done", status="failed", reason="upstream_cut"),
    ]
    assert shown("chat", failed, error=FAILURE)[-1] == (4, "", FAILURE)


def test_after_a_cursor_the_view_knows_what_was_before() -> None:
    """The index of a client's call counts those before the cursor; the server's calls do not count."""
    facts = {"arguments": {}, "incomplete": False}
    records = [
        NATIVE[0],
        event("tool_call", id="a", name="now", server=True, **facts),
        event("tool_call", id="b", name="look", server=False, **facts),
        event("tool_result", id="a", name="now", content="late", duration_ms=1),
        event("tool_call", id="c", name="look", server=False, arguments=None, raw="{x", error="no", incomplete=True),
    ]
    ((seq, _, data),) = shown("chat", records, after=3)
    assert seq == 5
    (call,) = data["choices"][0]["delta"]["tool_calls"]
    assert (call["index"], call["id"], call["function"]) == (1, "c", {"name": "look", "arguments": "{x"})
