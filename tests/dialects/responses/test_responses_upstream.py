"""`api = "responses"`: an upstream that speaks Responses, for clients of each dialect, and after a cut."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import strict_responses
import wire
from gateway import InProcess, in_process
from hypothesis import example, given
from hypothesis import strategies as st
from raw_upstream import RawUpstream, refusal
from tcp_server import listening

from server.core.errors import UpstreamError
from server.core.openai.sse import Event
from server.core.wide_json import dumps
from server.dialects.responses.from_chat import responses_body
from server.dialects.responses.request import chat_body
from server.dialects.responses.upstream import ResponsesApi, ResponsesTranslator

TEXT = "Water finds its own level."
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
MESSAGE = {"id": "msg_u", "type": "message", "role": "assistant", "content": [], "status": "in_progress"}
PART = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


@asynccontextmanager
async def chained(provider: Any, **tables: Any) -> AsyncIterator[InProcess]:
    """Run a gateway whose upstream is another gateway, asked in Responses."""
    async with (
        in_process(provider.url) as inner,
        in_process(inner.url, upstream={"api": "responses"}, **tables) as outer,
    ):
        yield outer


@asynccontextmanager
async def before(upstream: RawUpstream, **tables: Any) -> AsyncIterator[InProcess]:
    """Run a gateway before an upstream that speaks Responses."""
    async with (
        listening(upstream.serve) as port,
        in_process(f"http://127.0.0.1:{port}/v1", upstream={"api": "responses"}, **tables) as gateway,
    ):
        yield gateway


def sent(*events: dict[str, Any]) -> bytes:
    """Give the bytes of these events, with their numbers."""
    return HEAD + b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), dumps({**event, "sequence_number": number}))
        for number, event in enumerate(events)
    )


def begun(identity: str = "resp_u") -> dict[str, Any]:
    """Give the event that begins a response."""
    response = {
        "id": identity,
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "in_progress",
        "output": [],
    }
    return {"type": "response.created", "response": response}


def text_at(index: int, *texts: str) -> list[dict[str, Any]]:
    """Give the events that begin a message and say these texts."""
    place = {"item_id": "msg_u", "output_index": index, "content_index": 0}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": MESSAGE},
        {"type": "response.content_part.added", **place, "part": PART},
        *({"type": "response.output_text.delta", **place, "delta": text, "logprobs": []} for text in texts),
    ]


def searched() -> list[dict[str, Any]]:
    """Give the events of a search that the upstream has made."""
    added = {**SEARCH, "status": "in_progress"}
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": added},
        {"type": "response.web_search_call.in_progress", "output_index": 0, "item_id": "ws_1"},
        {"type": "response.web_search_call.completed", "output_index": 0, "item_id": "ws_1"},
        {"type": "response.output_item.done", "output_index": 0, "item": SEARCH},
    ]


def completed(**fields: Any) -> dict[str, Any]:
    """Give the event that ends a response."""
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "input_tokens_details": {"cached_tokens": 1}}
    response = {**begun()["response"], "status": "completed", "usage": usage, **fields}
    return {"type": "response.completed", "response": response}


async def events(root: str, model: str = "m", **fields: Any) -> list[dict[str, Any]]:
    """Ask for a stream; return its events, checked strictly."""
    body = {"model": model, "input": "Say it.", "stream": True, **fields}
    answer = await wire.call(root, "POST", "/v1/responses", body)
    assert answer.status == 200, answer.body
    return strict_responses.events(answer.events)


async def test_events_go_through(provider, model) -> None:
    """Reasoning, texts and calls of every kind go through, with the gateway's own id and numbers."""
    calls = [
        {"index": 0, "id": "c0", "name": "look", "arguments": {"at": "here"}},
        {"index": 1, "id": "c1", "name": "patch", "arguments": {"input": "a\nb"}},
    ]
    await provider.script(model, {"reasoning": ["Hm."], "text": TEXT, "tool_calls": calls})
    tools = [{"type": "function", "name": "look", "parameters": {}}, {"type": "custom", "name": "patch"}]
    async with chained(provider) as gateway:
        found = await events(gateway.root, model, tools=tools)
        plain = await wire.call(gateway.root, "POST", "/v1/responses", {"model": model, "input": "x", "tools": tools})
    output = found[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "custom_tool_call"]
    assert output[1]["content"][0]["text"] == TEXT
    assert (json.loads(output[2]["arguments"]), output[3]["input"]) == ({"at": "here"}, "a\nb")
    assert found[-1]["response"]["usage"]["output_tokens"] > 0
    assert len(strict_responses.resource(plain.json)["output"]) == 4


