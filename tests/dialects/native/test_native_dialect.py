"""The native writer, and the reading of its records: pure, no I/O."""

import json
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from server.core.errors import StreamError
from server.core.lifecycle import State
from server.core.openai.tool_calls import MAX_SIZE, ToolCall
from server.core.openai.transcript import Transcript
from server.core.records import Beginning, Ending, Record
from server.core.recovery.seam import Texts
from server.core.replay import LoggedTurn, replay, running
from server.core.upstream_api import Piece
from server.dialects.native.events import call_event, event
from server.dialects.native.reader import NativeReader
from server.dialects.native.writer import NativeWriter
from server.tools.loop import messages

BEGINNING = Beginning("strm_1", "", "native", "m", 0.0, b"{}")
CLIENT_TOOLS = frozenset({"look", "watch"})


def log_of(target: str) -> Any:
    """Give what a writer needs of a log."""
    return SimpleNamespace(beginning=BEGINNING, target=target)


def turns(records: list[Record]) -> list[LoggedTurn]:
    """Read a log back."""
    return replay(NativeReader(BEGINNING), records)


def texts(records: list[Record]) -> Texts:
    """Give the delivered texts of the turn that is under way."""
    return running(turns(records)).texts


def writer(*server_tools: str) -> NativeWriter:
    """Give a writer whose server runs these tools, or none; `look` and `watch` are the client's."""
    return NativeWriter(log_of("local/m"), CLIENT_TOOLS if server_tools else None)


def piece(finish_reason: str | None = None, **delta: Any) -> Piece:
    """Give a chunk of one choice."""
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    return Piece(orjson.dumps(chunk), chunk)


def calls(*names: str) -> dict[str, Any]:
    """Give the delta field of whole calls, each with its name as its id."""
    return {
        "tool_calls": [
            {"index": index, "id": name, "function": {"name": name, "arguments": "{}"}}
            for index, name in enumerate(names)
        ]
    }


def ended(state: State = State.COMPLETE, **facts: Any) -> Ending:
    """Give an ending."""
    return Ending(state=state, reason=facts.pop("reason", "stop"), at=0.0, target="local/m", **facts)


def kinds(records: list[Record]) -> list[str]:
    """Give the kinds of records, which are also the types in their data."""
    assert all(orjson.loads(record.data)["type"] == record.kind for record in records)
    return [record.kind for record in records]


def test_start_comes_once_and_first() -> None:
    """The first chunk brings the start, with the target of that moment; later ones do not."""
    opened = log_of("local/m")
    made = NativeWriter(opened)
    opened.target = "backup/m"
    first = made.pieces([piece(role="assistant"), piece(content="a")])
    assert kinds(first) == ["start", "token"]
    assert orjson.loads(first[0].data)["target"] == "backup/m"
    assert kinds(made.pieces([piece(content="b")])) == ["token"]


def test_one_chunk_with_everything() -> None:
    """One chunk gives its reasoning, content, calls and finish, in this order."""
    made = writer()
    records = made.pieces([piece("tool_calls", reasoning_content="r", content="c", **calls("look"))])
    assert kinds(records + made.end_turn()) == ["start", "reasoning", "token", "tool_call"]


def test_reasoning_under_two_names() -> None:
    """A text that an upstream sends under both names of reasoning is shown once."""
    records = writer().pieces([piece(reasoning_content="r", reasoning="r")])
    assert kinds(records) == ["start", "reasoning"]


def test_content_in_parts() -> None:
    """Content that is a list of parts (Mistral's) gives tokens and reasoning, and other parts as they are."""
    image = {"type": "image_url", "image_url": "data:"}
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, {"type": "reference", "reference_ids": [1]}]},
        {"type": "text", "text": "so"}, image, {"type": "text", "text": ""},
    ]  # fmt: skip
    told = [orjson.loads(record.data) for record in writer().pieces([piece(content=parts)])[1:]]
    assert [(one["type"], one["content"], one.get("field")) for one in told[:2]] == [
        ("reasoning", "hm", "thinking"),
        ("token", "so", None),
    ]
    assert told[2]["delta"]["content"] == [{"type": "reference", "reference_ids": [1]}, image, parts[3]]


