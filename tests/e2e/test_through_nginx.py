"""Flow control and cancellation through a real nginx, set up as the documentation says."""

import asyncio
import time

import pytest
from gateway import in_process, own_process
from nginx import nginx
from slow_readers import never_read
from timing import until_fast
from wire import Client, call, parse, texts, until

SETTINGS = {"listen": "sndbuf=64k", "location": "proxy_buffering off; gzip off;"}
MB = 1_000_000
FLOOD = {"tokens": 10_000_000, "big": 100}


async def test_never_read(provider, model) -> None:
    """For a client behind nginx that never reads, at most 1 MB is taken from the upstream, with nginx's buffers."""
    await provider.script(model, FLOOD)
    async with (
        own_process(provider.url, flow={"drain_timeout": 60.0}) as gateway,
        nginx(gateway.port, **SETTINGS) as front,
    ):
        # A connection that waits for nginx to start has the send buffer of before its configuration was read.
        assert (await call(front.root, "GET", "/healthz")).status == 200
        await take_little(provider, front.port, model)


async def take_little(provider, port: int, model: str) -> None:
    """Start five clients that never read, and wait until the bytes taken for them stay below the bound."""
    async with never_read(port, model, 5):
        await until(lambda: asked(provider, model, 5))
        taken, before = [], [-1]
        while taken != before:
            before = taken
            await asyncio.sleep(1.0)
            taken = [seen["bytes_acked"] for seen in await provider.seen(model)]
        assert max(taken) < MB
        assert all(seen["open"] for seen in await provider.seen(model))


async def asked(provider, model: str, count: int) -> bool:
    return len(await provider.seen(model)) == count


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
@pytest.mark.parametrize("script", [{"tokens": 1000, "rate": 50}, {"never_answer": True}])
async def test_client_gone(provider, model, script, how) -> None:
    """When a client of nginx leaves, the upstream is closed at once."""

    async def leave(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(name, script)

        async def closed() -> float | None:
            [seen] = await provider.seen(name)
            return seen["closed_by_client_at"]

        async with Client(front.root) as client:
            await client.complete(name)
            await until(lambda: provider.seen(name))
            if "rate" in script:
                await client.head()
                await client.events(3)
            left = time.monotonic()
            client.leave(how)
            took = await until(closed) - left
        await gateway.idle()
        return took

    async with in_process(provider.url) as gateway, nginx(gateway.port, **SETTINGS) as front:
        await until_fast(leave, 0.1)


async def test_tokens_are_not_held(provider, model) -> None:
    """With nginx's default buffering each token still comes through at once."""
    await provider.script(model, {"tokens": 5, "rate": 5})
    async with (
        in_process(provider.url, flow={"heartbeat_interval": 0.1}) as gateway,
        nginx(gateway.port) as front,
        Client(front.root) as client,
    ):
        await client.complete(model)
        await client.head()
        began, times = time.monotonic(), []
        while await client.more():
            times.append(time.monotonic() - began)
        events, heartbeats = parse(client.body)
        assert len(texts(events)) == 5
        assert heartbeats >= 2
        assert len([at for at in times if 0.1 < at < 0.9]) >= 3
