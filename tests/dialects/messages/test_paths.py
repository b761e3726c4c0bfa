"""`/v1/messages` as Anthropic's own Python SDK sees it, unmodified: answers, tools, thinking, errors."""

import hashlib
import json
from typing import Any

import anthropic
import messages
import pytest
import wire
from gateway import in_process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TOOLS: Any = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}]
SAID: Any = [{"role": "user", "content": "Say it."}]
CALLS = [{"id": "c1", "name": "look", "arguments": {"at": "the gate"}}, {"id": "c2", "name": "look", "arguments": {}}]
SCRIPT = {"reasoning": ["I ", "see."], "text": "Let me look.", "tool_calls": CALLS, "interleave": True}
KEY = "secret-key"


def client_of(root: str, key: str = "none") -> anthropic.AsyncAnthropic:
    """Return a client without retries of its own."""
    return anthropic.AsyncAnthropic(base_url=root, api_key=key, max_retries=0)


def check_message(message: anthropic.types.Message) -> None:
    """Check the message that `SCRIPT` makes."""
    thought, said, *calls = message.content
    assert isinstance(thought, anthropic.types.ThinkingBlock)
    assert (thought.thinking, thought.signature) == ("I see.", "")
    assert isinstance(said, anthropic.types.TextBlock)
    assert said.text == "Let me look."
    found = [(call.id, call.name, call.input) for call in calls if isinstance(call, anthropic.types.ToolUseBlock)]
    assert found == [("c1", "look", {"at": "the gate"}), ("c2", "look", {})]
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens > 0


async def test_the_stream_helper(provider, gateway, model) -> None:
    """The helper assembles thoughts, text and two calls whose pieces came in turns."""
    await provider.script(model, SCRIPT)
    async with client_of(gateway.root) as client:
        stream = client.messages.stream(model=model, max_tokens=100, messages=SAID, tools=TOOLS)
        async with stream as events:
            texts = [text async for text in events.text_stream]
            message = await events.get_final_message()
    assert "".join(texts) == "Let me look."
    check_message(message)


async def test_the_raw_stream(provider, gateway, model) -> None:
    """The events come one by one, as the API reference has them."""
    await provider.script(model, {"text": "One two"})
    async with client_of(gateway.root) as client:
        stream = await client.messages.create(model=model, max_tokens=100, messages=SAID, stream=True)
        kinds = [event.type async for event in stream]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_not_streamed(provider, gateway, model) -> None:
    """A request that does not stream gets a whole message."""
    await provider.script(model, SCRIPT)
    async with client_of(gateway.root) as client:
        message = await client.messages.create(model=model, max_tokens=100, messages=SAID, tools=TOOLS)
    check_message(message)


async def test_a_conversation_with_a_tool(provider, gateway, model) -> None:
    """What the SDK sends back, thoughts, calls and results, arrives at the chat upstream as its own conversation."""
    await provider.script(model, SCRIPT, {"text": "A lock."})
    async with client_of(gateway.root) as client:
        first = await client.messages.create(model=model, max_tokens=100, messages=SAID, tools=TOOLS)
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "a lock"}
            for block in first.content
            if block.type == "tool_use"
        ]
        said = [*SAID, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
        second = await client.messages.create(model=model, max_tokens=100, messages=said, tools=TOOLS)
    assert second.stop_reason == "end_turn"
    asked = (await provider.seen(model))[-1]["body"]
    assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "tool", "tool"]
    assert asked["messages"][1]["reasoning_content"] == "I see."
    assert [call["id"] for call in asked["messages"][1]["tool_calls"]] == ["c1", "c2"]


ERRORS: list[tuple[int, type[anthropic.APIStatusError], str]] = [
    (400, anthropic.BadRequestError, "invalid_request_error"),
    (404, anthropic.NotFoundError, "not_found_error"),
    (413, anthropic.RequestTooLargeError, "request_too_large"),
    (429, anthropic.RateLimitError, "rate_limit_error"),
    (500, anthropic.InternalServerError, "api_error"),
    (503, anthropic.ServiceUnavailableError, "overloaded_error"),
    (529, anthropic.OverloadedError, "overloaded_error"),
]


@pytest.mark.parametrize("stream", [True, False])
async def test_errors_of_upstreams(provider, gateway, model, stream: bool) -> None:
    """Each status of an upstream is an error of its class in the SDK, with Anthropic's type and its own words."""
    await provider.script(model, *({"status": status, "error": {"message": f"no {status}"}} for status, _, _ in ERRORS))
    async with client_of(gateway.root) as client:
        for status, kind, name in ERRORS:
            with pytest.raises(anthropic.APIStatusError) as caught:
                await client.messages.create(model=model, max_tokens=9, messages=SAID, stream=stream)
            error = caught.value
            assert isinstance(error, kind)
            assert isinstance(error.body, dict)
            assert (error.body["type"], error.body["error"]["type"]) == ("error", name)
            assert error.body["error"]["message"] == f"no {status}"
            assert error.body["request_id"] == error.response.headers["x-request-id"] == error.request_id


async def test_an_error_in_the_stream(provider, gateway, model) -> None:
    """A failure after the first token is an error of the SDK as well, not a silent end."""
    await provider.script(model, {"text": "One two three", "cut_after": 2})
    heard: list[str] = []

    async def listen() -> None:
        client = client_of(gateway.root)
        async with client, client.messages.stream(model=model, max_tokens=9, messages=SAID) as stream:
            async for text in stream.text_stream:
                heard.append(text)  # noqa: PERF401 — the error must not take along what came before it

    with pytest.raises(anthropic.APIStatusError) as caught:
        await listen()
    assert heard == ["One ", "two "]
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "api_error"


