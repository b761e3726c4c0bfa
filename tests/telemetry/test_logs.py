"""Log lines: what a client cannot do to them."""

import json

import pytest
from gateway import own_process
from wire import Client, call

from server.telemetry.logs import LineLimit, json_line


def test_line_limit() -> None:
    """So many lines a second go out. The next one says how many were left out."""
    limit = LineLimit(2)
    assert [limit.take(1.0), limit.take(1.1), limit.take(1.9), limit.take(1.95)] == [0, 0, None, None]
    assert [limit.take(2.0), limit.take(2.1), limit.take(2.2)] == [2, 0, None]
    assert limit.take(9.0) == 1


DECEPTIVE = ["\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069", "\u200e", "\u200f", "\u061c", "\x85", "\ufeff"]


@pytest.mark.parametrize("text", DECEPTIVE)
def test_escapes(text) -> None:
    """What ends a line or turns its direction is written as an escape; the value stays what it was."""
    line = json_line({"model": f"é{text}\u2027"})
    assert json.loads(line) == {"model": f"é{text}\u2027"}
    assert text.encode() not in line
    assert "é\u2027".encode()[:2] in line


@pytest.mark.parametrize("text", DECEPTIVE)
async def test_a_model_with_deceptive_characters(provider, text) -> None:
    """The line of a stream has the name that its client gave, escaped."""
    async with own_process(provider.url) as gateway:
        body = {"model": f"a{text}é", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        await call(gateway.root, "POST", "/v1/chat/completions", json.dumps(body).encode())
    found = gateway.logged("stream ended")
    assert len(found) <= 1  # C1 controls are refused
    assert all(line["model"] == f"a{text}é" for line in found)


async def test_flood_of_malformed_requests(provider) -> None:
    """A thousand malformed requests are a few lines, which count the others."""
    async with own_process(provider.url) as gateway:
        for _ in range(300):
            async with Client(gateway.root) as client:
                await client.send(b"GET / HTTP/1.1\r\n: no name\r\n\r\n")
                assert (await client.answer()).status == 400
        lines = gateway.logged("bad request")
    assert len(lines) < 150
    assert sum(line.get("left_out", 0) for line in lines) + len(lines) <= 300
