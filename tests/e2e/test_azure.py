"""Upstreams of Azure's kind: the key in a header of its own, a query on every request, a path before the endpoint."""

import asyncio
import json
import os

import pytest
from gateway import in_process, own_process, settings
from tcp_server import Serve, listening
from wire import complete, texts

KEY = "azure-CANARYKEY-0123456789"
TOKEN = "Basic CANARYTOKEN0123456789"
QUERY_KEY = "CANARYQUERY0123456789"
ENVIRON = {"TEST_AZURE_KEY": KEY, "TEST_AZURE_TOKEN": TOKEN}
BODY = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
# The settings of an upstream, the request line that it gets, and headers: with their values, or None for those that it
# does not get.
UPSTREAMS = {
    "azure": (
        {"path": "/openai/deployments/gpt-4o", "auth": "api-key", "query": {"api-version": "2024-10-21"}},
        "POST /openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21 HTTP/1.1",
        {"api-key": KEY, "authorization": None},
    ),
    "azure's v1": (
        {"path": "/openai/v1", "auth": "api-key"},
        "POST /openai/v1/chat/completions HTTP/1.1",
        {"api-key": KEY, "authorization": None},
    ),
    "a gateway in front": (
        {"path": "/v1", "auth": "x-api-key", "header_env": {"X-Gateway-Token": "TEST_AZURE_TOKEN"}},
        "POST /v1/chat/completions HTTP/1.1",
        {"x-api-key": KEY, "x-gateway-token": TOKEN, "authorization": None},
    ),
    "two tokens": (
        {"path": "/v1", "header_env": {"Proxy-Authorization": "TEST_AZURE_TOKEN", "X-Unset": "TEST_UNSET"}},
        "POST /v1/chat/completions HTTP/1.1",
        {"authorization": f"Bearer {KEY}", "proxy-authorization": TOKEN, "x-unset": None, "api-key": None},
    ),
    "a query that must be encoded": (
        {"path": "/v1", "query": {"key": QUERY_KEY, "a&b": "c d=e%"}},
        f"POST /v1/chat/completions?key={QUERY_KEY}&a%26b=c%20d%3De%25 HTTP/1.1",
        {"authorization": f"Bearer {KEY}"},
    ),
}


def recording(heads: list[str], answer: bytes) -> Serve:
    """Keep the head of each request, and give the same answer to all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(head.lower().partition("content-length:")[2].split()[0]))
            heads.append(head)
            writer.write(answer)
            await writer.drain()

    return serve


def configured(name: str, port: int) -> dict[str, object]:
    """Give the settings of an upstream of the table."""
    upstream = {**UPSTREAMS[name][0], "api_key_env": "TEST_AZURE_KEY"}
    path = upstream.pop("path")
    return {**upstream, "base_url": f"http://127.0.0.1:{port}{path}"}


@pytest.mark.parametrize("name", UPSTREAMS)
async def test_what_the_upstream_gets(name) -> None:
    """The request line and the headers are what such an upstream wants, and the key is in no other header."""
    _, line, headers = UPSTREAMS[name]
    heads: list[str] = []
    async with (
        listening(recording(heads, ANSWER)) as port,
        own_process("", environ=ENVIRON, upstream=configured(name, port)) as gateway,
    ):
        assert texts((await complete(gateway.root, "gpt-4o")).events) == ["x"]
    [head] = heads
    first, *lines = head[:-4].split("\r\n")
    got = {name.lower(): value.strip() for name, value in (one.split(":", 1) for one in lines)}
    assert first.replace("+", "%20") == line  # both are a space in a query
    assert {name: got.get(name) for name in headers} == headers
    assert head.count(KEY) == 1


async def test_what_an_upstream_quotes_is_hidden() -> None:
    """No secret that was sent reaches the client, in whatever part of the request it was. A version may be quoted."""
    query = {"api-version": "2024-10-21", "key": QUERY_KEY}
    words = f"bad key {KEY}, header {TOKEN}, token {TOKEN.split()[1]}, query {QUERY_KEY}, version 2024-10-21"
    body = json.dumps({"error": {"message": words}}).encode()
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with listening(recording([], answer + body)) as port:
        upstream = {**configured("a gateway in front", port), "query": query}
        async with own_process("", environ=ENVIRON, upstream=upstream) as gateway:
            told = await complete(gateway.root, "gpt-4o")
    assert told.status == 400
    assert b"CANARY" not in told.body
    hidden = "bad key [hidden], header [hidden], token [hidden], query [hidden], version 2024-10-21"
    assert told.error["message"] == hidden


async def test_a_reload_notices(monkeypatch) -> None:
    """Another query, another way to send the key, and another value of a variable are taken by a reload."""
    heads: list[str] = []
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    async with listening(recording(heads, ANSWER)) as port:
        upstream = configured("azure", port)
        async with in_process("", upstream=upstream) as gateway:

            async def asked(**changes: object) -> str:
                upstream.update(changes)
                await gateway.app.reload(settings("", upstream=upstream), os.environ)
                assert (await complete(gateway.root, "m")).status == 200
                return heads[-1].lower()

            assert "?api-version=2025-01-01 " in await asked(query={"api-version": "2025-01-01"})
            assert f"x-api-key: {KEY.lower()}" in await asked(auth="x-api-key")
            assert f"x-more: {TOKEN.lower()}" in await asked(header_env={"X-More": "TEST_AZURE_TOKEN"})
            monkeypatch.setenv("TEST_AZURE_TOKEN", "another")
            assert "x-more: another\r\n" in await asked()
