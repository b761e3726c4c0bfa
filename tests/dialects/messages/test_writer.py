"""Chunks become the events of a message: golden transcripts, and what holds for every stream."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.dialect import LoggedCall
from server.core.lifecycle import State, state_of
from server.core.openai.chunks import TEXTS, text_of
from server.core.openai.tool_calls import ToolCalls
from server.core.openai.transcript import Transcript
from server.core.records import WHOLE, Beginning, Ending, Record
from server.core.replay import replay
from server.core.upstream_api import Piece
from server.core.wide_json import dumps
from server.dialects.messages import Messages
from server.dialects.messages.fields import pass_over
from server.dialects.messages.generation import generation_of
from server.dialects.messages.reader import MessagesReader
from server.dialects.messages.writer import MessagesWriter

BEGINNING = Beginning(id="strm_abc", owner="", dialect="messages", model="m", created=0.0, body=b"{}", request_id="r1")
SOURCE = {"model": "m", "max_tokens": 9, "stop_sequences": ["END"], "messages": [{"role": "user", "content": "x" * 40}]}
GENERATION = generation_of(SOURCE, pass_over, "cancel")
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 4},
}


class FixedLog:
    """As much of a log as a writer looks at."""

    beginning = BEGINNING
    target = "local/m"


def writer() -> MessagesWriter:
    """Return the writer of a new stream."""
    return MessagesWriter(FixedLog(), GENERATION)  # type: ignore[arg-type]  # a whole log needs an event loop


def piece(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> Piece:
    """Return a chunk of one choice."""
    chunk = {
        "id": "c",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **fields}],
    }
    return Piece(dumps(chunk), chunk)


def call(index: int, **fields: Any) -> dict[str, Any]:
    """Return the piece of a call."""
    identity = {"id": fields.pop("id")} if "id" in fields else {}
    return {"tool_calls": [{"index": index, **identity, "function": fields}]}


def ended(reason: str = "stop", **fields: Any) -> Ending:
    """Return the ending of an answer."""
    return Ending(state_of(frozenset({reason})), reason, 0.0, "local/m", **{"usage": USAGE, "tokens": 2, **fields})


def written(pieces: Sequence[Piece], ending: Ending | None = None) -> list[Record]:
    """Return the whole log of a stream."""
    made = writer()
    made.begin_attempt()
    records = [record for one in pieces for record in made.pieces([one])]
    return [*records, *made.end_turn(), *made.ending(ending or ended(), Transcript())]


def told(records: Sequence[Record]) -> list[Any]:
    """Return the events in short: `start`, a block's start, its deltas, its stop."""
    short: list[Any] = []
    for kind, data in records:
        event = json.loads(data)
        assert event["type"] == kind
        match kind:
            case "message_start":
                short.append("start")
            case "content_block_start":
                block = event["content_block"]
                short.append((event["index"], block["type"], block.get("name") or block.get("data")))
            case "content_block_delta":
                short.append((event["index"], *[value for name, value in event["delta"].items() if name != "type"]))
            case "content_block_stop":
                short.append(("stop", event["index"]))
            case "message_delta":
                short.append(event["delta"]["stop_reason"])
            case "message_stop":
                short.append("end")
            case _:
                short.append(event)
    return short


GOLDEN = """\
{"type":"message_start","message":{"id":"msg_abc","type":"message","role":"assistant","model":"up","content":[],\
"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":0,\
"cache_read_input_tokens":0,"output_tokens":0}}}
{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}
{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}}
{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"SIG"}}
{"type":"content_block_stop","index":0}
{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}
{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hél"}}
{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"lo"}}
{"type":"content_block_stop","index":1}
{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"call_1","name":"look","input":{}}}
{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\\"at\\":"}}
{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"1}"}}
{"type":"content_block_stop","index":2}
{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":4,\
"cache_creation_input_tokens":4,"cache_read_input_tokens":12,"output_tokens":3}}
{"type":"message_stop"}
"""


def test_the_golden_transcript() -> None:
    """Thinking with its signature, a text and a call: every event of the stream, byte for byte."""
    signed = {"reasoning_details": [{"type": "reasoning.text", "signature": "SIG"}]}
    pieces = [
        piece({"role": "assistant", "content": ""}),
        piece({"reasoning_content": "Hm."}),
        piece(signed),
        piece({"content": "Hél"}),
        piece({"content": "lo"}),
        piece(call(0, id="call_1", name="look", arguments="")),
        piece(call(0, arguments='{"at":')),
        piece(call(0, arguments="1}")),
        piece({}, "tool_calls"),
    ]
    assert [record.data.decode() for record in written(pieces, ended("tool_calls"))] == GOLDEN.splitlines()


