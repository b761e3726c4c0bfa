"""The Responses writer, and the reading of its records: pure, no I/O."""

import json
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import strict_responses
from hypothesis import given
from hypothesis import strategies as st

from server.core.body import Body
from server.core.generation import Generation
from server.core.lifecycle import State
from server.core.openai.transcript import Transcript
from server.core.records import Beginning, Ending, Record, Tokens
from server.core.replay import replay
from server.core.upstream_api import Piece
from server.core.wide_json import dumps, loads, paired
from server.dialects.responses.events import DONE, frames
from server.dialects.responses.output import Output
from server.dialects.responses.reader import ResponsesReader
from server.dialects.responses.request import chat_body
from server.dialects.responses.writer import ResponsesWriter

PATCH = {"type": "custom", "name": "patch"}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
FILES = {"type": "namespace", "name": "files", "description": "Files.", "tools": [LOOK, PATCH]}
SOURCE: dict[str, Any] = {"model": "m", "input": "Hi.", "tools": [LOOK, PATCH, FILES], "metadata": {"a": "b"}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "measured": True}


def beginning_of(source: dict[str, Any]) -> Beginning:
    """Give the beginning of a stream."""
    return Beginning("strm_x-y_z", "", "responses", "m", 12.5, orjson.dumps(source))


def writer(source: dict[str, Any] = SOURCE, tail: int = 0) -> ResponsesWriter:
    """Give a writer of a log that has so many records."""
    log: Any = SimpleNamespace(beginning=beginning_of(source), target="local/m", tail=tail)
    body = chat_body(source).body
    return ResponsesWriter(log, Generation("responses", "m", body, stream=True, policy="cancel", source=Body(source)))


def piece(delta: dict[str, Any], finish_reason: str | None = None, **fields: Any) -> Piece:
    """Give a chunk of one choice."""
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, **fields}]}
    return Piece(dumps(chunk), chunk)


def ended(state: State = State.COMPLETE, reason: str = "stop", error: Any = None) -> Ending:
    """Give an ending."""
    return Ending(state=state, reason=reason, at=20.0, target="local/m", usage=USAGE, error=error)


FAILURE = {"error": {"message": "gone", "type": "api_error", "param": None, "code": "upstream_cut", "retryable": True}}
ENDINGS = [
    ended(),
    ended(State.INCOMPLETE, "length"),
    ended(State.INCOMPLETE, "content_filter"),
    ended(State.FAILED, "upstream_cut", FAILURE),
    ended(State.CANCELLED, "cancelled", FAILURE),
]


def written(pieces: list[Piece], ending: Ending = ENDINGS[0], source: dict[str, Any] = SOURCE) -> list[Record]:
    """Give the records of a whole stream, one read per piece."""
    one = writer(source)
    records = [record for each in pieces for record in one.pieces([each])]
    return [*records, *one.ending(ending, Transcript())]


def events(records: list[Record]) -> list[dict[str, Any]]:
    """Give the events of a whole stream, checked."""
    assert records[-1].kind == DONE
    datas = [loads(record.data) for record in records[:-1]]
    assert [record.kind for record in records[:-1]] == [data["type"] for data in datas]
    return strict_responses.sequence(datas)


def final(records: list[Record]) -> dict[str, Any]:
    """Give the final resource."""
    resource: dict[str, Any] = events(records)[-1]["response"]
    return resource


def call(index: int, text: str, **fields: Any) -> dict[str, Any]:
    """Give the delta of a piece of a call."""
    function = {"arguments": text, **({"name": fields.pop("name")} if "name" in fields else {})}
    return {"tool_calls": [{"index": index, "function": function, **fields}]}


def test_a_text() -> None:
    """A text answer has OpenAI's events in OpenAI's order; the whole resource is in the first two and the last."""
    found = events(written([piece({"content": "Hel"}), piece({"content": "lo"}), piece({}, "stop")]))
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["response"]["status"] for event in found if "response" in event] == [
        "in_progress", "in_progress", "completed",
    ]  # fmt: skip
    response = found[-1]["response"]
    assert response["id"] == "resp_x-y_z"
    assert (response["created_at"], response["completed_at"]) == (12, 20)
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }


