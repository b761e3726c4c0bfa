"""Headers of the upstream's answer that reach the client: its limits, and the time that it took. Nothing else."""

import asyncio

import pytest
from gateway import own_process
from tcp_server import listening
from wire import complete

STREAM = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n'
WHOLE = b'{"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}'
PASSED = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-requests": "8.64s",
    "openai-processing-ms": "123",
}
KEPT = {"x-ratelimit-" + "a" * 100: "1", "x-ratelimit-long": "a" * 200, "set-cookie": "a=b", "openai-version": "1"}


def head(status: bytes, fields: dict[str, str], size: int) -> bytes:
    """Give the head of an answer."""
    lines = "".join(f"{name.title()}: {value}\r\n" for name, value in fields.items()).encode()
    return b"HTTP/1.1 " + status + b"\r\n" + lines + b"Content-Length: %d\r\n\r\n" % size


@pytest.mark.parametrize("stream", [True, False])
async def test_of_the_attempt_that_answered(stream) -> None:
    """The client gets the limits of the attempt that answered, not those of one that failed before it."""
    body = STREAM if stream else WHOLE
    answers = [
        head(b"503 Busy", {"x-ratelimit-limit-requests": "1", "connection": "close"}, 0),
        head(b"200 OK", {"content-type": "text/event-stream", **PASSED, **KEPT}, len(body)) + body,
    ]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        await writer.drain()

    again = {"strategy": "auto", "backoff": 0.0}
    async with listening(serve) as port, own_process(f"http://127.0.0.1:{port}/v1", recovery=again) as gateway:
        answer = await complete(gateway.root, "m", stream=stream)
    assert answer.status == 200
    assert answer.headers.items() >= PASSED.items()
    assert not answer.headers.keys() & KEPT.keys()