async def test_hosted_tools_go_through() -> None:
    """Tools and items that no chat upstream has are no concern of the gateway's."""
    upstream = RawUpstream(sent(begun(), *searched(), *text_at(1, "Found ", "it."), completed()))
    source = {"tools": [{"type": "web_search"}], "input": [{"type": "item_reference", "id": "msg_0"}], "top_k": 3}
    async with before(upstream) as gateway:
        found = await events(gateway.root, **source, metadata={"a": "b"})
    assert upstream.bodies == [{"model": "m", **source, "metadata": {"a": "b"}, "stream": True}]
    output = found[-1]["response"]["output"]
    assert output[0] == SEARCH
    assert output[1]["content"][0]["text"] == "Found it."
    assert found[-1]["response"]["usage"]["input_tokens_details"]["cached_tokens"] == 1


async def test_what_the_upstream_settled_on() -> None:
    """The resource shows what the upstream says that it did; identity, state and storage are the gateway's."""
    first, last = begun(), completed(service_tier="flex", temperature=0.5, store=False, previous_response_id="resp_z")
    first["response"] |= {"reasoning": {"effort": "medium", "summary": None}, "temperature": 0.5, "top_p": None}
    upstream = RawUpstream(sent(first, *text_at(0, "Hi."), last))
    async with before(upstream) as gateway:
        found = await events(gateway.root, service_tier="auto")
        again = await wire.call(gateway.root, "GET", f"/v1/responses/{found[-1]['response']['id']}")
    opened, ended = found[0]["response"], found[-1]["response"]
    assert (opened["reasoning"]["effort"], opened["temperature"], opened["top_p"]) == ("medium", 0.5, 1.0)
    assert ended["service_tier"] == "flex"
    assert (ended["reasoning"]["effort"], ended["store"], ended["previous_response_id"]) == ("medium", True, None)
    assert again.json == ended


async def test_a_stored_prompt() -> None:
    """A template that the upstream has needs no input."""
    upstream = RawUpstream(sent(begun(), *text_at(0, "Hi."), completed()))
    async with before(upstream) as gateway:
        body = {"model": "m", "prompt": {"id": "pmpt_1"}, "stream": True}
        answer = await wire.call(gateway.root, "POST", "/v1/responses", body)
    assert strict_responses.events(answer.events)[-1]["response"]["status"] == "completed"
    assert upstream.bodies == [body]


