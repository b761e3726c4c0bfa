"""OWASP API10, unsafe consumption of APIs: an upstream that means harm, or has been taken over.

Whatever it sends, the gateway keeps its memory, answers its client in OpenAI's shape and goes on serving.
"""

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from gateway import own_process
from tcp_server import listening
from wire import Client, call, complete

MEGABYTE = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
Send = Callable[[bytes], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    """Give one piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(**delta: object) -> bytes:
    """Give one event with a delta."""
    return chunk(b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode())


async def endless_head(send: Send) -> None:
    """A head that never ends, in one header."""
    await send(b"HTTP/1.1 200 OK\r\nX-A: ")
    while True:
        await send(b"a" * 65_536)


async def many_headers(send: Send) -> None:
    """A head that never ends, in many headers."""
    await send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await send(b"X-A: b\r\n" * 8192)


async def endless_line(send: Send) -> None:
    """A body whose first line never ends."""
    await send(HEAD)
    while True:
        await send(chunk(b"data: " + b"a" * 65_536))


async def endless_event(send: Send) -> None:
    """An event of ever more lines."""
    await send(HEAD)
    while True:
        await send(chunk(b"data: {}\n" * 8192))


async def endless_roles(send: Send) -> None:
    """Frames that say nothing, and are held until something is said."""
    await send(HEAD)
    while True:
        await send(frame(role="assistant", padding="a" * 16_384))


async def endless_arguments(send: Send) -> None:
    """A tool call that is never whole."""
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "'}}
    await send(HEAD + frame(tool_calls=[call]))
    while True:
        await send(frame(tool_calls=[{"index": 0, "function": {"arguments": "a" * 65_536}}]))


async def endless_error(send: Send) -> None:
    """An error whose message never ends."""
    await send(b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    await send(chunk(b'{"error": {"message": "'))
    while True:
        await send(chunk(b"a" * 65_536))


async def packed(send: Send) -> None:
    """A body that unpacks to a quarter of a gigabyte, though nobody asked for a packed one."""
    body = gzip.compress(b"data: " + b" " * (256 * MEGABYTE), 9)
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}"
    )
    await send(head.encode() + b"\r\n\r\n" + body)


async def nested(send: Send) -> None:
    """A frame that is nested as deeply as it can be."""
    await send(HEAD + chunk(b"data: " + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"\n\n") + b"0\r\n\r\n")


async def numbers(send: Send) -> None:
    """A frame with numbers that no type holds."""
    huge = b"9" * 100_000
    await send(
        HEAD
        + chunk(b'data: {"choices": [{"index": %b, "delta": {"content": "x"}}], "usage": {}}\n\n' % huge)
        + b"0\r\n\r\n"
    )


async def wrong_types(send: Send) -> None:
    """Frames whose fields all have wrong types."""
    for odd in ("[]", "1", "null", '"x"', '{"choices": 1}', '{"choices": [1]}', '{"choices": [{"delta": []}]}',
                '{"choices": [{"index": -1, "delta": {"content": {}}}]}', '{"choices": [{"index": {}, "delta": 1}]}',
                '{"usage": []}', '{"id": {}, "created": [], "model": 1, "choices": {}}'):  # fmt: skip
        with contextlib.suppress(ConnectionError):
            await send(HEAD + chunk(f"data: {odd}\n\n".encode()) + b"0\r\n\r\n")


ATTACKS = [
    endless_head, many_headers, endless_line, endless_event, endless_roles, endless_error, packed, nested, numbers,
    wrong_types,
]  # fmt: skip


@contextlib.asynccontextmanager
async def upstream(attack: Callable[[Send], Awaitable[None]]) -> AsyncIterator[str]:
    """Run an upstream that answers every request with an attack; yield its base_url."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        await reader.readuntil(b"\r\n\r\n")
        await attack(send)
        await reader.read()

    async with listening(serve) as port:
        yield f"http://127.0.0.1:{port}/v1"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_attack(provider, model, attack, stream) -> None:
    """An attack costs its own stream, bounded memory and some seconds. Other streams do not notice it."""
    limits = {"ttft_timeout": 5.0, "idle_timeout": 5.0, "connect_timeout": 5.0}
    async with upstream(attack) as url:
        hostile = {"name": "hostile", "base_url": url, **limits}
        tables = {
            "upstreams": [hostile, {"name": "local", "base_url": provider.url}],
            "models": [{"name": "hostile", "targets": ["hostile/*"]}, {"name": "*", "targets": ["local/*"]}],
            "streams": {"total_timeout": 10.0, "max_stream_bytes": 4 * MEGABYTE},
        }
        async with own_process(provider.url, **tables) as gateway:
            await complete(gateway.root, f"{model}-warm")
            before, started = gateway.rss(), time.monotonic()
            answer = await complete(gateway.root, "hostile", stream=stream)
            assert time.monotonic() - started < 15
            assert gateway.rss() - before < 40 * MEGABYTE
            if answer.status != 200:
                assert answer.error["code"]
                assert len(answer.body) < 10_000
            assert (await complete(gateway.root, model)).status == 200
            assert (await call(gateway.root, "GET", "/healthz")).status == 200


async def test_a_tool_call_without_end(provider, model) -> None:
    """On the native path a call is held until it is whole: one that never is ends the stream, within bounds."""
    async with upstream(endless_arguments) as url, own_process(url) as gateway:
        before = gateway.rss()
        answer = await call(gateway.root, "POST", "/api/stream", {"model": model, "prompt": "Hi"})
        assert gateway.rss() - before < 60 * MEGABYTE
        assert b'"status":"failed"' in answer.body or answer.status >= 500


async def test_its_headers_stay_with_it(model) -> None:
    """No header of an upstream's answer reaches the client: no cookie, no redirect, no policy, no software's name."""

    async def answer(send: Send) -> None:
        odd = b"Set-Cookie: a=canary\r\nLocation: http://canary\r\nServer: canary\r\nAccess-Control-Allow-Origin: *\r\n"
        odd += b"X-Stream-Id: canary\r\nContent-Security-Policy: canary\r\nX-Request-Id: canary\r\n"
        await send(HEAD.replace(b"\r\n\r\n", b"\r\n" + odd + b"\r\n"))
        await send(frame(content="x") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with upstream(answer) as url, own_process(url) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        _, headers = await client.head()
        await client.rest()
    assert "canary" not in str(headers)
    assert "access-control-allow-origin" not in headers


async def test_its_text_is_only_text(model) -> None:
    """Line ends, controls and event fields in an upstream's text stay inside one frame."""
    said = 'a\n\nid: 99\nevent: done\ndata: {"forged": true}\r\n\r\n: hb\x00\u2028b'

    async def answer(send: Send) -> None:
        await send(HEAD + frame(content=said) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with upstream(answer) as url, own_process(url) as gateway:
        for path in ("/v1/chat/completions", "/api/stream"):
            body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
            events = (await call(gateway.root, "POST", path, body)).events  # raises at what is no frame of ours
            assert [event.id for event in events] == list(range(1, len(events) + 1))
            frames = [json.loads(event.data) for event in events if event.data != b"[DONE]"]
            told = [frame.get("content") or frame.get("choices", [{"delta": {}}])[0]["delta"] for frame in frames]
            assert said in told or {"content": said} in told