def signed(signature: str) -> dict[str, Any]:
    """Return a delta with a signature alone."""
    return {"reasoning_details": [{"type": "reasoning.text", "signature": signature}]}


ORDERS: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "two calls take turns": (
        [
            call(0, id="a", name="f", arguments='{"x"'),
            call(1, id="b", name="g", arguments='{"y"'),
            call(0, arguments=":1}"),
            call(1, arguments=":2}"),
        ],
        [
            (0, "tool_use", "f"), (0, '{"x"'), (0, ":1}"), ("stop", 0),
            (1, "tool_use", "g"), (1, '{"y"'), (1, ":2}"), ("stop", 1),
        ],
    ),
    "a text between the pieces of a call": (
        [call(0, id="a", name="f", arguments='{"x"'), {"content": "So."}, call(0, arguments=":1}"), {"content": "!"}],
        [
            (0, "tool_use", "f"), (0, '{"x"'), (0, ":1}"), ("stop", 0),
            (1, "text", None), (1, "So."), (1, "!"), ("stop", 1),
        ],
    ),
    "a call without arguments": (
        [call(0, id="a", name="f", arguments=""), call(1, id="b", name="g", arguments="{}")],
        [(0, "tool_use", "f"), ("stop", 0), (1, "tool_use", "g"), ("stop", 1)],
    ),
    "an empty object before the arguments": (
        [call(0, id="a", name="f", arguments="{}"), call(0, arguments='{"x":1}')],
        [(0, "tool_use", "f"), (0, '{"x":1}'), ("stop", 0)],
    ),
    "a name in pieces, and no id": (
        [call(0, name="lo"), call(0, name="ok"), call(0, arguments='{"x":1}')],
        [(0, "tool_use", "look"), (0, '{"x":1}'), ("stop", 0)],
    ),
    "two calls with the same id": (
        [call(0, id="a", name="f", arguments="{}"), call(1, id="a", name="g", arguments='{"x":1}')],
        [(0, "tool_use", "f"), ("stop", 0), (1, "tool_use", "g"), (1, '{"x":1}'), ("stop", 1)],
    ),
    "a legacy call": (
        [{"function_call": {"name": "f", "arguments": '{"x":'}}, {"function_call": {"arguments": "1}"}}],
        [(0, "tool_use", "f"), (0, '{"x":'), (0, "1}"), ("stop", 0)],
    ),
    "thinking under two names, and a text": (
        [{"reasoning": "Hm.", "reasoning_content": "Hm."}, {"content": "Yes."}],
        [(0, "thinking", None), (0, "Hm."), ("stop", 0), (1, "text", None), (1, "Yes."), ("stop", 1)],
    ),
    "Mistral's parts": (
        [
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
            {"content": [{"type": "text", "text": "Yes."}]},
        ],
        [(0, "thinking", None), (0, "Hm."), ("stop", 0), (1, "text", None), (1, "Yes."), ("stop", 1)],
    ),
    "encrypted thoughts": (
        [{"reasoning_details": [{"type": "reasoning.encrypted", "data": "xyz"}]}, {"content": "Yes."}],
        [(0, "redacted_thinking", "xyz"), ("stop", 0), (1, "text", None), (1, "Yes."), ("stop", 1)],
    ),
    "LiteLLM's signature": (
        [{"reasoning_content": "Hm."}, {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "S"}]}],
        [(0, "thinking", None), (0, "Hm."), (0, "S"), ("stop", 0)],
    ),
    "a signature that is too late": (
        [{"reasoning_content": "Hm."}, {"content": "Yes."}, signed("S"), {"content": "No."}],
        [(0, "thinking", None), (0, "Hm."), ("stop", 0), (1, "text", None), (1, "Yes."), (1, "No."), ("stop", 1)],
    ),
    "thoughts that are not shown": (
        [signed("S"), {"content": "Yes."}, signed("T")],
        [(0, "thinking", None), (0, "S"), ("stop", 0), (1, "text", None), (1, "Yes."), ("stop", 1),
         (2, "thinking", None), (2, "T"), ("stop", 2)],
    ),
    "nothing": ([{"role": "assistant"}], []),
}  # fmt: skip