def test_reasoning_refusals_and_texts_take_turns() -> None:
    """Reasoning is an item of its own, a refusal another part of the message; each ends before the next begins."""
    deltas = [
        {"reasoning_content": "a"}, {"reasoning": "b"}, {"content": "c"}, {"refusal": "d"}, {"content": "e"},
        {"thinking": "f"}, {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "g"}]}]},
        {"content": [{"type": "text", "text": "h"}]},
    ]  # fmt: skip
    output = final(written([piece(delta) for delta in deltas]))["output"]
    assert [(item["type"], [part.get("text", part.get("refusal")) for part in item["content"]]) for item in output] == [
        ("reasoning", ["ab"]), ("message", ["c", "d", "e"]), ("reasoning", ["fg"]), ("message", ["h"]),
    ]  # fmt: skip
    assert all(item["status"] == "completed" for item in output)


def test_calls() -> None:
    """Interleaved calls are open side by side. Custom tools and namespaces are as their client has them."""
    pieces = [
        piece({"content": "I look."}),
        piece(call(0, "", id="c0", name="look")),
        piece(call(1, '{"inp', id="c1", name="patch")),
        piece(call(0, '{"a": ')),
        piece(call(1, 'ut": "one\\n\\u00')),
        piece(call(0, "1}")),
        piece(call(1, 'e9 \\"two\\""}')),
        piece(call(2, "{}", id="c2", name="files__look")),
        piece(call(3, '{"input": ""}', id="c3", name="files__patch")),
        piece({}, "tool_calls"),
    ]
    output = final(written(pieces))["output"]
    assert [{key: item.get(key) for key in ("type", "call_id", "name", "namespace")} for item in output[1:]] == [
        {"type": "function_call", "call_id": "c0", "name": "look", "namespace": None},
        {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "namespace": None},
        {"type": "function_call", "call_id": "c2", "name": "look", "namespace": "files"},
        {"type": "custom_tool_call", "call_id": "c3", "name": "patch", "namespace": "files"},
    ]
    assert [item.get("arguments", item.get("input")) for item in output[1:]] == ['{"a": 1}', 'one\né "two"', "{}", ""]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([""], "{}"),
        (["{}"], "{}"),
        (["{}", '{"a":1}'], '{"a":1}'),  # Anthropic's first block has an empty object
        (["null"], "{}"),
        (["no JSON"], "no JSON"),
        (['{"a":', "1}"], '{"a":1}'),
        (['{"a":'], '{"a":'),
    ],
)
def test_arguments(arguments: list[str], shown: str) -> None:
    """What is shown of a call's arguments, in the deltas as in the end, is what its client can parse."""
    pieces = [piece(call(0, "", id="c", name="look")), *(piece(call(0, text)) for text in arguments)]
    (item,) = final(written(pieces))["output"]
    assert item["arguments"] == shown


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"input": "a"}', "a"),
        ('{ "input" : "a\\u00e9\\ud83d\\ude00"}', "aé😀"),
        ('{"input": "a\\qb"}', "a\\qb"),
        ('{"input": "a\nb"}', "a\nb"),
        ('{"input": "broken off', "broken off"),
        ('{"input": "broken off\\u00', "broken off"),
        ('{"other": "x", "input": "a"}', "a"),
        ('{"input": 3}', '{"input": 3}'),
        ("no JSON", "no JSON"),
        ('"a text"', "a text"),
        ("", ""),
        ("{}", ""),
    ],
)
def test_the_input_of_a_custom_tool(arguments: str, shown: str) -> None:
    """The input of a custom tool is what its function's arguments hold, whatever the size of their pieces."""
    for size in (1, 2, 3, 5, 100):
        texts = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        pieces = [piece(call(0, "", id="c", name="patch")), *(piece(call(0, text)) for text in texts)]
        (item,) = final(written(pieces))["output"]
        assert paired(item["input"]) == shown


