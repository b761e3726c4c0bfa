"""Heads of answers that are longer than usual: what other clients of the same upstream can read is no garbage."""

import asyncio
import json

import pytest
from gateway import own_process
from tcp_server import listening
from wire import complete, texts

STREAM = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n'
WHOLE = b'{"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}'


def line(name: bytes, size: int) -> bytes:
    """Give a header whose value has `size` bytes."""
    return name + b": " + b"a" * size + b"\r\n"


# A model's name, the start of the head of its answer, and the status for the client.
HEADS = {
    "9000-bytes": (b"HTTP/1.1 200 OK\r\n" + line(b"X-Long", 9_000), 200),
    "aiohttp's-own-bound": (b"HTTP/1.1 200 OK\r\n" + line(b"X-Long", 8_191), 200),
    "a-policy-of-16-KB": (b"HTTP/1.1 200 OK\r\n" + line(b"Content-Security-Policy", 16_384), 200),
    "many-cookies": (b"HTTP/1.1 200 OK\r\n" + line(b"Set-Cookie", 4_096) * 20, 200),
    "60000-bytes": (b"HTTP/1.1 200 OK\r\n" + line(b"X-Long", 60_000), 200),
    "a-long-reason": (b"HTTP/1.1 200 " + b"a" * 9_000 + b"\r\n", 200),
    "a-long-name": (b"HTTP/1.1 200 OK\r\n" + line(b"X-" + b"a" * 9_000, 1), 200),
    "too-much": (b"HTTP/1.1 200 OK\r\n" + line(b"X-Long", 70_000), 502),
    "too-many": (b"HTTP/1.1 200 OK\r\n" + line(b"X-Long", 10) * 200, 502),
}


def fields(body: bytes) -> bytes:
    """Give the headers that every answer has, and the end of the head."""
    return b"Content-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)


@pytest.mark.parametrize("stream", [True, False])
async def test_long_head(stream) -> None:
    """A line of a head is read up to 64 KiB. A longer one costs its own request only."""
    body = STREAM if stream else WHOLE

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = await reader.readuntil(b"\r\n\r\n")
            size = int(asked.lower().partition(b"content-length:")[2].split()[0])
            name = json.loads(await reader.readexactly(size))["model"]
            writer.write(HEADS[name][0] + fields(body) + body)
            await writer.drain()

    async with listening(serve) as port, own_process(f"http://127.0.0.1:{port}/v1") as gateway:
        for name, (_, status) in HEADS.items():
            answer = await complete(gateway.root, name, stream=stream)
            assert answer.status == status, name
            if status != 200:
                assert answer.error["code"] == "upstream_garbage"
            elif stream:
                assert texts(answer.events) == ["x"]