@pytest.mark.parametrize(("deltas", "blocks"), ORDERS.values(), ids=ORDERS.keys())
def test_blocks(deltas: list[dict[str, Any]], blocks: list[Any]) -> None:
    """One block is open at a time. What comes for another one waits until those before it are whole."""
    found = told(written([piece(delta) for delta in deltas]))
    assert (found[0], found[1:-2], found[-1]) == ("start", blocks, "end")


def test_ids_of_calls() -> None:
    """Results name their call by its id: each call has one of its own, also where the upstream gave none."""
    pieces = [piece(call(0, id="a", name="f", arguments="{}")), piece(call(1, id="a", name="g", arguments="{}"))]
    blocks = [json.loads(data)["content_block"] for kind, data in written(pieces) if kind == "content_block_start"]
    assert [block["id"] for block in blocks] == ["a", "a_1"]
    [block] = [
        json.loads(data)["content_block"]
        for kind, data in written([piece(call(0, name="f", arguments="{}"))])
        if kind == "content_block_start"
    ]
    assert block["id"] == "toolu_abc_0"


TEXT, CALL = {"content": "a"}, call(0, id="a", name="f", arguments="{}")
STOPS: list[tuple[list[Piece], str, str, str | None]] = [
    ([piece(TEXT)], "stop", "end_turn", None),
    ([piece(TEXT, "eos")], "eos", "end_turn", None),
    ([piece(CALL, "stop")], "stop", "tool_use", None),
    ([piece(CALL, "tool_calls")], "tool_calls", "tool_use", None),
    ([piece(CALL, "length")], "length", "max_tokens", None),
    ([piece(TEXT, "MAX_TOKENS")], "MAX_TOKENS", "max_tokens", None),
    ([piece(TEXT, "model_length")], "model_length", "model_context_window_exceeded", None),
    ([piece(TEXT, "content_filter")], "content_filter", "refusal", None),
    ([piece(TEXT, "SAFETY")], "SAFETY", "refusal", None),
    ([piece({"refusal": "No."}, "stop")], "stop", "refusal", None),
    ([piece(TEXT, "stop", stop_reason="END")], "stop", "stop_sequence", "END"),
    ([piece(TEXT, "stop", matched_stop="END")], "stop", "stop_sequence", "END"),
    ([piece(TEXT, "stop", stop_reason="<|im_end|>")], "stop", "end_turn", None),
    ([piece(TEXT, "stop", stop_reason=151645)], "stop", "end_turn", None),
]


@pytest.mark.parametrize(("pieces", "reason", "stopped", "sequence"), STOPS)
def test_stop_reasons(pieces: list[Piece], reason: str, stopped: str, sequence: str | None) -> None:
    """The stop reason is what happened: calls are `tool_use`, whatever the upstream's word for the end is."""
    [delta] = [json.loads(data)["delta"] for kind, data in written(pieces, ended(reason)) if kind == "message_delta"]
    assert delta == {"stop_reason": stopped, "stop_sequence": sequence}


def test_usage() -> None:
    """What a cache read or wrote is counted beside the input; without a count of the upstream's it is estimated."""
    measured = {**USAGE, "measured": True}
    event = json.loads(written([piece(TEXT)], ended(usage=measured))[-2].data)
    assert event["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 4,
        "cache_read_input_tokens": 12,
        "output_tokens": 3,
    }
    event = json.loads(written([piece(TEXT)], ended(usage=None))[-2].data)
    assert event["usage"]["output_tokens"] == 2


def test_an_upstream_that_begins_in_the_middle() -> None:
    """An upstream's own events follow a `message_start`, if need be the gateway's; a ping before it is dropped."""
    ping, stop = {"type": "ping"}, {"type": "message_stop"}
    begin = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    end = {"type": "content_block_stop", "index": 0}
    over = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}
    made = writer()
    events = [ping, begin, end, ping, over, stop]
    records = made.pieces([Piece(dumps(event), {"choices": []}, "messages") for event in events])
    records += made.ending(ended(), Transcript())
    kinds = ["message_start", "content_block_start", "content_block_stop", "ping", "message_delta", "message_stop"]
    assert [kind for kind, _ in records] == kinds
    assert json.loads(records[-2].data)["usage"]["output_tokens"] == 3