def test_equal_call_ids_are_told_apart() -> None:
    """An upstream that gives two calls one id, or none, has calls with ids of their own."""
    pieces = [
        piece({"tool_calls": [{"index": index, "id": id_, "function": {"name": "look", "arguments": '{"a":1}'}}]})
        for index, id_ in enumerate(["c", "", "c"])
    ]
    output = final(written(pieces))["output"]
    assert len({item["call_id"] for item in output}) == len({item["id"] for item in output}) == len(output)


def test_annotations() -> None:
    """A citation is an event, and in the finished part."""
    inner = {"start_index": 0, "end_index": 2, "title": "T", "url": "https://x.test"}
    annotations = [{"type": "url_citation", "url_citation": inner}, {"type": "unknown"}, 3]
    records = written([piece({"content": "Hi", "annotations": annotations}), piece({"content": "."})])
    told = [event["annotation"] for event in events(records) if event["type"].endswith("annotation.added")]
    assert told == final(records)["output"][0]["content"][0]["annotations"] == [{"type": "url_citation", **inner}]


def test_images() -> None:
    """An image is an item, between the texts before and after it."""
    url = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/AA=="}}
    away = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    deltas = [{"content": "See:"}, {"images": [url, away, 3, {"image_url": None}]}, {"content": "Good?"}]
    records = written([piece(delta) for delta in deltas], ENDINGS[0])
    events(records)
    first, image, last = final(records)["output"]
    assert (image["type"], image["status"], image["result"]) == ("image_generation_call", "completed", "/9j/AA==")
    assert [item["content"][0]["text"] for item in (first, last)] == ["See:", "Good?"]
    reader = ResponsesReader(beginning_of(SOURCE))
    told = [piece.chunk["choices"][0]["delta"].get("images") for one in records for piece in reader.read(one)]  # type: ignore[union-attr]
    assert [images for images in told if images] == [[url]]


def test_logprobs() -> None:
    """Probabilities come with the deltas, and with their bytes in the finished part."""
    source = {**SOURCE, "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    told = {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [{"token": "e", "logprob": -1}]}
    records = written([piece({"content": "é"}, logprobs={"content": [told]})], source=source)
    [delta] = [event for event in events(records) if event["type"] == "response.output_text.delta"]
    tops = [{"token": "e", "logprob": -1}]
    assert delta["logprobs"] == [{"token": "é", "logprob": -0.5, "top_logprobs": tops}]
    part = final(records)["output"][0]["content"][0]
    assert part["logprobs"][0]["bytes"] == [195, 169]
    assert part["logprobs"][0]["top_logprobs"] == [{**tops[0], "bytes": [101]}]


@pytest.mark.parametrize(
    ("ending", "last", "status"),
    [
        (ENDINGS[0], ["completed"], "completed"),
        (ENDINGS[1], ["incomplete"], "incomplete"),
        (ENDINGS[3], ["error", "failed"], "failed"),
        (ENDINGS[4], ["failed"], "cancelled"),
    ],
)
def test_endings(ending: Ending, last: list[str], status: str) -> None:
    """Each ending has its event and its status. A failure is told by an `error` first."""
    found = events(written([piece({"content": "Hi"})], ending))
    assert [event["type"].removeprefix("response.") for event in found][-len(last) :] == last
    response = found[-1]["response"]
    assert response["status"] == status
    assert response["output"][0]["content"][0]["text"] == "Hi"
    assert response["output"][0]["status"] == ("completed" if status == "completed" else "incomplete")
    if status == "failed":
        assert response["error"] == {"code": "server_error", "message": "gone"}
        nested = {"type": "api_error", "code": "upstream_cut", "message": "gone", "param": None}
        assert found[-2]["error"] == nested
        assert found[-2].items() >= {name: nested[name] for name in ("code", "message", "param")}.items()
    else:
        assert response["error"] is None


@pytest.mark.parametrize("ending", ENDINGS[3:])
def test_a_failure_before_the_first_token(ending: Ending) -> None:
    """A failure without a token has four records, whatever failed: so it is known to have opened nothing."""
    records = written([], ending)
    events(records)
    assert len(records) == 4


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("length", "max_output_tokens"), ("MAX_TOKENS", "max_output_tokens"), ("model_length", "max_output_tokens"),
     ("content_filter", "content_filter"), ("SAFETY", "content_filter"), ("FINISH_REASON_SPII", "content_filter")],
)  # fmt: skip
def test_why_incomplete(reason: str, shown: str) -> None:
    """A finish reason means a limit or a filter."""
    response = final(written([piece({"content": "Hi"})], ended(State.INCOMPLETE, reason)))
    assert response["incomplete_details"] == {"reason": shown}