async def test_our_own_rejections(provider, model) -> None:
    """What the gateway itself refuses on these paths has Anthropic's shape, whoever refuses it."""
    key = {"name": "a", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    models = [{"name": model, "targets": ["local/*"]}]
    good = {"x-api-key": KEY}
    body = messages.body(model)
    cases = [
        ("POST", "/v1/messages", body, {}, 401, "authentication_error"),
        ("POST", "/v1/messages/count_tokens", body, {"x-api-key": "wrong"}, 401, "authentication_error"),
        ("POST", "/v1/messages", {**body, "model": "none"}, good, 404, "not_found_error"),
        ("POST", "/v1/messages/count_tokens", {**body, "model": "none"}, good, 404, "not_found_error"),
        ("POST", "/v1/messages", b"{", good, 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"[]", good, 400, "invalid_request_error"),
        ("POST", "/v1/messages", {**body, "max_tokens": None}, good, 400, "invalid_request_error"),
        ("POST", "/v1/messages", {**body, "system": "x" * 3000}, good, 413, "request_too_large"),
        ("POST", "/v1/messages", body, {**good, "Content-Type": "text/plain"}, 415, "invalid_request_error"),
        ("POST", "/v1/messages", body, {**good, "anthropic-beta": "é"}, 400, "invalid_request_error"),
        ("POST", "/v1/messages", body, {**good, "X-On-Disconnect": "x"}, 400, "invalid_request_error"),
        ("GET", "/v1/messages", None, good, 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", body, good, 404, "not_found_error"),
    ]
    async with in_process(provider.url, models=models, keys=[key], server={"max_body_bytes": 2000}) as gateway:
        for method, path, sent, headers, status, kind in cases:
            answer = await wire.call(gateway.root, method, path, sent, headers)
            assert answer.status == status, (path, answer.body)
            assert answer.json["type"] == "error"
            assert answer.json["error"]["type"] == kind
            assert answer.json["request_id"] == answer.headers["x-request-id"] == answer.headers["request-id"]
        async with client_of(gateway.root, KEY) as client:
            assert (await client.messages.create(model=model, max_tokens=9, messages=SAID)).content


async def test_what_cannot_be_said(provider, gateway, model) -> None:
    """A tool that Anthropic would run is refused by its place, and the upstream is not asked."""
    tools: Any = [*TOOLS, {"type": "web_search_20250305", "name": "web_search"}]
    async with client_of(gateway.root) as client:
        with pytest.raises(anthropic.BadRequestError, match=r"tools\.1\.type: "):
            await client.messages.create(model=model, max_tokens=9, messages=SAID, tools=tools)
    assert await provider.seen(model) == []


async def test_long_names_of_tools(provider, gateway, model) -> None:
    """A tool whose name is too long for a chat completion is called by the name that the client knows."""
    name = "mcp__a_server_with_a_long_name__" + "x" * 60
    async with client_of(gateway.root) as client:
        tools: Any = [{"name": name, "input_schema": {"type": "object"}}]
        await client.messages.create(model=model, max_tokens=9, messages=SAID, tools=tools)
        asked = (await provider.seen(model))[-1]["body"]
        short = asked["tools"][0]["function"]["name"]
        await provider.script(model, {"tool_calls": [{"name": short, "arguments": {}}]})
        whole = await client.messages.create(model=model, max_tokens=9, messages=SAID, tools=tools)
        async with client.messages.stream(model=model, max_tokens=9, messages=SAID, tools=tools) as stream:
            streamed = await stream.get_final_message()
    assert len(short) == 64
    assert [message.content[0].name for message in (whole, streamed)] == [name, name]


async def test_counting_tokens(gateway, model) -> None:
    """Without an upstream that counts, the count is an estimate, and says so."""
    sent = {"model": model, "messages": [{"role": "user", "content": "x" * 400}], "system": "y" * 40}
    answer = await wire.call(gateway.root, "POST", "/v1/messages/count_tokens?beta=true", sent)
    assert (answer.status, answer.json) == (200, {"input_tokens": 110})
    assert answer.headers["x-sluiceway-estimated"] == "true"
    async with client_of(gateway.root) as client:
        count = await client.messages.count_tokens(model=model, messages=SAID, tools=TOOLS)
    assert count.input_tokens > 10


async def test_a_look_at_the_server(gateway) -> None:
    """Claude Code asks for the head of `/` before its first request."""
    async with wire.Client(gateway.root) as client:
        await client.ask("HEAD", "/")
        status, _ = await client.head()
    assert status == 200


async def test_the_headers_of_a_stream(provider, gateway, model) -> None:
    """The stream names itself, and the request under Anthropic's name as well."""
    await provider.script(model, {"text": "Yes."})
    answer = await messages.ask(gateway.root, model)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-stream-id"].startswith("strm_")
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert messages.data(answer.events)[0]["message"]["id"] == "msg_" + answer.headers["x-stream-id"][5:]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(list(messages.body("m"))) | st.text(max_size=8), JSON, max_size=4))
async def test_no_request_is_an_error_of_ours(gateway, model, fields: dict[str, Any]) -> None:
    """Whatever is sent, the answer is a stream, or a 4xx in Anthropic's shape."""
    sent = json.dumps({**messages.body(model), "stream": False, **fields}).encode()
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = await wire.call(gateway.root, "POST", path, sent)
        assert answer.status < 500, answer.body
        assert answer.status == 200 or answer.json["error"]["type"] in ("invalid_request_error", "not_found_error")