def test_the_input_is_known_from_the_start() -> None:
    """`message_start` has the count of an upstream that counts in each chunk, else an estimate that is not 0."""
    counted = piece(TEXT)
    counted.chunk["usage"] = USAGE
    starts = [json.loads(written(pieces)[0].data)["message"]["usage"] for pieces in ([counted], [piece(TEXT)])]
    assert [(start["input_tokens"], start["cache_read_input_tokens"]) for start in starts] == [(4, 12), (10, 0)]


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": None}}, (5, 0, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": [3]}, (5, 0, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}, (0, 9, 2)),
        ({"prompt_tokens": 5, "completion_tokens": None}, (5, 0, 0)),
        ({"prompt_tokens": "5", "completion_tokens": 2.5}, (10, 0, 0)),
        ({"prompt_tokens": None, "completion_tokens": -1}, (10, 0, 0)),
        ({"prompt_tokens": True, "completion_tokens": {}}, (10, 0, 0)),
        ([5, 2], (10, 0, 0)),
        (None, (10, 0, 0)),
    ],
    ids=repr,
)
def test_any_usage(usage: Any, counts: tuple[int, int, int]) -> None:
    """Whatever an upstream's `usage` is, the message has counts. SGLang and others send null for what they skip."""
    counted = piece(TEXT)
    counted.chunk["usage"] = usage
    start = json.loads(written([counted])[0].data)["message"]["usage"]
    answer = {"choices": [{"index": 0, "message": {"content": "Yes."}, "finish_reason": "stop"}], "usage": usage}
    made = writer()
    made.whole_answer(Piece(dumps(answer), answer))
    whole = json.loads(made.ending(ended(), Transcript())[0].data)["usage"]
    for found in (start, whole):
        assert (found["input_tokens"], found["cache_read_input_tokens"], found["output_tokens"]) == counts


def test_failure() -> None:
    """A failure is the event `error`, in Anthropic's shape, and nothing follows it."""
    error = {"error": {"message": "gone", "type": "api_error", "param": None, "code": "upstream_cut"}}
    failed = Ending(State.FAILED, "upstream_cut", 0.0, "local/m", error=error, status=502)
    made = writer()
    made.pieces([piece(TEXT)])
    [record] = made.ending(failed, Transcript())
    assert record.kind == "error"
    assert json.loads(record.data) == {
        "type": "error",
        "error": {"type": "api_error", "message": "gone", "code": "upstream_cut"},
        "request_id": "r1",
    }


def test_pings() -> None:
    """A silence is filled once the message has begun: clients take nothing before `message_start`."""
    made = writer()
    assert made.idle_after == 10.0
    assert made.idle() == []
    made.pieces([piece(TEXT)])
    assert made.idle() == [Record("ping", b'{"type":"ping"}')]


def test_a_long_silence_before_the_first_token() -> None:
    """After a minute the message begins without a token. The upstream's own beginning is dropped, its count not."""
    made = writer()
    assert [made.idle() for _ in range(5)] == [[]] * 5
    assert [kind for kind, _ in made.idle()] == ["message_start", "ping"]
    start = {"type": "message_start", "message": {"id": "msg_up", "usage": {"input_tokens": 4}}}
    delta = {
        "type": "message_delta",
        "delta": {"stop_reason": "stop_sequence", "stop_sequence": "x"},
        "usage": {"output_tokens": 3},
    }
    pieces = [Piece(dumps(event), {"choices": []}, "messages") for event in (start, delta)]
    assert made.pieces(pieces) == []
    event = json.loads(made.ending(ended(), Transcript())[0].data)
    assert event["delta"] == delta["delta"]
    assert (event["usage"]["input_tokens"], event["usage"]["output_tokens"]) == (4, 3)


def test_a_whole_answer() -> None:
    """An answer that is not streamed is a message, with all of its blocks."""
    said = {
        "role": "assistant",
        "content": "Yes.",
        "reasoning": "Hm.",
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"type": "function", "function": {"name": "g", "arguments": "oops"}},
        ],
    }
    answer = {"model": "up", "choices": [{"index": 0, "message": said, "finish_reason": "stop"}], "usage": USAGE}
    made = writer()
    made.whole_answer(Piece(dumps(answer), answer))
    [record] = made.ending(ended(), Transcript())
    assert record.kind == WHOLE
    assert json.loads(record.data) == {
        "id": "msg_abc",
        "type": "message",
        "role": "assistant",
        "model": "up",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "Yes."},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "toolu_abc_1", "name": "g", "input": {"arguments": "oops"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 4,
            "cache_read_input_tokens": 12,
            "output_tokens": 3,
        },
    }


def thought(text: str, signature: str = "") -> dict[str, Any]:
    """Return a block of thinking."""
    return {"type": "thinking", "thinking": text, "signature": signature}