def test_a_silence_is_filled_with_the_whole_state() -> None:
    """A record in a silence has the output as it is then, because clients take it for the state of the response."""
    one = writer()
    records = one.idle()
    assert [record.kind for record in records] == ["response.created", "response.in_progress"]
    records += one.pieces([piece({"reasoning": "a"}), piece({"content": "Hel"})])
    records += one.idle()
    idle = orjson.loads(records[-1].data)
    assert (idle["type"], idle["sequence_number"]) == ("response.in_progress", len(records) - 1)
    assert [item["content"][0]["text"] for item in idle["response"]["output"]] == ["a", "Hel"]
    records += one.pieces([piece({"content": "lo"})])
    records += one.ending(ENDINGS[0], Transcript())
    assert final(records)["output"][1]["content"][0]["text"] == "Hello"


# --- properties ------------------------------------------------------------------------------------------------------

TEXTS = st.text(min_size=1, max_size=4) | st.sampled_from(["\ud83d", "\ude00", '"', "\\", "\n", "é", "😀"])
NAMES = st.sampled_from(["look", "patch", "files__look", "files__patch", "unknown"])
CALLS = st.builds(
    lambda index, name, text, whole: {
        "tool_calls": [
            {"index": index, "id": f"c{index}", "function": {"name": name, "arguments": text if whole else text[:3]}}
        ]
    },
    st.integers(0, 2),
    NAMES,
    st.sampled_from(['{"input": "a\\nb"}', '{"a": 1}', "{}", "", '{"input": "']),
    st.booleans(),
)
CITATION = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
DELTAS = st.one_of(
    st.just({"content": "See:", "images": [IMAGE, IMAGE]}),
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"reasoning_content": text}),
    TEXTS.map(lambda text: {"refusal": text}),
    TEXTS.map(lambda text: {"content": text, "annotations": [CITATION]}),
    CALLS,
    st.just({"role": "assistant", "content": ""}),
)
STREAMS = st.lists(DELTAS, max_size=12)


@given(STREAMS, st.sampled_from(ENDINGS))
def test_any_stream_is_valid(deltas: list[dict[str, Any]], ending: Ending) -> None:
    """Whatever an upstream sends, the events are valid, and what a client builds from them is the final output."""
    records = written([piece(delta) for delta in deltas], ending)
    found = events(records)
    output = Output()
    for event in found[:-1]:
        output.add(event["type"], event)
    assert output.items("incomplete" if ending.state is not State.COMPLETE else None) == found[-1]["response"]["output"]


TALK = st.lists(
    st.one_of(
        st.just({"images": [IMAGE]}),
        TEXTS.map(lambda text: {"content": text}),
        TEXTS.map(lambda text: {"reasoning_content": text}),
        TEXTS.map(lambda text: {"refusal": text}),
        TEXTS.map(lambda text: {"content": text, "annotations": [CITATION]}),
    ),
    min_size=1,
    max_size=10,
)


@given(TALK, st.sampled_from(ENDINGS), st.data())
def test_another_writer_goes_on(deltas: list[dict[str, Any]], ending: Ending, data: st.DataObject) -> None:
    """A writer that goes on after any read of another one's writes the same events. Calls forbid a second attempt."""
    at = data.draw(st.integers(0, len(deltas)))
    whole = written([piece(delta) for delta in deltas], ending)
    one = writer()
    before = [record for delta in deltas[:at] for record in one.pieces([piece(delta)])]
    other = writer(tail=len(before))
    other.resume(before)
    other.begin_attempt()
    after = [record for delta in deltas[at:] for record in other.pieces([piece(delta)])]
    assert [*before, *after, *other.ending(ending, Transcript())] == whole


