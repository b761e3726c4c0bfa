"""What a read of many small lines has left to parse comes before the end that the same read brought."""

import asyncio

import pytest
from gateway import in_process
from tcp_server import listening
from wire import complete, texts

from server.core.openai.intake import STEP

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAME = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
LINES = b": x\n" * (3 * STEP // 4)
ENDS = {
    "whole": (LAST, b"0\r\n\r\n"),
    "whole, without the last chunk": (LAST, b""),
    "truncated": (b"", b"0\r\n\r\n"),
    "cut": (b"", b""),
    "broken": (b"", b"ZZZ\r\n"),
}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


@pytest.mark.parametrize("together", [True, False], ids=["with the first token", "after the first token"])
@pytest.mark.parametrize("end", ENDS)
async def test_nothing_is_lost(end: str, together: bool) -> None:
    """Every token is delivered, in order. An answer that breaks off fails only after that."""
    last, trailer = ENDS[end]
    rest = chunk(LINES + FRAME % b"two " + LINES + FRAME % b"three " + last) + trailer

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunk(FRAME % b"one ") + (rest if together else b""))
        await writer.drain()
        await asyncio.sleep(0.05)  # usually a read of its own; the test holds for other splits as well
        writer.write(b"" if together else rest)
        await writer.drain()
        writer.close()

    async with listening(upstream) as port:
        upstreams = [{"name": "one", "base_url": f"http://127.0.0.1:{port}/v1"}]
        models = [{"name": "m", "targets": ["one/m"]}]
        async with in_process("", upstreams=upstreams, models=models, recovery={"strategy": "none"}) as gateway:
            answer = await complete(gateway.root, "m")
    assert "".join(texts(answer.events)) == "one two three "
    assert (answer.events[-1].data == b"[DONE]") == bool(last)
