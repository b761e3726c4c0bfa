"""Clients whose network goes away without a FIN: in a network namespace of their own, whose link is cut."""

import asyncio
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from gateway import in_process
from provider import Provider
from wire import Client, call, until

from server.api import channel, listener

TOKEN = "t"
KEYS = [{"name": "far", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
LONG = 20.0  # seconds within which the shortened limits must have acted
SUPPORT = str(Path(__file__).parents[1] / "support")
CLIENT = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from wire import Client

async def main(root, model, stream):
    async with Client(root) as client:
        await client.complete(model, stream=stream == "stream", headers={"Authorization": "Bearer t"})
        if stream == "stream":
            await client.head()
            await client.events(3)
        print("asked", flush=True)
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[2:]))
"""


_numbers = itertools.count()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Far:
    """A network namespace at the other end of a cable."""

    def __init__(self) -> None:
        number = os.getpid() % 60_000
        self.name = f"slc{number}.{next(_numbers)}"
        self.here = f"10.{200 + number // 15_000}.{number // 250 % 60}.{number % 250}"
        self.there = f"198.18.{number // 250}.{number % 250}"

    def __enter__(self) -> "Far":
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "far", "netns", self.name)
        ip("addr", "add", f"{self.here}/32", "dev", self.name)
        ip("link", "set", self.name, "up")
        ip("route", "add", f"{self.there}/32", "dev", self.name)
        ip("-n", self.name, "addr", "add", f"{self.there}/32", "dev", "far")
        ip("-n", self.name, "link", "set", "far", "up")
        ip("-n", self.name, "route", "add", f"{self.here}/32", "dev", "far")
        return self

    def __exit__(self, *_: object) -> None:
        ip("link", "del", self.name)  # both ends of the cable; the namespace's end takes its time
        ip("netns", "del", self.name)

    def cut(self) -> None:
        """Pull the cable: nothing comes through any more, and nobody is told."""
        ip("-n", self.name, "link", "set", "far", "down")


@pytest.fixture
def far() -> Iterator[Far]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace takes root and iproute2")
    with Far() as made:
        yield made


@pytest.fixture
async def gateway(provider: Provider, far: Far, monkeypatch) -> AsyncIterator[object]:
    """A gateway at this end, with limits as short as a test wants them."""
    monkeypatch.setattr(channel, "VANISHED", 3.0)
    monkeypatch.setattr(channel, "WATCH_INTERVAL", 0.5)
    monkeypatch.setattr(listener, "KEEPALIVE", (1, 1, 3))
    monkeypatch.setattr(listener, "USER_TIMEOUT_MS", 3000)
    async with in_process(provider.url, server={"host": far.here}, keys=KEYS) as running:
        running.root = running.root.replace("127.0.0.1", far.here)
        yield running


async def client(far: Far, root: str, model: str, stream: str) -> asyncio.subprocess.Process:
    """Start a client in the namespace; return when it has asked."""
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", far.name, sys.executable, "-c", CLIENT, SUPPORT, root, model, stream,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"asked\n"
    return process


@pytest.mark.parametrize(
    ("stream", "script"),
    [("stream", {"tokens": 100_000, "rate": 20}), ("stream", {"stall_after": 3}), ("whole", {"never_answer": True})],
)
async def test_client_vanishes(gateway, far, provider, model, stream, script) -> None:
    """If nobody acknowledges tokens or answers probes, the client is gone, and its upstream is closed."""
    await provider.script(model, script)
    process = await client(far, gateway.root, model, stream)
    try:
        await until(lambda: provider.seen(model))
        far.cut()
        cut = time.monotonic()

        async def closed() -> float | None:
            [seen] = await provider.seen(model)
            return seen["closed_by_client_at"]

        assert 1.0 < await until(closed, LONG) - cut < LONG
        await gateway.idle()
        [state] = (await call(gateway.root, "GET", "/v1/streams", headers=HEADERS)).json["data"]
        assert (state["state"], state["readers"]) == ("cancelled", 0)
    finally:
        process.kill()
        await process.wait()


async def test_client_that_is_only_slow_stays(gateway, far, provider, model) -> None:
    """A client that is there but reads nothing is not taken for a vanished one, though it lasts longer."""
    await provider.script(model, {"tokens": 100_000, "rate": 20, "big": 2000})
    process = await client(far, gateway.root, model, "stream")
    try:
        await asyncio.sleep(6.0)
        [state] = (await call(gateway.root, "GET", "/v1/streams", headers=HEADERS)).json["data"]
        assert (state["state"], state["readers"]) == ("streaming", 1)
    finally:
        process.kill()
        await process.wait()
        await gateway.idle()


async def test_own_client_reaches_it(gateway, model) -> None:
    """Without a cut a client at the other end gets its stream: the cable works."""
    async with Client(gateway.root) as near:
        await near.complete(model, headers=HEADERS)
        assert (await near.answer()).events[-1].data == b"[DONE]"