def called(identity: str, **given: Any) -> dict[str, Any]:
    """Return a block of a call of `f`."""
    return {"type": "tool_use", "id": identity, "name": "f", "input": given}


F = {"name": "f", "arguments": '{"x":1}'}


@pytest.mark.parametrize(
    ("said", "blocks"),
    [
        ({"content": None}, []),
        ({"reasoning": "Hm.", "reasoning_details": [{"text": "Hm.", "signature": "S"}]}, [thought("Hm.", "S")]),
        ({"reasoning_details": [{"text": "a", "signature": "S"}, {"text": "b"}]}, [thought("a", "S"), thought("b")]),
        ({"reasoning_details": [{"text": "a"}, {"signature": "S"}, {"data": "D"}]},
         [thought("a", "S"), {"type": "redacted_thinking", "data": "D"}]),
        ({"reasoning_content": "a", "thinking_blocks": [{"thinking": "a", "signature": "S"}]}, [thought("a", "S")]),
        ({"content": [{"thinking": [{"type": "text", "text": "a"}]}, {"type": "text", "text": "b"}]},
         [thought("a"), {"type": "text", "text": "b"}]),
        ({"refusal": "No."}, [{"type": "text", "text": "No."}]),
        ({"function_call": F}, [called("toolu_abc_0", x=1)]),
        ({"tool_calls": [{"id": "a", "function": F}, {"id": "a", "function": F}, {"id": 3, "function": F}, 4]},
         [called("a", x=1), called("toolu_abc_1", x=1), called("toolu_abc_2", x=1)]),
    ],
    ids=str,
)  # fmt: skip
def test_blocks_of_a_whole_answer(said: dict[str, Any], blocks: list[Any]) -> None:
    """Thoughts keep their signatures, also where an upstream has them in parts or details alone; ids are unique."""
    answer = {"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}
    made = writer()
    made.whole_answer(Piece(dumps(answer), answer))
    assert json.loads(made.ending(ended(), Transcript())[0].data)["content"] == blocks


# --- what holds for every stream -------------------------------------------------------------------------------------

WORDS = st.text(min_size=1, max_size=4)
SPOKEN = st.one_of(
    st.builds(lambda text: {"content": text}, WORDS),
    st.builds(lambda text: {"reasoning_content": text}, WORDS),
    st.builds(lambda text: {"refusal": text}, WORDS),
    st.builds(lambda text: {"reasoning_details": [{"type": "reasoning.text", "signature": text}]}, WORDS),
    st.just({"role": "assistant", "content": ""}),
)
ARGUMENTS = st.sampled_from(['{"x":', "1}", "{}", '{"a":1}', " ", "", "[", '"'])
CALLED = st.builds(
    lambda index, fields: call(index, **fields),
    st.integers(0, 2),
    st.fixed_dictionaries(
        {}, optional={"id": st.sampled_from("abc"), "name": st.sampled_from(["f", "g"]), "arguments": ARGUMENTS}
    ),
)
STREAMS = st.lists(SPOKEN | CALLED, max_size=12)


def check_grammar(records: Sequence[Record]) -> None:
    """Check that a log is a message as the API reference has it: what Anthropic's SDKs take without an error."""
    assert records[0].kind == "message_start"
    assert [kind for kind, _ in records[-2:]] == ["message_delta", "message_stop"]
    index, open_block = 0, False
    for kind, data in records[1:-2]:
        event = json.loads(data)
        assert event["type"] == kind
        assert event["index"] == index
        assert open_block == (kind != "content_block_start")
        open_block = kind != "content_block_stop"
        index += kind == "content_block_stop"
    assert not open_block


def texts_of(records: Sequence[Record]) -> dict[str, str]:
    """Return the texts that a log tells, by kind."""
    found = dict.fromkeys(TEXTS, "")
    reader = MessagesReader(BEGINNING)
    for record in records:
        for entry in reader.read(record):
            assert isinstance(entry, Piece)
            for kind in TEXTS:
                found[kind] += text_of(entry.chunk["choices"][0]["delta"], kind) or ""
    return found


@given(STREAMS)
def test_every_stream_is_a_message(deltas: list[dict[str, Any]]) -> None:
    """Whatever comes in whatever order: blocks are well formed, no text is lost, each call has its own arguments."""
    pieces = [piece(delta) for delta in deltas]
    records = written(pieces)
    check_grammar(records)
    found = texts_of(records)
    said = {kind: "".join(text_of(delta, kind) or "" for delta in deltas) for kind in TEXTS}
    assert found["reasoning"] == said["reasoning"]
    assert sorted(found["content"]) == sorted(said["content"] + said["refusal"])
    gathered, read_back = ToolCalls(), ToolCalls()
    reader = MessagesReader(BEGINNING)
    for delta in deltas:
        gathered.feed(delta)
    begun = len(gathered.partial)
    for record in records:
        for entry in reader.read(record):
            assert not isinstance(entry, LoggedCall)
            if isinstance(entry, Piece):
                read_back.feed(entry.chunk["choices"][0]["delta"])
    expected = [(one.name, one.arguments) for one in gathered.take(whole=True) if one.error is None]
    told_calls = [(one.name, one.arguments) for one in read_back.take(whole=True) if one.error is None]
    # Of arguments that are an empty object and another one, the writer tells the other one: they can be read then.
    assert not Counter(map(str, expected)) - Counter(map(str, told_calls))
    assert len(told_calls) <= begun


@given(st.lists(SPOKEN, max_size=10), st.data())
def test_resumed_between_two_pieces(deltas: list[dict[str, Any]], data: st.DataObject) -> None:
    """A writer that goes on after the records of another one writes what that one would have written."""
    pieces = [piece(delta) for delta in deltas]
    at = data.draw(st.integers(0, len(pieces)))
    first, second, reference = writer(), writer(), writer()
    before = [record for one in pieces[:at] for record in first.pieces([one])]
    whole = [record for one in pieces for record in reference.pieces([one])]
    second.resume(before)
    after = [record for one in pieces[at:] for record in second.pieces([one])]
    for one in (second, reference):
        one.begin_attempt()
    assert before + after + second.end_turn() == whole + reference.end_turn()


@given(st.lists(SPOKEN, max_size=10), st.data())
def test_resumed_at_any_record(deltas: list[dict[str, Any]], data: st.DataObject) -> None:
    """Cut after any record, a stream goes on with the rest of its texts as one well-formed message."""
    records = written([piece(delta) for delta in deltas])
    at = data.draw(st.integers(0, len(records) - 2))
    kept, rest = records[:at], records[at:]
    second = writer()
    second.resume(kept)
    second.begin_attempt()
    # What the reader of the kept records has not told is what the seam lets through of the next attempt.
    reader = MessagesReader(BEGINNING)
    for record in kept:
        reader.read(record)
    again = [entry for record in rest for entry in reader.read(record) if isinstance(entry, Piece)]
    more = [record for one in again for record in second.pieces([one])]
    resumed = [*kept, *more, *second.end_turn(), *second.ending(ended(), Transcript())]
    check_grammar(resumed)
    assert texts_of(resumed) == texts_of(records)


@given(STREAMS)
def test_read_back_and_written_again(deltas: list[dict[str, Any]]) -> None:
    """A log that is read as chunks and written again is the same log, but for ids of calls that repeat."""
    records = written([piece(delta) for delta in deltas])
    reader = MessagesReader(BEGINNING)
    again = [entry for record in records for entry in reader.read(record) if isinstance(entry, Piece)]
    rewritten = written(list(again))
    check_grammar(rewritten)
    assert texts_of(rewritten) == texts_of(records)


def test_replay_counts_what_was_delivered() -> None:
    """What a takeover reads from a log: the texts, and that a call has been told, which is not told twice."""
    records = written(
        [piece({"reasoning_content": "Hm."}), piece(TEXT), piece({"content": "b"}, "length")], ended("length")
    )
    [turn] = replay(MessagesReader(BEGINNING), records)
    assert turn.texts == {(0, "reasoning"): "Hm.", (0, "content"): "ab"}
    assert (turn.transcript.tokens, turn.transcript.finish, turn.transcript.calls) == (2, {0: "length"}, False)
    [turn] = replay(MessagesReader(BEGINNING), written([piece(CALL)]))
    assert turn.transcript.calls


@given(st.lists(st.sampled_from(["ping", "error"]), min_size=1, max_size=4), st.integers(1, 10**17))
def test_frames(kinds: list[str], first: int) -> None:
    """Each record is an event with its name and its number."""
    frames = [f"event: {kind}\nid: {seq}\ndata: {{}}\n\n" for seq, kind in enumerate(kinds, first)]
    assert Messages().frames(first, [Record(kind, b"{}") for kind in kinds]) == "".join(frames).encode()
