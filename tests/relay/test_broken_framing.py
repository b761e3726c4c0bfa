"""An upstream whose chunks stop being HTTP fails at once, however its bytes were split, and another target goes on."""

import asyncio
from collections.abc import Sequence

import pytest
from gateway import in_process
from tcp_server import listening
from wire import complete, texts

from server.core.errors import Kind

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAME = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
)
LAST = FRAME.replace(b'"content":"%b"', b"").replace(b"null", b'"stop"') + b"data: [DONE]\n\n"
WORDS = [b"one ", b"two ", b"three "]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ONE, TWO, THREE = (chunk(FRAME % word) for word in WORDS)
WHOLE = HEAD + ONE + TWO + THREE + chunk(LAST) + b"0\r\n\r\n"
BAD = b"ZZZ\r\n"
SPLITS: dict[str, Sequence[bytes]] = {
    "with the head": [HEAD + BAD],
    "after the head": [HEAD, BAD],
    "everything at once": [HEAD + ONE + TWO + BAD],
    "with the first token": [HEAD, ONE + TWO + BAD],
    "after the first token": [HEAD + ONE + TWO, BAD],
    "with a later token": [HEAD + ONE, TWO + BAD],
    "after a later token": [HEAD + ONE, TWO, BAD],
    "in two reads": [HEAD + ONE, TWO + BAD[:1], BAD[1:]],
    "no line end behind a chunk": [HEAD + ONE, TWO[:-2] + b"xx"],
    "a negative size": [HEAD + ONE, b"-1\r\n"],
    "a size without end": [HEAD + ONE, b"f" * 17 + b"\r\n"],
}


@pytest.mark.parametrize("writes", SPLITS.values(), ids=SPLITS)
async def test_it_fails_at_once(writes: Sequence[bytes]) -> None:
    """The second target goes on from what came before. The timeouts of the first are longer than the test may take."""

    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for data in writes:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.02)  # usually a read of its own; the test holds for other splits as well
        await reader.read()

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE)
        await reader.read()

    async with listening(broken) as first, listening(whole) as second:
        upstreams = [
            {"name": name, "base_url": f"http://127.0.0.1:{port}/v1", "ttft_timeout": 300.0, "idle_timeout": 300.0}
            for name, port in (("one", first), ("two", second))
        ]
        models = [{"name": "m", "targets": ["one/m", "two/m"]}]
        recovery = {"strategy": "auto", "max_retries": 0}
        async with in_process("", upstreams=upstreams, models=models, recovery=recovery) as gateway:
            answer = await complete(gateway.root, "m")
            assert "".join(texts(answer.events)) == b"".join(WORDS).decode()
            errors = gateway.app.metrics.registry
            labels = {"target": "one/m", "kind": Kind.GARBAGE.value}
            assert errors.get_sample_value("sluiceway_upstream_errors_total", labels) == 1