OTHERS = {
    "images (OpenRouter)": {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]},
    "annotations (OpenAI, OpenRouter)": {
        "annotations": [{"type": "url_citation", "url_citation": {"url": "http://a"}}]
    },
    "audio (OpenAI)": {"audio": {"id": "a", "data": "AA", "transcript": "Hm."}},
    "signatures (OpenRouter)": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "AA"}]},
    "reasoning that is no text": {"reasoning": {"steps": ["a"]}},
    "a field of tomorrow": {"hologram": {"x": 1}},
    "several": {"citations": ["http://a"], "search_results": [{"url": "http://a"}]},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS.keys())
def test_what_has_no_event_of_its_own(fields: dict[str, Any]) -> None:
    """It comes out as it is, after the text beside it, and is read back as a chunk."""
    records = writer().pieces([piece(role="assistant", content="so", nothing=None, empty=[], **fields)])
    assert kinds(records) == ["start", "token", "delta"]
    assert orjson.loads(records[2].data) == {"type": "delta", "delta": fields}
    (entry,) = NativeReader(BEGINNING).read(records[2])
    assert isinstance(entry, Piece)
    assert entry.chunk["choices"] == [{"index": 0, "delta": fields, "finish_reason": None}]


def test_half_a_character() -> None:
    """A text that an upstream has cut inside a surrogate pair is told as it is, and read back as one character."""
    halves = "\ud83d", "\ude00"
    records = writer().pieces([piece_of(half) for half in halves])
    assert [json.loads(record.data)["content"] for record in records[1:]] == list(halves)
    assert "".join(texts(records).values()) == "\U0001f600"
    assert writer().resume(records) is None


def piece_of(text: str) -> Piece:
    """Give a chunk whose text orjson does not write."""
    chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    return Piece(json.dumps(chunk).encode(), chunk)


def deep(depth: int) -> Piece:
    """Give a chunk with a delta that is nested so deeply."""
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    return Piece(b"", {"choices": [{"index": 0, "delta": {"odd": nested}, "finish_reason": None}]})


def test_a_delta_nested_deeply() -> None:
    """A delta that is nested more deeply than orjson writes is told all the same. At some depth it fails the stream."""
    for depth in (200, 300):
        record = writer().pieces([deep(depth)])[1]
        assert orjson.loads(record.data)["delta"] == deep(depth).chunk["choices"][0]["delta"]
    with pytest.raises(StreamError, match="nested too deeply"):
        writer().pieces([deep(5000)])
    thinking: Any = "hm"
    for _ in range(200):
        thinking = {"thinking": thinking}
    (_, record) = writer().pieces([piece(content=[thinking])])
    assert orjson.loads(record.data)["delta"] == {"content": [thinking["thinking"]]}


def test_the_event_of_a_call() -> None:
    """A whole call has its arguments; one without has their text as well, and why."""
    whole = ToolCall("a", "add", '{"x": 1}', {"x": 1})
    assert orjson.loads(call_event(whole, server=True).data) == {
        "type": "tool_call", "id": "a", "name": "add", "arguments": {"x": 1}, "incomplete": False, "server": True,
    }  # fmt: skip
    cut = ToolCall("a", "now", "", error="The arguments broke off.", incomplete=True)
    assert orjson.loads(call_event(cut, server=False).data) == {
        "type": "tool_call", "id": "a", "name": "now", "arguments": None, "incomplete": True, "server": False,
        "raw": "", "error": "The arguments broke off.",
    }  # fmt: skip


def test_whose_call() -> None:
    """A call tells whether the server runs it; `finished_calls` is what a finished turn called."""
    made = writer("now")
    made.pieces([piece(**calls("now", "look")), piece("tool_calls")])
    assert [orjson.loads(record.data)["server"] for record in made.end_turn()] == [True, False]
    assert [call.name for call in made.finished_calls] == ["now", "look"]
    made.pieces([piece(content="so"), piece("stop")])
    assert made.end_turn() == []
    assert list(made.finished_calls) == []


def test_a_new_attempt_forgets_what_was_not_shown() -> None:
    """Calls of an attempt that broke off do not mix with those of the next."""
    made = writer()
    made.pieces([piece(**calls("look"))])
    made.begin_attempt()
    made.pieces([piece(**calls("watch")), piece("tool_calls")])
    assert [orjson.loads(record.data)["name"] for record in made.end_turn()] == ["watch"]


