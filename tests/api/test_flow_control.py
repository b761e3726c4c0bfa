"""Flow control from end to end: a client that does not read holds back its upstream, and no other stream."""

import asyncio
import math
import socket
import time
from itertools import pairwise
from statistics import median

import pytest
from gateway import OwnProcess, in_process, own_process
from provider import Provider
from slow_reader import run
from slow_readers import stuck
from timing import until_fast
from wire import Client, call, completion, texts, until

JSON = {"Accept": "application/json"}
FLOOD = {"tokens": 10_000_000, "big": 100}
HALF_MB = 500_000


def read_all(sock: socket.socket) -> None:
    """Read to the end of a connection."""
    sock.settimeout(5)
    with sock:
        while sock.recv(1 << 20):
            pass


async def in_state(root: str, **wanted: object) -> dict:
    """Wait until there is a stream with these values. Return its state."""

    async def found() -> dict | None:
        data = (await call(root, "GET", "/v1/streams")).json["data"]
        return data[0] if data and wanted.items() <= data[0].items() else None

    return await until(found, 20)


async def settled(provider: Provider, model: str) -> list[int]:
    """Wait until the upstream can send no byte for a second. Return how many bytes each request took."""
    before: list[int] = []
    async with asyncio.timeout(30):
        while True:
            taken = [seen["bytes_acked"] for seen in await provider.seen(model)]
            if taken and taken == before:
                return taken
            before = taken
            await asyncio.sleep(1.0)


# --- a client that never reads ----------------------------------------------------------------------------------


async def test_thirty_that_never_read(provider, model) -> None:
    """Clients that never read: at most 0.5 MB is taken from the upstream for each, and memory grows by less."""
    await provider.script(model, FLOOD)
    async with own_process(provider.url, flow={"drain_timeout": 60.0}) as gateway:
        warm = stuck(gateway.port, model)  # the memory of the first one counts for the process
        await settled(provider, model)
        before = gateway.rss()
        socks = [stuck(gateway.port, model) for _ in range(30)]
        await until(lambda: enough(provider, model, 31))
        taken = await settled(provider, model)
        assert max(taken) < HALF_MB
        assert (gateway.rss() - before) / 30 < HALF_MB
        data = (await call(gateway.root, "GET", "/v1/streams")).json["data"]
        assert [(one["paused"], one["state"]) for one in data] == [(True, "streaming")] * 31
        assert all(one["lag"] <= 65_536 + 32_768 for one in data)
        for sock in (warm, *socks):
            sock.close()


async def enough(provider: Provider, model: str, count: int) -> bool:
    return len(await provider.seen(model)) == count


@pytest.mark.alone
async def test_neighbours_of_those_who_never_read(provider, model) -> None:
    """A hundred streams keep their pace beside ten stuck ones: the gaps between tokens stay the same."""
    await provider.script(model + "-paced", {"tokens": 60, "rate": 20})

    async def longer(number: int) -> float:
        await provider.script(f"{model}-{number}", FLOOD)
        alone = await gaps(gateway, model + "-paced")
        socks = [stuck(gateway.port, f"{model}-{number}") for _ in range(10)]
        await settled(provider, f"{model}-{number}")
        beside = await gaps(gateway, model + "-paced")
        for sock in socks:
            sock.close()
        assert len(alone) == len(beside) == 100 * 59
        if abs(median(beside) - median(alone)) >= 0.01:
            return math.inf
        return sorted(beside)[int(len(beside) * 0.99)] - sorted(alone)[int(len(alone) * 0.99)]

    async with own_process(provider.url, flow={"drain_timeout": 60.0}) as gateway:
        await until_fast(longer, 0.1)


async def gaps(gateway: OwnProcess, model: str) -> list[float]:
    """Run a hundred streams side by side. Return the seconds between any two tokens of a stream."""

    async def one() -> list[float]:
        async with Client(gateway.root) as client:
            await client.complete(model)
            await client.head()
            times = []
            seen = 0
            while await client.more():
                now = time.monotonic()
                count = client.body.count(b'"content":"tok')
                times += [now] * (count - seen)
                seen = count
            return [after - before for before, after in pairwise(times)]

    return [gap for found in await asyncio.gather(*(one() for _ in range(100))) for gap in found]


# --- detached ---------------------------------------------------------------------------------------------------


async def test_detached_after_drain_timeout(provider, model) -> None:
    """A client that takes nothing for `drain_timeout` is cut off by a RST. Under `cancel` the relay stays paused."""
    await provider.script(model, FLOOD)
    tables = {"flow": {"drain_timeout": 0.7}, "streams": {"linger": 30.0}}
    async with in_process(provider.url, **tables) as gateway:
        began = time.monotonic()
        sock = stuck(gateway.port, model)
        await in_state(gateway.root, paused=True)
        state = await in_state(gateway.root, readers=0)
        assert time.monotonic() - began >= 0.7
        assert (state["state"], state["paused"]) == ("streaming", True)
        with pytest.raises(ConnectionResetError):
            read_all(sock)
        taken = await settled(provider, model)
        assert taken[0] < HALF_MB
        assert [seen["open"] for seen in await provider.seen(model)] == [True]
        metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
        assert 'sluiceway_client_disconnects_total{reason="stalled"} 1.0' in metrics


