"""POST /v1/responses on real sockets: streams, JSON, errors, disconnects, other dialects, recovery."""

import asyncio
import json
from typing import Any

import openai
import pytest
import strict_responses
import wire
from cutting_proxy import cutting, random_cuts
from gateway import in_process
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from server.dialects.responses.request import FIELDS
from sluiceway import Patience, resuming_http_client

TEXT = "Water finds its own level."
TWO = [{"name": "pair", "targets": ["local/one", "local/two"]}]


async def respond(root: str, model: str, *, headers: Any = None, **fields: Any) -> wire.Answer:
    """Ask for a response and read the whole answer."""
    return await wire.call(root, "POST", "/v1/responses", {"model": model, "input": "Say it.", **fields}, headers)


async def events(root: str, model: str, **fields: Any) -> list[dict[str, Any]]:
    """Ask for a stream; return its events, checked strictly."""
    answer = await respond(root, model, stream=True, **fields)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return strict_responses.events(answer.events)


async def test_a_stream(provider, model, gateway) -> None:
    """A stream has OpenAI's events, each with the number of its record, and `[DONE]`."""
    await provider.script(model, {"reasoning": ["I ", "think."], "text": TEXT})
    found = await events(gateway.root, model, instructions="Be brief.", metadata={"a": "b"})
    response = found[-1]["response"]
    assert response["status"] == "completed"
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][1]["content"][0]["text"] == TEXT
    assert response["usage"]["output_tokens"] == 7
    assert (response["instructions"], response["metadata"], response["model"]) == ("Be brief.", {"a": "b"}, model)
    (seen,) = await provider.seen(model)
    assert seen["body"]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert seen["body"]["stream_options"] == {"include_usage": True}


async def test_json(provider, model, gateway) -> None:
    """Without `stream` the answer is the resource. The upstream streams all the same, so that a cut is recovered."""
    await provider.script(model, {"text": TEXT})
    answer = await respond(gateway.root, model)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    response = strict_responses.resource(answer.json)
    assert response["id"] == answer.headers["x-stream-id"].replace("strm_", "resp_")
    assert response["output"][0]["content"][0]["text"] == TEXT
    (seen,) = await provider.seen(model)
    assert seen["body"]["stream"] is True