def test_endings() -> None:
    """A broken-off call, the error and `done` come last. There is always one `done`, with the numbers of the ending."""
    made = writer()
    made.pieces([piece(tool_calls=[{"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"a'}}])])
    error = {"error": {"message": "gone", "code": "upstream_cut", "type": "api_error", "retryable": True}}
    facts = {"error": error, "tokens": 3, "usage": {"measured": False}, "ttft_ms": 1.5}
    records = made.ending(ended(State.FAILED, reason="upstream_cut", **facts), Transcript())
    assert kinds(records) == ["tool_call", "error", "done"]
    assert orjson.loads(records[1].data) == {
        "type": "error", "message": "gone", "code": "upstream_cut", "retryable": True, "resumable": False,
    }  # fmt: skip
    assert orjson.loads(records[2].data) == {
        "type": "done", "status": "failed", "reason": "upstream_cut", "token_count": 3,
        "usage": {"measured": False}, "ttft_ms": 1.5,
    }  # fmt: skip


def test_arguments_without_an_end() -> None:
    """Arguments that never end fail the stream: while they are not whole, no limit of the log counts them."""
    made = writer()
    huge = {"index": 0, "function": {"arguments": "x" * (MAX_SIZE + 1)}}
    with pytest.raises(StreamError) as caught:
        made.pieces([piece(tool_calls=[huge])])
    assert caught.value.code == "stream_too_large"


def test_taking_up() -> None:
    """A writer that takes over a log sends no second start, counts on, and makes no id that is in the log already."""
    made = writer()
    before = made.pieces([piece(content="a"), piece(content="b"), piece(reasoning="c")])
    again = writer()
    again.resume(before)
    (record,) = again.pieces([piece(content="d")])
    assert (record.kind, orjson.loads(record.data)["token_count"]) == ("token", 3)


def log() -> list[Record]:
    """Give the log of two answered turns and one under way."""
    made = writer("now", "add")
    records = made.pieces([piece(content="Hm. "), piece(reasoning="why"), piece("tool_calls", **calls("now", "add"))])
    records += [
        *made.end_turn(),
        event("tool_result", id="add", name="add", error="no", duration_ms=1),
        event("tool_result", id="now", name="now", content="late", duration_ms=1),
    ]
    records += [*made.pieces([piece("tool_calls", **calls("now"))]), *made.end_turn()]  # a turn without a word
    records.append(event("tool_result", id="now", name="now", content="later", duration_ms=1))
    return records + made.pieces([piece(reasoning="aha"), piece(content="It is "), piece(content="late.")])


def text(turn: LoggedTurn) -> str:
    """Give the content of a turn."""
    return turn.texts.get((0, "content"), "")


def test_turns() -> None:
    """A log is read back into turns: text without reasoning, calls, and their results by id, even if ids repeat."""
    first, second, last = turns(log())
    assert (text(first), first.transcript.tokens, first.results) == ("Hm. ", 1, {"add": "Error: no", "now": "late"})
    assert (text(second), second.results) == ("", {"now": "later"})
    assert (text(last), last.transcript.tokens, last.calls) == ("It is late.", 2, [])
    assert [turn.answered for turn in (first, second, last)] == [True, True, False]


def test_unanswered_calls() -> None:
    """Whole calls of the server without a result are unanswered. A call of the client keeps its turn unanswered."""
    made = writer("now", "add")
    records = [*made.pieces([piece("tool_calls", **calls("now", "look", "add"))]), *made.end_turn()]
    records.append(event("tool_result", id="add", name="add", content="2", duration_ms=1))
    (turn,) = turns(records)
    assert [call.id for call in turn.unanswered_calls] == ["now"]
    assert not turn.answered


def test_messages() -> None:
    """The next request holds each turn with its calls, then each result in the order of the calls."""
    told = messages([turn for turn in turns(log()) if turn.answered])
    assert [message["role"] for message in told] == ["assistant", "tool", "tool", "assistant", "tool"]
    assert (told[0]["content"], told[3]["content"]) == ("Hm. ", None)
    assert [call["id"] for call in told[0]["tool_calls"]] == ["now", "add"]
    assert told[0]["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
    assert [message.get("content") for message in told[1:3]] == ["late", "Error: no"]


def test_delivered_texts_are_those_of_the_running_turn() -> None:
    """A recovery joins only the text after the last results: the request holds all that came before."""
    assert texts(log()) == {(0, "reasoning"): "aha", (0, "content"): "It is late."}
