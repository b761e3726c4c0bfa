"""Upstreams that speak Messages: what their events mean, and what clients of both dialects get from them."""

import json
from typing import Any

import anthropic
import messages
import messages_upstream as script
import openai
import pytest
import wire
from gateway import in_process
from messages_upstream import Answer, MessagesUpstream

from server.core.errors import Kind, UpstreamError
from server.core.openai.sse import Event
from server.core.upstream_api import Piece
from server.dialects.messages.upstream import EventTranslator, MessagesApi

RECOVERY = {"strategy": "auto", "backoff": 0.02}
SPEAKS = {"api": "messages"}
THOUGHT = (
    {"type": "thinking", "thinking": "", "signature": ""},
    [{"type": "thinking_delta", "thinking": "Hm. "}, {"type": "signature_delta", "signature": "SIG"}],
)
SAID = ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "Hi "}, {"type": "text_delta", "text": "you"}])
CALLED = (
    {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
    [{"type": "input_json_delta", "partial_json": '{"at":'}, {"type": "input_json_delta", "partial_json": "1}"}],
)
WHOLE = script.message(*THOUGHT, *SAID, *CALLED, stop="tool_use")
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def translated(*events: dict[str, Any]) -> list[Piece]:
    """Return what events mean."""
    translator = EventTranslator()
    found = [translator.read(Event(one["type"].encode(), json.dumps(one).encode(), None)) for one in events]
    assert translator.done == (events[-1]["type"] == "message_stop")
    return [piece for pieces in found for piece in pieces]


def test_the_golden_transcript() -> None:
    """Thoughts, a text and a call, as chunks. Each event keeps its bytes, and each has its one piece."""
    pieces = translated(*WHOLE)
    raw = [json.loads(piece.data) for piece in pieces if piece.data]
    assert raw == WHOLE[:-1]
    assert {piece.api for piece in pieces} == {"messages"}
    assert len({(piece.chunk["id"], piece.chunk["created"], piece.chunk["model"]) for piece in pieces}) == 1
    choices = [choice for piece in pieces for choice in piece.chunk["choices"]]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm. "},
        {
            "reasoning_details": [
                {"type": "reasoning.text", "signature": "SIG", "format": "anthropic-claude-v1", "index": 0}
            ]
        },
        {"content": "Hi "},
        {"content": "you"},
        {
            "tool_calls": [
                {"index": 0, "id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"at":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 8 + ["tool_calls"]
    assert pieces[-1].chunk["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 7,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    }


BLOCKS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "a call without arguments": (
        ({"type": "tool_use", "id": "t", "name": "f", "input": {}}, []),
        [
            {"tool_calls": [{"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        ],
    ),
    "a call whose arguments come at once": (
        ({"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}, []),
        [
            {
                "tool_calls": [
                    {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
                ]
            }
        ],
    ),
    "a text that comes at once": (({"type": "text", "text": "Hi"}, []), [{"content": "Hi"}]),
    "encrypted thoughts": (
        ({"type": "redacted_thinking", "data": "xyz"}, []),
        [
            {
                "reasoning_details": [
                    {"type": "reasoning.encrypted", "data": "xyz", "format": "anthropic-claude-v1", "index": 0}
                ]
            }
        ],
    ),
    "a citation": (
        (
            {"type": "text", "text": ""},
            [
                {
                    "type": "citations_delta",
                    "citation": {"type": "web_search_result_location", "url": "http://a.example", "title": "A"},
                }
            ],
        ),
        [{"annotations": [{"type": "url_citation", "url_citation": {"url": "http://a.example", "title": "A"}}]}],
    ),
    "a tool that the upstream runs": (
        (
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            [{"type": "input_json_delta", "partial_json": "{}"}],
        ),
        [],
    ),
    "a block of a later version": (({"type": "new"}, [{"type": "new_delta"}]), []),
}


@pytest.mark.parametrize(("block", "deltas"), BLOCKS.values(), ids=BLOCKS.keys())
def test_blocks(block: Any, deltas: list[dict[str, Any]]) -> None:
    """Each block has its deltas; one that chat completions do not have means nothing there."""
    found = [choice["delta"] for piece in translated(*script.message(*block)) for choice in piece.chunk["choices"]]
    assert found[1:-1] == deltas


@pytest.mark.parametrize("usage", [None, {}, [], {"output_tokens": None}, {"input_tokens": "3"}, {"output_tokens": 0}])
def test_no_counts(usage: Any) -> None:
    """An upstream that counts nothing has no usage, so that it is estimated. It would be free of charge otherwise."""
    start = {"type": "message_start", "message": {"id": "m", "usage": usage}}
    over = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    chunks = [piece.chunk for piece in translated(start, over)]
    assert [chunk for chunk in chunks if "usage" in chunk] == []
    assert MessagesApi().whole({"content": [], "usage": usage})["usage"] is None


STOPS = [
    ("end_turn", "stop"),
    ("stop_sequence", "stop"),
    ("tool_use", "tool_calls"),
    ("max_tokens", "length"),
    ("refusal", "content_filter"),
    ("pause_turn", "pause_turn"),
    ("model_context_window_exceeded", "model_context_window_exceeded"),
]


@pytest.mark.parametrize(("reason", "finish"), STOPS)
def test_stop_reasons(reason: str, finish: str) -> None:
    """Each stop reason has its finish reason."""
    choices = [choice for piece in translated(*script.message(*SAID, stop=reason)) for choice in piece.chunk["choices"]]
    assert choices[-1]["finish_reason"] == finish


FAILURES: list[tuple[bytes, bytes, Kind]] = [
    (b"error", json.dumps(OVERLOADED).encode(), Kind.IN_BAND),
    (b"", json.dumps(OVERLOADED).encode(), Kind.IN_BAND),
    (b"error", b'{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}', Kind.RATE_LIMIT),
    (b"error", b"it broke", Kind.IN_BAND),
    (b"message_start", b"{oops", Kind.GARBAGE),
    (b"message_start", b"[]", Kind.UNUSABLE),
    (b"message_start", b'{"type":"ping"}', Kind.UNUSABLE),
    (b"", b'{"choices":[]}', Kind.UNUSABLE),
]


@pytest.mark.parametrize(("kind", "data", "failure"), FAILURES)
def test_failures(kind: bytes, data: bytes, failure: Kind) -> None:
    """An error event, and what is no event of this API, fails the attempt in a way that another one can mend."""
    with pytest.raises(UpstreamError) as caught:
        EventTranslator().read(Event(kind, data, None))
    assert caught.value.kind is failure
    assert caught.value.trait.other


def test_a_whole_message() -> None:
    """An answer that is not streamed says what the chunks of its stream would say."""
    answer = {
        "id": "msg_1",
        "type": "message",
        "model": "claude-up",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "SIG"},
            {"type": "text", "text": "Hi"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": script.USAGE,
    }
    [choice] = MessagesApi().whole(answer)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Hi"
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["reasoning_details"][0]["signature"] == "SIG"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    with pytest.raises(UpstreamError):
        MessagesApi().whole({"id": "no message"})


# --- through a gateway -----------------------------------------------------------------------------------------------


async def test_events_go_through(upstream: MessagesUpstream) -> None:
    """A Messages client gets the upstream's own events, and the upstream its own request, with version and betas."""
    upstream.script("m", Answer(WHOLE))
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    betas = {"anthropic-beta": "one,two", "anthropic-version": "2024-01-01"}
    async with in_process(upstream.url, upstream=SPEAKS) as gateway:
        answer = await messages.ask(gateway.root, "m", tools=tools, later_field={"a": 1}, headers=betas)
    assert messages.data(answer.events) == WHOLE
    [asked] = upstream.seen["m"]
    assert asked.body == messages.body("m", tools=tools, later_field={"a": 1})
    assert {name: asked.headers[name] for name in betas} == betas


async def test_the_model_and_the_key(upstream: MessagesUpstream, monkeypatch) -> None:
    """The upstream gets its own name of the model, and the gateway's key where it looks for it."""
    monkeypatch.setenv("THE_KEY", "sk-1")
    upstream.script("claude-x", Answer(WHOLE))
    speaks = {**SPEAKS, "auth": "x-api-key", "api_key_env": "THE_KEY"}
    models = [{"name": "small", "targets": ["local/claude-x"]}]
    async with in_process(upstream.url, upstream=speaks, models=models) as gateway:
        await messages.ask(gateway.root, "small", headers={"x-api-key": "client's"})
    [asked] = upstream.seen["claude-x"]
    assert (asked.headers["x-api-key"], asked.headers["anthropic-version"]) == ("sk-1", "2023-06-01")
    assert "authorization" not in asked.headers
    assert "anthropic-beta" not in asked.headers


@pytest.mark.parametrize("cut", range(3, len(WHOLE)))
async def test_a_cut_recovers(upstream: MessagesUpstream, cut: int) -> None:
    """An upstream that breaks off after any event of a text is asked again, and the client sees one message."""
    events = script.text("One ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight")
    upstream.script("m", Answer(events, cut_after=cut), Answer(events))
    async with in_process(upstream.url, upstream=SPEAKS, recovery=RECOVERY) as gateway:
        answer = await messages.ask(gateway.root, "m")
    assert messages.text(answer.events) == "One two three four five six seven eight"
    assert messages.kinds(answer.events) == messages.WHOLE
    assert messages.data(answer.events)[-2]["delta"]["stop_reason"] == "end_turn"
    assert messages.data(answer.events)[-2]["usage"]["output_tokens"] == 7


async def test_an_overloaded_upstream(upstream: MessagesUpstream) -> None:
    """Overloaded, before the head or in the stream: the next target answers. Without one the client is told so."""
    upstream.script("in the stream", Answer([OVERLOADED]))
    upstream.script("before-it", Answer(status=529, json=OVERLOADED))
    upstream.script("well", Answer(WHOLE))
    models = [
        {"name": "m", "targets": ["local/in-the-stream", "local/before-it", "local/well"]},
        {"name": "none", "targets": ["local/before-it"]},
    ]
    recovery = {**RECOVERY, "max_retries": 0}
    async with in_process(upstream.url, upstream=SPEAKS, models=models, recovery=recovery) as gateway:
        answer = await messages.ask(gateway.root, "m")
        failed = await messages.ask(gateway.root, "none")
    assert messages.data(answer.events) == WHOLE
    assert answer.headers["x-sluiceway-target"] == "local/well"
    assert (failed.status, failed.json["error"]["type"]) == (529, "overloaded_error")


async def test_an_error_after_the_first_token(upstream: MessagesUpstream) -> None:
    """An error of the upstream in mid-stream that nothing mends is the client's, with its type."""
    upstream.script("m", Answer([*script.text("a", "b")[:4], OVERLOADED]))
    async with in_process(upstream.url, upstream=SPEAKS) as gateway:
        answer = await messages.ask(gateway.root, "m")
    assert messages.kinds(answer.events) == ["message_start", "content_block_start", "error"]
    assert messages.data(answer.events)[-1]["error"]["type"] == "overloaded_error"


async def test_a_chat_target_after_a_messages_target(provider, model, upstream: MessagesUpstream) -> None:
    """A stream that one kind of upstream began is finished by the other, as one message."""
    upstream.script(model, Answer(script.text("One ", "two ", "three"), cut_after=5))
    await provider.script(model, {"pieces": ["One ", "two ", "three"]})
    upstreams = [
        {"name": "first", "base_url": upstream.url, **SPEAKS},
        {"name": "second", "base_url": provider.url},
    ]
    models = [{"name": "*", "targets": ["first/*", "second/*"]}]
    recovery = {**RECOVERY, "max_retries": 0}
    async with in_process("", upstreams=upstreams, models=models, recovery=recovery) as gateway:
        answer = await messages.ask(gateway.root, model)
        refused = await messages.ask(gateway.root, model, tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert messages.text(answer.events) == "One two three"
    assert messages.kinds(answer.events) == messages.WHOLE
    assert refused.status == 400  # the second target could not be asked it


async def test_a_chat_client(upstream: MessagesUpstream) -> None:
    """OpenAI's SDK is served by such an upstream: thoughts, text, a call, usage with what the cache gave."""
    upstream.script("m", Answer(WHOLE))
    upstream.script(
        "whole",
        Answer(json={**WHOLE[0]["message"], "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}),
    )
    said: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    async with in_process(upstream.url, upstream=SPEAKS) as gateway:
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="m", messages=said, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            whole = await client.chat.completions.create(model="whole", messages=said)
        plain = await wire.complete(gateway.root, "m")
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "Hi you"
    calls = [call.function for delta in deltas for call in delta.tool_calls or ()]
    assert "".join(call.arguments or "" for call in calls if call) == '{"at":1}'
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (15, 4)
    assert whole.choices[0].message.content == "Hi"
    assert all(json.loads(event.data)["choices"] for event in plain.events[:-1])  # no usage that was not asked for
    assert upstream.seen["m"][0].body == {
        "model": "m",
        "stream": True,
        "max_tokens": 16_384,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


async def test_a_chat_client_after_a_cut(upstream: MessagesUpstream) -> None:
    """Recovery under a chat client is the same as ever."""
    events = script.text("One ", "two ", "three")
    upstream.script("m", Answer(events, cut_after=5), Answer(events))
    async with in_process(upstream.url, upstream=SPEAKS, recovery=RECOVERY) as gateway:
        answer = await wire.complete(gateway.root, "m")
    assert "".join(wire.texts(answer.events)) == "One two three"
    assert answer.events[-1].data == b"[DONE]"


async def test_the_sdk_through_it(upstream: MessagesUpstream) -> None:
    """Anthropic's SDK reads what went through, streamed and whole, as from the upstream itself."""
    whole = {**WHOLE[0]["message"], "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    upstream.script("m", Answer(WHOLE), Answer(json=whole))
    said: Any = [{"role": "user", "content": "Hi"}]
    async with (
        in_process(upstream.url, upstream=SPEAKS) as gateway,
        anthropic.AsyncAnthropic(base_url=gateway.root, api_key="none", max_retries=0) as client,
    ):
        async with client.messages.stream(model="m", max_tokens=9, messages=said) as stream:
            streamed = await stream.get_final_message()
        answered = await client.messages.create(model="m", max_tokens=9, messages=said)
    assert [block.type for block in streamed.content] == ["thinking", "text", "tool_use"]
    assert (streamed.id, streamed.stop_reason) == ("msg_up", "tool_use")
    assert (streamed.usage.input_tokens, streamed.usage.output_tokens) == (9, 7)
    assert answered.to_dict() == whole


async def test_a_preprocessor_changes_what_goes_upstream(upstream: MessagesUpstream) -> None:
    """What the operator's function has changed is what such an upstream gets: not the client's own request."""
    upstream.script("m", Answer(script.text("Hi")))
    shout = {"shout": "preprocessors:shout"}
    async with in_process(upstream.url, upstream=SPEAKS, preprocess=shout) as gateway:
        await messages.ask(gateway.root, "m")
    assert upstream.seen["m"][0].body["messages"][0]["content"] == [{"type": "text", "text": "SAY IT."}]


async def test_the_upstream_counts(upstream: MessagesUpstream) -> None:
    """The upstream's own count of tokens is passed on. If it cannot count, there is an estimate that says so."""
    upstream.script("m", Answer(json={"input_tokens": 123}), Answer(status=404, json={"error": {"message": "no"}}))
    sent = {"model": "m", "messages": [{"role": "user", "content": "x" * 400}], "tools": [{"type": "bash_20250124"}]}
    async with in_process(upstream.url, upstream=SPEAKS) as gateway:
        path = "/v1/messages/count_tokens?beta=true"
        own = await wire.call(gateway.root, "POST", path, sent, {"anthropic-beta": "one"})
        estimated = await wire.call(gateway.root, "POST", path, sent)
    assert (own.json, own.headers.get("x-sluiceway-estimated")) == ({"input_tokens": 123}, None)
    assert (estimated.json, estimated.headers["x-sluiceway-estimated"]) == ({"input_tokens": 100}, "true")
    first, _ = upstream.seen["m"]
    assert (first.path, first.body, first.headers["anthropic-beta"]) == ("/v1/messages/count_tokens", sent, "one")
