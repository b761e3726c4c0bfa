"""For any stream and any cuts, a resuming client passes each event on once. Gateway and client, without I/O."""

import json
from types import SimpleNamespace
from typing import Any

import httpx2
import orjson
from hypothesis import given
from hypothesis import strategies as st

from server.core.generation import Generation
from server.core.lifecycle import State
from server.core.openai.chunks import DONE_DATA
from server.core.openai.sse import Decoder
from server.core.projection import Projection
from server.core.records import Beginning, Ending, Record
from server.dialects.chat import Chat
from server.dialects.chat.writer import CHUNK, DONE, ERROR
from server.dialects.native import Native
from sluiceway import Patience
from sluiceway.resumption import Resumption

ERROR_BODY = {"error": {"message": "gone", "type": "api_error", "param": None, "code": "upstream_cut"}}
CALL = {"index": 0, "id": "c", "function": {"name": "look", "arguments": "{}"}}
DELTAS: list[dict[str, Any]] = [{"content": "a"}, {"reasoning": "a"}, {"tool_calls": [CALL]}]
deltas = st.lists(st.sampled_from(DELTAS), max_size=3).map(
    lambda parts: {k: v for one in parts for k, v in one.items()}
)


def records(made: list[dict[str, Any]], failed: bool) -> list[Record]:
    """Give the records of a stream that was created as a chat completion."""
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in made]
    if not failed:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    last = Record(ERROR, orjson.dumps(ERROR_BODY)) if failed else Record(DONE, DONE_DATA)
    return [*(Record(CHUNK, orjson.dumps(chunk)) for chunk in chunks), last]


def frames(records: list[Record], after: int, failed: bool) -> bytes:
    """Give what the gateway sends after a cursor, natively."""
    state = State.FAILED if failed else State.COMPLETE
    ending = Ending(state, "stop", 0.0, "local/m", 1, error=ERROR_BODY if failed else None)
    beginning = Beginning("strm_1", "", "chat", "m", 0.0, b"{}")
    log = SimpleNamespace(beginning=beginning, target="local/m", tail=len(records), ending=ending)
    generation = Generation("chat", "m", {}, stream=True, policy="cancel")
    return Projection(log, generation, Chat(), Native(), after).frames(records)


def told(data: bytes) -> list[dict[str, Any]]:
    """Give the events, without the time at which they were shown."""
    return [{**json.loads(event.data), "timestamp": None} for event in Decoder().feed(data)]


@given(st.lists(deltas, max_size=6), st.booleans(), st.lists(st.integers(0, 900), max_size=8))
def test_in_the_other_form(made: list[dict[str, Any]], failed: bool, cuts: list[int]) -> None:
    """Cut after any number of bytes, again and again: the events of a single read, each once and in order."""
    log = records(made, failed)
    request = httpx2.Request("GET", "http://gate.example/v1/streams/strm_1?format=native")
    head = httpx2.Response(200, headers={"content-type": "text/event-stream", "x-stream-id": "strm_1"})
    resumption, passed = Resumption(request, Patience()), b""
    for cut in [*cuts, None]:
        resumption.answer(head)
        after = int(resumption.resume_request().headers.get("Last-Event-ID", 0))
        passed += resumption.feed(frames(log, after, failed)[:cut])
    assert told(passed) == told(frames(log, 0, failed))
    assert resumption.ended