async def test_a_cut_is_not_seen() -> None:
    """After a cut another response is joined to the first one: one text, one id, each item once."""
    upstream = RawUpstream(
        sent(begun("resp_1"), *searched(), *text_at(1, "Found ")),
        sent(begun("resp_2"), *searched(), *text_at(1, "Fou", "nd it", "."), completed()),
    )
    async with before(upstream, recovery={"strategy": "restart", "backoff": 0.0}) as gateway:
        found = await events(gateway.root, tools=[{"type": "web_search"}])
    assert len(upstream.bodies) == 2
    output = found[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["web_search_call", "message"]
    assert output[1]["content"][0]["text"] == "Found it."
    assert found[-1]["response"]["status"] == "completed"


async def test_a_cut_before_a_search(provider) -> None:
    """What a hosted tool does only in the attempt after the cut is told as well."""
    upstream = RawUpstream(
        sent(begun("resp_1"), *text_at(0, "I ")),
        sent(
            begun("resp_2"), *text_at(0, "I ", "look."),
            {"type": "response.output_item.added", "output_index": 1, "item": SEARCH},
            {"type": "response.output_item.done", "output_index": 1, "item": SEARCH}, completed(),
        ),
    )  # fmt: skip
    async with before(upstream, recovery={"strategy": "restart", "backoff": 0.0}) as gateway:
        output = (await events(gateway.root))[-1]["response"]["output"]
    assert output[0]["content"][0]["text"] == "I look."
    assert output[1] == SEARCH


@pytest.mark.parametrize("stream", [True, False])
async def test_a_chat_client(provider, model, stream: bool) -> None:
    """A client of chat completions gets chunks, or a completion: text, reasoning, calls, usage."""
    calls = [{"index": 0, "id": "c0", "name": "look", "arguments": {"at": "here"}}]
    await provider.script(model, {"reasoning": ["Hm."], "text": TEXT, "tool_calls": calls})
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    asked = {
        "stream": stream,
        "tools": tools,
        "max_tokens": 9,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }
    async with chained(provider) as gateway:
        answer = await wire.complete(gateway.root, model, **asked)
    if stream:
        chunks = [json.loads(event.data) for event in answer.events if event.data != b"[DONE]"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        assert "".join(delta.get("content", "") for delta in deltas) == TEXT
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
        told = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert "".join(call["function"].get("name", "") for call in told) == "look"
        assert json.loads("".join(call["function"]["arguments"] for call in told)) == {"at": "here"}
        assert any((chunk.get("usage") or {}).get("completion_tokens") for chunk in chunks)
    else:
        (choice,) = answer.json["choices"]
        assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == (TEXT, "Hm.")
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "look"
        assert choice["finish_reason"] == "tool_calls"
        assert answer.json["usage"]["completion_tokens"] > 0
    assert (await provider.seen(model))[0]["body"]["max_completion_tokens"] == 9


async def test_errors() -> None:
    """An error before the first token keeps its status; one in the stream is told."""
    error = {"code": "server_error", "message": "broken", "param": None, "type": "server_error"}
    refused = refusal(400, dumps({"error": {**error, "type": "invalid_request_error"}}))
    failed = {"type": "response.failed", "response": {**begun()["response"], "status": "failed", "error": error}}
    upstream = RawUpstream(
        refused,
        sent(begun(), *text_at(0, "Hi"), {**error, "type": "error", "error": error}),
        sent(begun(), *text_at(0, "Hi"), failed),
    )
    async with before(upstream) as gateway:
        body = {"model": "m", "input": "x", "stream": True}
        answer = await wire.call(gateway.root, "POST", "/v1/responses", body)
        assert (answer.status, answer.error["message"]) == (400, "broken")
        for _ in range(2):
            *_, told, last = await events(gateway.root)
            assert (told["type"], told["message"]) == ("error", "broken")
            assert last["response"]["error"] == {"code": "server_error", "message": "broken"}


async def test_events_out_of_place() -> None:
    """An upstream whose events make no sense fails the stream, and nothing else."""
    delta = {"type": "response.output_text.delta", "item_id": "x", "output_index": 7, "content_index": 0, "delta": "a"}
    upstream = RawUpstream(
        sent(begun(), *text_at(0, "Hi"), {"type": "response.output_item.added"}), sent(begun(), delta)
    )
    async with before(upstream) as gateway:
        assert (await events(gateway.root))[-1]["response"]["status"] == "failed"
        answer = await wire.call(gateway.root, "POST", "/v1/responses", {"model": "m", "input": "x", "stream": True})
        assert answer.status in (200, 502)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["message", "function_call", "x", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["type", "item", "output_index", "delta", "response", "status", "error", "annotation", "part"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
KINDS = st.sampled_from([
    "response.created", "response.output_item.added", "response.output_item.done", "response.output_text.delta",
    "response.function_call_arguments.delta", "response.custom_tool_call_input.delta", "response.completed",
    "response.failed", "response.output_text.annotation.added", "response.nobody_knows",
])  # fmt: skip


@given(st.lists(st.tuples(KINDS, JUNK), max_size=5))
def test_any_event(found: list[tuple[str, Any]]) -> None:
    """Whatever an upstream sends is read, or is an error of the upstream's."""
    translator = ResponsesTranslator()
    for kind, value in found:
        fields = value if isinstance(value, dict) else {"item": value}
        try:
            pieces = translator.read(Event(b"", dumps({**fields, "type": kind}), None))
        except UpstreamError:
            return
        assert all(isinstance(piece.chunk["choices"], list) for piece in pieces)


@given(JUNK)
@example({"type": "function_call"})
@example({"type": "message", "content": [3]})
def test_any_whole_answer(value: Any) -> None:
    """Whatever an upstream answers is read, or is an error of the upstream's."""
    answer = {"status": "completed", "output": [value], "usage": value}
    try:
        found = ResponsesApi().whole(answer)
    except UpstreamError:
        return
    assert found["choices"]


def test_there_and_back() -> None:
    """A request that was translated from Responses says the same when it is translated back."""
    items = [
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "See."}, {"type": "input_image", "image_url": "u", "detail": "low"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "seen"},
    ]  # fmt: skip
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}
    text = {"verbosity": "low", "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}
    source = {
        "model": "m", "input": items, "tools": [tool], "tool_choice": {"type": "function", "name": "look"},
        "text": text, "max_output_tokens": 5, "reasoning": {"effort": "low"}, "temperature": 0.5,
        "store": False, "stream": True, "parallel_tool_calls": False,
    }  # fmt: skip
    assert responses_body(chat_body(source).body, "m", stream=True) == source
