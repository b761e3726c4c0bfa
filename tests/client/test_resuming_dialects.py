"""Streams of the Responses and Messages dialects survive cuts, with SDKs and without, in Python and JavaScript."""

import json
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from cutting_proxy import cutting, random_cuts
from gateway import in_process
from node import node
from openai import APIError, AsyncOpenAI
from provider import Provider

from server.core.openai.sse import Decoder, Event
from sluiceway import Patience, resuming_http_client
from sluiceway.resumption import Answer, Resumption, can_resume

WORDS = [f"w{n}é☃ " for n in range(150)]
TEXT = "".join(WORDS)
PATIENT = Patience(first_wait=0.01, longest_wait=0.1)
PATHS = ("POST /v1/responses", "POST /v1/messages", "GET /v1/streams/strm_")
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Tell me.", "stream": True},
    "/v1/messages": {"messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 1000, "stream": True},
}


def texts(events: list[Event]) -> str:
    """The text of a stream of either dialect."""
    payloads = [json.loads(event.data) for event in events if event.data != b"[DONE]"]
    kinds = ("response.output_text.delta", "content_block_delta")
    deltas = [one["delta"] for one in payloads if one["type"] in kinds]
    return "".join(one if isinstance(one, str) else one.get("text", "") for one in deltas)


def is_whole(events: list[Event]) -> bool:
    """Whether the ids have no gap, and the last event is the one that ends its dialect."""
    ids = [int(event.id) for event in events if event.id is not None]
    return ids == list(range(1, len(ids) + 1)) and (
        events[-1].data == b"[DONE]" if events[0].type == b"response.created" else events[-1].type == b"message_stop"
    )


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_plain_client_survives_cuts(provider: Provider, model: str, path: str) -> None:
    """Every event comes once, in Python and in JavaScript, over connections that are cut at random bytes."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    body = {**REQUESTS[path], "model": model}
    async with in_process(provider.url) as gateway, cutting(gateway.port) as proxy:
        proxy.cuts_of = PATHS
        proxy.cuts = random_cuts(8, seed=5, high=4000)
        async with (
            resuming_http_client(patience=PATIENT) as http,
            http.stream("POST", proxy.root + path, json=body) as response,
        ):
            received = await response.aread()
        assert proxy.made == 8
        proxy.cuts = random_cuts(8, seed=6, high=4000)
        said = await node("plain_events.mjs", proxy.root + path, json.dumps(body))
        assert proxy.made == 16
    events = Decoder().feed(received)
    assert is_whole(events)
    assert texts(events) == TEXT
    others = [Event(one["type"].encode(), one["data"].encode(), one["id"].encode()) for one in said["events"]]
    assert is_whole(others)
    assert texts(others) == TEXT
    assert len(await provider.seen(model)) == 2


async def test_openais_sdk_at_responses(provider: Provider, model: str) -> None:
    """The SDK's stream goes on, and its last event has the whole response."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port) as proxy:
        proxy.cuts_of = PATHS
        proxy.cuts = random_cuts(8, seed=7, high=4000)
        http = resuming_http_client(patience=PATIENT)
        client = AsyncOpenAI(base_url=f"{proxy.root}/v1", api_key="none", max_retries=0, http_client=http)
        stream = await client.responses.create(model=model, input="Tell me.", stream=True)
        events = [event async for event in stream]
        assert proxy.made == 8
        await client.close()
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == TEXT


async def test_anthropics_sdk(provider: Provider, model: str) -> None:
    """The helper of the SDK gives the whole text, from one generation."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port) as proxy:
        proxy.cuts_of = PATHS
        proxy.cuts = random_cuts(8, seed=8, high=4000)
        http = resuming_http_client(patience=PATIENT)
        client = AsyncAnthropic(base_url=proxy.root, api_key="none", max_retries=0, http_client=http)
        message = [{"role": "user", "content": "Tell me."}]
        async with client.messages.stream(model=model, max_tokens=1000, messages=message) as stream:
            told = "".join([text async for text in stream.text_stream])
        assert proxy.made == 8
        await client.close()
    assert told == TEXT
    assert len(await provider.seen(model)) == 1


async def test_a_lost_response_is_an_error_of_the_sdk(provider: Provider, model: str) -> None:
    """If the gateway does not come back, the SDK raises its APIError with the code `stream_lost`."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    patience = Patience(first_wait=0.01, longest_wait=0.02, give_up_after=0.2)
    async with in_process(provider.url) as gateway, cutting(gateway.port) as proxy:
        http = resuming_http_client(patience=patience)
        client = AsyncOpenAI(base_url=f"{proxy.root}/v1", api_key="none", max_retries=0, http_client=http)
        stream = await client.responses.create(model=model, input="Tell me.", stream=True)
        while (await anext(stream)).type != "response.output_text.delta":
            pass
        proxy.to_port = 9  # nobody listens there
        proxy.drop()
        with pytest.raises(APIError) as raised:
            [event async for event in stream]
        await client.close()
    assert raised.value.code == "stream_lost"


ENDINGS = [
    # dialect of the request, the last event, whether it ends the stream
    ("/v1/chat/completions", b"id: 1\ndata: [DONE]\n\n", True),
    ("/v1/chat/completions", b'id: 1\ndata: {"error": {"code": "x"}}\n\n', True),
    ("/api/stream", b'event: error\nid: 1\ndata: {"code": "x"}\n\n', False),
    ("/api/stream", b"event: done\nid: 1\ndata: {}\n\n", True),
    ("/v1/responses", b"event: response.completed\nid: 1\ndata: {}\n\n", False),
    ("/v1/responses", b'event: error\nid: 1\ndata: {"error": {}}\n\n', False),
    ("/v1/responses", b'event: error\ndata: {"error": {}}\n\n', True),
    ("/v1/responses", b"id: 1\ndata: [DONE]\n\n", True),
    ("/v1/messages", b"event: message_delta\nid: 1\ndata: {}\n\n", False),
    ("/v1/messages", b"event: message_stop\nid: 1\ndata: {}\n\n", True),
    ("/v1/messages", b'event: error\nid: 1\ndata: {"error": {}}\n\n', True),
    ("/v1/messages", b"event: done\nid: 1\ndata: {}\n\n", False),
]


@pytest.mark.parametrize(("path", "event", "ends"), ENDINGS)
def test_what_ends_a_stream(path: str, event: bytes, ends: bool) -> None:
    """Each dialect has its own last event. After any other one, an end of the body is a cut."""
    request = httpx2.Request("POST", f"http://gateway{path}", json={}, headers={"X-On-Disconnect": "continue"})
    assert can_resume(request)
    resumption = Resumption(request, PATIENT)
    response = httpx2.Response(200, headers={"content-type": "text/event-stream", "x-stream-id": "strm_1"})
    assert resumption.answer(response) is Answer.STREAM
    assert resumption.feed(event) == event
    assert resumption.ended is ends
    url = str(resumption.resume_request().url)
    assert url == "http://gateway/v1/streams/strm_1" + ("?format=native" if path == "/api/stream" else "")
    resumption.ended = False
    [*_, last] = Decoder().feed(resumption.give_up())
    assert b"stream_lost" in last.data
    assert last.type == {"/api/stream": b"done", "/v1/chat/completions": b""}.get(path, b"error")