async def test_json_of_a_long_answer(provider, model) -> None:
    """An answer that is larger than the lag of a reader may be does not wait for its client, who gets it whole."""
    await provider.script(model, {"tokens": 3000})
    async with in_process(provider.url, flow={"max_lag_bytes": 4096}) as gateway:
        answer = await respond(gateway.root, model)
    assert answer.json["usage"]["output_tokens"] == 3000


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_before_the_first_token(provider, model, gateway, stream: bool) -> None:
    """A failure before the first token has its HTTP status and OpenAI's error object."""
    error = {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    await provider.script(model, {"status": 429, "error": error})
    answer = await respond(gateway.root, model, stream=stream)
    assert answer.status == 429
    assert answer.error.items() >= error.items()
    assert answer.headers["x-stream-id"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": [{"type": "nobody_knows"}]}, "input[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
async def test_bad_requests(gateway, model, fields: dict[str, Any], param: str) -> None:
    """Bad input is 400 in OpenAI's shape, with the field."""
    answer = await respond(gateway.root, model, **fields)
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "invalid_request_error", param)
    assert answer.error.keys() == {"message", "type", "param", "code"}


async def test_a_cut_that_cannot_be_recovered(provider, model, gateway) -> None:
    """A failure in the stream is an `error` and `response.failed`, with the text so far."""
    await provider.script(model, {"text": TEXT, "cut_after": 2})
    found = await events(gateway.root, model)
    error, failed = found[-2:]
    assert (error["type"], error["code"], error["error"]["code"]) == ("error", "upstream_cut", "upstream_cut")
    response = failed["response"]
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["output"][0]["content"][0]["text"] == "Water finds "
    assert response["output"][0]["status"] == "incomplete"


async def test_json_of_a_cut(provider, model, gateway) -> None:
    """Without `stream` a failure after the first token is a resource that says so."""
    await provider.script(model, {"text": TEXT, "cut_after": 2})
    response = strict_responses.resource((await respond(gateway.root, model)).json)
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_is_not_seen(provider, model, stream: bool) -> None:
    """A cut that is recovered leaves no trace: one text, contiguous numbers, the same ids."""
    await provider.script("one", {"reasoning": ["Hm."], "text": TEXT, "cut_after": 3})
    await provider.script("two", {"reasoning": ["Hm."], "text": TEXT})
    async with in_process(provider.url, recovery={"strategy": "restart"}, models=TWO) as gateway:
        if stream:
            response = (await events(gateway.root, "pair"))[-1]["response"]
        else:
            response = strict_responses.resource((await respond(gateway.root, "pair")).json)
    assert response["status"] == "completed"
    assert [item["content"][0]["text"] for item in response["output"]] == ["Hm.", TEXT]


async def test_incomplete(provider, model, gateway) -> None:
    """A limit ends the stream with `response.incomplete` and its reason."""
    await provider.script(model, {"text": TEXT, "finish": "length"})
    found = await events(gateway.root, model, max_output_tokens=5)
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found[-1]["response"]["max_output_tokens"] == 5


async def test_calls(provider, model, gateway) -> None:
    """Parallel calls of functions and custom tools, interleaved by the upstream, are whole."""
    calls = [
        {"index": 0, "id": "c0", "name": "look", "arguments": {"at": "here"}},
        {"index": 1, "id": "c1", "name": "patch", "arguments": {"input": 'a "b"\nc'}},
    ]
    await provider.script(model, {"tool_calls": calls, "interleave": True, "tool_piece": 3})
    tools = [{"type": "function", "name": "look", "parameters": {}}, {"type": "custom", "name": "patch"}]
    output = (await events(gateway.root, model, tools=tools))[-1]["response"]["output"]
    assert json.loads(output[0]["arguments"]) == {"at": "here"}
    assert (output[1]["type"], output[1]["input"]) == ("custom_tool_call", 'a "b"\nc')


async def test_a_client_that_leaves_cancels(provider, model, gateway) -> None:
    """A client that hangs up before its answer is whole cancels the upstream, whether it reads a stream or waits."""
    await provider.script(model, {"text": TEXT, "stall_after": 2})
    for stream in (True, False):
        await provider.clear()
        async with wire.Client(gateway.root) as client:
            await client.ask("POST", "/v1/responses", {"model": model, "input": "Say it.", "stream": stream})
            await wire.until(lambda: provider.seen(model))
        await provider.closed(model)
        await gateway.idle()


async def test_a_stream_that_was_aborted(provider, model, gateway) -> None:
    """An aborted stream ends with `response.failed`, whose status is `cancelled`."""
    await provider.script(model, {"text": TEXT, "stall_after": 2})
    async with wire.Client(gateway.root) as client:
        await client.ask("POST", "/v1/responses", {"model": model, "input": "Say it.", "stream": True})
        _, headers = await client.head()
        assert (await wire.call(gateway.root, "DELETE", f"/v1/streams/{headers['x-stream-id']}")).status == 204
        found = strict_responses.events(await client.rest())
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["status"] == "cancelled"
    assert all(event["type"] != "error" for event in found)


async def test_resumed_at_every_record(provider, model, gateway) -> None:
    """Read again from any record, the stream is the rest of what it was."""
    await provider.script(model, {"reasoning": ["Hm."], "text": TEXT})
    answer = await respond(gateway.root, model, stream=True)
    whole = answer.events
    path = f"/v1/streams/{answer.headers['x-stream-id']}"
    for after in range(len(whole)):
        assert (await wire.call(gateway.root, "GET", f"{path}?after={after}")).events == whole[after:]


async def test_in_other_dialects(provider, model, gateway) -> None:
    """A response can be read as chat chunks, and a chat completion as a response."""
    await provider.script(model, {"reasoning": ["Hm."], "text": TEXT})
    created = await respond(gateway.root, model, stream=True)
    as_chat = await wire.call(gateway.root, "GET", f"/v1/streams/{created.headers['x-stream-id']}?format=chat")
    assert "".join(wire.texts(as_chat.events)) == TEXT
    completed = await wire.complete(gateway.root, model, temperature=0.5)
    path = f"/v1/streams/{completed.headers['x-stream-id']}?format=responses"
    shown = await wire.call(gateway.root, "GET", path)
    datas = [json.loads(event.data) for event in shown.events if event.data != b"[DONE]"]
    response = strict_responses.sequence(datas)[-1]["response"]
    assert response["output"][1]["content"][0]["text"] == TEXT
    assert response["temperature"] == 0.5


async def test_concurrent_requests(provider, model, gateway) -> None:
    """Streams that run side by side do not mix."""
    await provider.script(model, {"text": TEXT, "rate": 200})
    found = await asyncio.gather(*(events(gateway.root, model) for _ in range(20)))
    assert len({stream[0]["response"]["id"] for stream in found}) == 20
    assert {stream[-1]["response"]["output"][0]["content"][0]["text"] for stream in found} == {TEXT}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ITEM = st.fixed_dictionaries({}, optional={"type": ANY, "role": ANY, "content": ANY, "id": ANY, "call_id": ANY})
REQUEST = st.fixed_dictionaries(
    {"input": st.lists(ITEM, max_size=3) | ANY}, optional=dict.fromkeys(FIELDS.keys() - {"input"}, ANY)
)


@settings(max_examples=8)
@given(requests=st.lists(REQUEST, min_size=10, max_size=10))
async def test_anything_that_can_be_sent(requests: list[dict[str, Any]]) -> None:
    """Whatever is sent is 400 in OpenAI's shape, or goes to the upstream, which is not there: never 500."""
    async with in_process("http://127.0.0.1:1/v1") as gateway:
        for fields in requests:
            answer = await wire.call(gateway.root, "POST", "/v1/responses", {**fields, "model": "m"})
            assert answer.status in (400, 502), answer.body
            assert answer.error["message"]


# --- OpenAI's own SDK ------------------------------------------------------------------------------------------------


class Place(BaseModel):
    """What the model answers with."""

    city: str


async def test_openai_sdk(provider, model, gateway) -> None:
    """OpenAI's SDK creates, streams and parses."""
    await provider.script(model, {"text": '{"city": "Ghent"}'})
    async with openai.AsyncOpenAI(base_url=gateway.url, api_key="x", max_retries=0) as client:
        response = await client.responses.create(model=model, input="Where?")
        assert response.output_text == '{"city": "Ghent"}'
        stream = await client.responses.create(model=model, input="Where?", stream=True)
        found = [event async for event in stream]
        assert [event.sequence_number for event in found] == list(range(len(found)))
        async with client.responses.stream(model=model, input="Where?", text_format=Place) as helper:
            final = await helper.get_final_response()
        assert final.output_parsed == Place(city="Ghent")
        parsed = await client.responses.parse(model=model, input="Where?", text_format=Place)
        assert parsed.output_parsed == Place(city="Ghent")
    assert (await provider.seen(model))[-1]["body"]["response_format"]["json_schema"]["name"] == "Place"


async def test_openai_sdk_with_tools(provider, model, gateway) -> None:
    """A turn with a call of OpenAI's SDK: the call, its output, the answer."""
    call = {"index": 0, "id": "c0", "name": "look", "arguments": {"at": "here"}}
    await provider.script(model, {"reasoning": ["Hm."], "tool_calls": [call]}, {"text": TEXT})
    tools: Any = [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}]
    async with openai.AsyncOpenAI(base_url=gateway.url, api_key="x", max_retries=0) as client:
        async with client.responses.stream(model=model, input="Look.", tools=tools) as helper:
            first = await helper.get_final_response()
        items: Any = [{"role": "user", "content": "Look."}, *(item.to_dict() for item in first.output)]
        items.append({"type": "function_call_output", "call_id": "c0", "output": "seen"})
        second = await client.responses.create(model=model, input=items, tools=tools)
    assert second.output_text == TEXT
    assert [message["role"] for message in (await provider.seen(model))[-1]["body"]["messages"]] == [
        "user", "assistant", "tool",
    ]  # fmt: skip


async def test_openai_sdk_sees_a_failure(provider, model, gateway) -> None:
    """OpenAI's SDK raises when a stream fails."""
    await provider.script(model, {"text": TEXT, "cut_after": 2})
    async with openai.AsyncOpenAI(base_url=gateway.url, api_key="x", max_retries=0) as client:
        stream = await client.responses.create(model=model, input="Say it.", stream=True)
        with pytest.raises(openai.APIError, match="stream"):
            [event async for event in stream]


async def test_openai_sdk_survives_cuts(provider, model, gateway) -> None:
    """Over the resuming client, OpenAI's SDK gets every event once, although its connection is cut at random bytes."""
    text = " ".join(f"w{n}é☃" for n in range(100))
    await provider.script(model, {"text": text, "rate": 400})
    quick = Patience(first_wait=0.01, longest_wait=0.1, give_up_after=10.0)
    async with (
        cutting(gateway.port, random_cuts(12, seed=4)) as proxy,
        resuming_http_client(base_url=proxy.url, patience=quick) as http,
    ):
        client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
        stream = await client.responses.create(model=model, input="Say it.", stream=True)
        found = [event async for event in stream]
        assert proxy.made == 12
    assert [event.sequence_number for event in found] == list(range(len(found)))
    assert found[-1].response.output_text == text
    assert len(await provider.seen(model)) == 1