@given(STREAMS, st.data())
def test_a_stream_with_calls_ends_after_a_takeover(deltas: list[dict[str, Any]], data: st.DataObject) -> None:
    """If calls were told, a takeover can only end the stream: with all items that its client knows."""
    at = data.draw(st.integers(0, len(deltas)))
    one = writer()
    before = [record for delta in deltas[:at] for record in one.pieces([piece(delta)])]
    other = writer(tail=len(before))
    other.resume(before)
    events([*before, *other.ending(ENDINGS[3], Transcript())])


@given(STREAMS)
def test_an_ending_can_be_asked_for_twice(deltas: list[dict[str, Any]]) -> None:
    """The relay asks again if what it got cannot be stored. The records are the same."""
    one = writer()
    for delta in deltas:
        one.pieces([piece(delta)])
    assert one.ending(ENDINGS[0], Transcript()) == one.ending(ENDINGS[0], Transcript())


@given(st.lists(st.lists(st.text("ab é😀", min_size=1, max_size=3), min_size=1, max_size=3), max_size=4), STREAMS)
def test_plain_tokens_are_as_if_they_were_parsed(reads: list[list[str]], deltas: list[dict[str, Any]]) -> None:
    """The records of tokens that were not parsed are those of the parsed ones, at any place of a stream."""
    plain, parsed = writer(), writer()
    quick: list[Record] = []
    slow: list[Record] = []
    for number, read in enumerate(reads):
        tokens = Tokens(plain.token_kind, b"{", [text.encode() for text in read], b"}")
        quick += plain.tokens(tokens)
        slow += [record for text in read for record in parsed.pieces([piece({"content": text})])]
        for delta in deltas[number : number + 1]:
            quick += plain.pieces([piece(delta)])
            slow += parsed.pieces([piece(delta)])
    quick += plain.ending(ENDINGS[0], Transcript())
    slow += parsed.ending(ENDINGS[0], Transcript())
    assert events(quick) == events(slow)


@given(st.lists(st.text("ab é😀", min_size=1, max_size=3), min_size=1, max_size=4))
def test_frames_of_tokens(texts: list[str]) -> None:
    """Tokens are shown as their records are."""
    one = writer()
    one.pieces([piece({"content": "a"})])
    tokens = one.tokens(Tokens(one.token_kind, b"{", [text.encode() for text in texts], b"}"))
    assert isinstance(tokens, Tokens)
    assert frames(6, tokens) == frames(6, list(tokens))


@given(STREAMS, st.sampled_from(ENDINGS[:3]))
def test_a_log_is_read_back(deltas: list[dict[str, Any]], ending: Ending) -> None:
    """A log read back says what the upstream said: the texts for a recovery, and the calls."""
    records = written([piece(delta) for delta in deltas], ending)
    [turn] = replay(ResponsesReader(beginning_of(SOURCE)), records)
    for kind, names in {"content": ("content",), "reasoning": ("reasoning_content",), "refusal": ("refusal",)}.items():
        said = paired("".join(delta[name] for delta in deltas for name in names if delta.get(name)))
        assert turn.texts.get((0, kind), "") == said
    called = [item for item in final(records)["output"] if item["type"] in ("function_call", "custom_tool_call")]
    assert turn.transcript.calls == bool(called)
    assert turn.transcript.finish[0] in ("stop", "tool_calls", "length", "content_filter")


def test_calls_read_back() -> None:
    """The chunks of calls are those of a chat completion: a client of that dialect can assemble them."""
    pieces = [
        piece(call(0, '{"a":1}', id="c0", name="files__look")),
        piece(call(1, '{"input": "a\\nb\\"c"}', id="c1", name="patch")),
    ]
    reader = ResponsesReader(beginning_of(SOURCE))
    found: dict[int, list[str]] = {}
    for record in written(pieces):
        for one in reader.read(record):
            assert isinstance(one, Piece)
            for told in one.chunk["choices"][0]["delta"].get("tool_calls", ()):
                place = found.setdefault(told["index"], ["", ""])
                place[0] += told["function"].get("name", "")
                place[1] += told["function"]["arguments"]
    assert [name for name, _ in found.values()] == ["files__look", "patch"]
    assert [json.loads(arguments) for _, arguments in found.values()] == [{"a": 1}, {"input": 'a\nb"c'}]
