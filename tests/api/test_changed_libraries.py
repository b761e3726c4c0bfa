"""When a library's private parts have changed, the gateway streams in its plain way, and every byte is right."""

import asyncio
from collections.abc import Iterator

import pytest
import structlog
from gateway import in_process
from library_changes import CHANGES, PARTS
from wire import Client, complete, texts

TOKENS = 3000
FLOOD = {"tokens": TOKENS, "big": 1000}  # 3 MB: more than all buffers on the way
SMALL = {"send_buffer_bytes": 8192, "max_lag_bytes": 16_384}


@pytest.fixture(params=[*CHANGES, "all"])
def changed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Change one of the libraries' parts, or all of them, as before the gateway's start."""
    names = CHANGES if request.param == "all" else [request.param]
    with monkeypatch.context() as patch:
        for name in names:
            CHANGES[name][0](patch)
        for part in PARTS:
            patch.setattr(part, "_warned", False)
            part.look()
        yield request.param
    for part in PARTS:
        part.look()


async def test_a_slow_reader_gets_every_token(provider, model, changed) -> None:
    """A client that pauses, so that its upstream is paused and resumed all the time, is sent the whole stream."""
    await provider.script(model, FLOOD)
    with structlog.testing.capture_logs() as logs:
        async with in_process(provider.url, flow=SMALL) as gateway, Client(gateway.root) as client:
            await client.complete(model)
            status, _ = await client.head()
            for _ in range(3):
                await asyncio.sleep(0.2)
                await client.events(client.body.count(b"\n\n") + 500)
            said = texts(await client.rest())
    assert status == 200
    assert len(said) == TOKENS
    assert [one.split()[0] for one in said] == [f"tok{n}" for n in range(TOKENS)]
    warnings = [one["part"] for one in logs if one["event"] == "private part changed"]
    assert warnings
    assert len(warnings) == len(set(warnings))


async def test_short_answers_one_after_the_other(provider, model, changed) -> None:
    """Streaming, whole, refused: three kinds of answers on one connection each."""
    await provider.script(model, {"tokens": 3}, {"tokens": 3}, {"status": 400, "error": {"message": "no"}})
    async with in_process(provider.url) as gateway:
        assert len(texts((await complete(gateway.root, model)).events)) == 3
        assert (await complete(gateway.root, model, stream=False)).status == 200
        assert (await complete(gateway.root, model)).status == 400


async def test_http_1_0(provider, model, changed) -> None:
    """A response without chunks ends with its connection."""
    await provider.script(model, {"tokens": 3})
    async with in_process(provider.url) as gateway, Client(gateway.root) as client:
        body = b'{"model": "%s", "stream": true, "messages": [{"role": "user", "content": "x"}]}' % model.encode()
        head = b"POST /v1/chat/completions HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += b"Content-Length: %d\r\n\r\n"
        await client.send(head % len(body) + body)
        await client.head()
        assert len(texts(await client.rest())) == 3