@pytest.mark.parametrize("policy", ["cancel", "continue"])
async def test_detached_comes_back(provider, model, policy) -> None:
    """Under either policy a detached client that comes back within `linger` has lost nothing."""
    await provider.script(model, {"tokens": 3000, "big": 1000})
    tables = {"flow": {"drain_timeout": 0.7}, "streams": {"linger": 30.0, "on_disconnect": policy}}
    async with in_process(provider.url, **tables) as gateway:
        sock = stuck(gateway.port, model)
        await in_state(gateway.root, readers=1)
        state = await in_state(gateway.root, readers=0)
        sock.close()
        if policy == "continue":  # without a reader nothing holds the relay back
            await in_state(gateway.root, state="complete")
        answer = await call(gateway.root, "GET", f"/v1/streams/{state['id']}?after=0")
        assert texts(answer.events) == [f"tok{i} ".ljust(1000, "x") for i in range(3000)]
        await gateway.idle()
    assert len(await provider.seen(model)) == 1


@pytest.mark.parametrize("policy", ["cancel", "continue"])
async def test_detached_never_comes_back(provider, model, policy) -> None:
    """Under either policy a stream without its client is cancelled after `linger`, and its upstream is closed."""
    await provider.script(model, FLOOD if policy == "cancel" else {"stall_after": 3000, "tokens": 9999, "big": 1000})
    tables = {"flow": {"drain_timeout": 0.5}, "streams": {"linger": 0.5, "on_disconnect": policy}}
    async with in_process(provider.url, **tables) as gateway:
        sock = stuck(gateway.port, model)
        await in_state(gateway.root, state="cancelled")
        sock.close()
        await gateway.idle()
        await provider.closed(model)


async def test_half_closed_while_blocked(provider, model) -> None:
    """A blocked client that shuts only its sending half is given up after `drain_timeout` at the latest."""
    await provider.script(model, FLOOD)
    async with in_process(provider.url, flow={"drain_timeout": 1.0}, streams={"linger": 0.2}) as gateway:
        sock = stuck(gateway.port, model)
        await in_state(gateway.root, paused=True)
        sock.shutdown(socket.SHUT_WR)
        await in_state(gateway.root, state="cancelled")
        await gateway.idle()
        sock.close()


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_gone_while_blocked(provider, model, how) -> None:
    """A blocked client that goes away is noticed long before `drain_timeout`."""
    await provider.script(model, FLOOD)
    async with in_process(provider.url, flow={"drain_timeout": 60.0}) as gateway:
        sock = stuck(gateway.port, model)
        await in_state(gateway.root, paused=True)
        if how == "rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        await in_state(gateway.root, state="cancelled")
        await gateway.idle()


# --- slow, but reading ------------------------------------------------------------------------------------------


async def test_steady_slow_readers_stay(provider, model) -> None:
    """Steady slow readers are never detached, nor cut off by the kernel's own timeout of 30 s, nor at the last byte.

    The receive buffer of a client decides which drain_timeout it needs. With the system's own buffer the window opens
    by 128 KB, so that a reader of 10 KB/s acknowledges nothing for 13 s. With one of 4 KB it acknowledges all the time.
    """
    await provider.script(model, FLOOD)
    await provider.script(model + "-short", {"tokens": 250, "big": 1000})

    async def read(model: str, rcvbuf: int, drain_timeout: float, outcome: str, at_least: int) -> None:
        async with own_process(provider.url, flow={"drain_timeout": drain_timeout}) as gateway:
            url, body = gateway.url + "/chat/completions", completion(model)
            readings = await run(url, count=3, bytes_per_second=10_000, seconds=36.0, rcvbuf=rcvbuf, body=body)
            assert [reading.outcome for reading in readings] == [outcome] * 3
            assert min(reading.bytes_read for reading in readings) > at_least

    await asyncio.gather(
        read(model, 4096, 3.0, "reading", 300_000),
        read(model, 0, 20.0, "reading", 300_000),
        read(model + "-short", 4096, 20.0, "finished", 250_000),
    )


async def test_a_reader_that_pauses(provider, model) -> None:
    """A client that pauses for less than `drain_timeout`, again and again, loses nothing."""
    await provider.script(model, {"tokens": 2000, "big": 1000})
    async with in_process(provider.url, flow={"drain_timeout": 2.0}) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        await client.head()
        for _ in range(4):
            await client.events(len(client.body) // 1100 + 300)
            await asyncio.sleep(0.5)
        assert len(texts(await client.rest())) == 2000


async def test_paused_upstream_is_not_timed_out(provider, model) -> None:
    """While the reader holds the upstream back, no timeout of the upstream runs."""
    await provider.script(model, {"tokens": 3000, "big": 1000})
    tables = {"flow": {"drain_timeout": 30.0}, "upstream": {"idle_timeout": 1.0, "ttft_timeout": 1.0}}
    async with in_process(provider.url, **tables) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        await client.head()
        await in_state(gateway.root, paused=True)
        await asyncio.sleep(2.5)
        assert len(texts(await client.rest())) == 3000


async def test_live_again_after_a_pause(provider, model) -> None:
    """A reader that has caught up is live again: no token waits for a timer."""
    await provider.script(model, {"tokens": 3100, "big": 1000, "stall_after": 3000, "stall_for": 1.0})
    async with in_process(provider.url) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        await client.head()
        await in_state(gateway.root, paused=True)
        events = await client.rest()
        assert len(texts(events)) == 3100
        assert [event.id for event in events] == list(range(1, len(events) + 1))
