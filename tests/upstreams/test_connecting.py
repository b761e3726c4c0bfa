"""Connections to upstreams: each step is measured, and they are made before they are needed."""

import asyncio
import time
from typing import Any

import pytest
from behind_tls import behind_tls
from certificates import certify
from gateway import InProcess, in_process, own_process
from tcp_server import copy, listening
from timing import until_fast
from wire import call, complete, until

from server.upstreams import pool

HANDSHAKE = 0.3  # seconds
PHASES = ("dns", "connect", "tls", "headers", "first_token")


@pytest.fixture
def trusted(tmp_path):
    """A certificate, and the settings of an upstream that shows it."""
    certificate = certify(tmp_path)
    return certificate, {"ca_file": str(certificate.certificate)}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_every_phase(provider, model, trusted, loop) -> None:
    """All five phases of a TLS upstream are measured. A slow handshake counts as `tls` and as nothing else."""
    certificate, trust = trusted
    await provider.script(model, {"tokens": 3, "ttft": 0.6})
    async with (
        behind_tls(provider.url, certificate, host="localhost", handshake=HANDSHAKE) as url,
        own_process(url, upstream=trust, server={"event_loop": loop}) as gateway,
    ):
        assert (await complete(gateway.root, model)).status == 200
        assert (await complete(gateway.root, model)).status == 200

        async def both() -> Any:  # an attempt is measured when its connection is tidied up, after the last byte
            told = (await call(gateway.root, "GET", "/api/stats")).json
            return told if told["windows"]["5m"]["phases"]["headers"]["count"] == 2 else None

        stats = await until(both)
        metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
    window = stats["windows"]["5m"]
    for seen in (window, window["targets"]["local/*"]):
        assert set(seen["phases"]) == set(PHASES)
        assert HANDSHAKE * 900 < seen["phases"]["tls"]["p50"] < HANDSHAKE * 3000
        assert seen["phases"]["connect"]["p99"] < HANDSHAKE * 900
        assert seen["phases"]["dns"]["p99"] < HANDSHAKE * 900
        assert seen["phases"]["first_token"]["p50"] > 500
        assert seen["phases"]["tls"]["count"] >= 1
        assert seen["phases"]["headers"]["count"] == 2
    for phase in PHASES:
        assert f'sluiceway_upstream_phase_seconds_count{{phase="{phase}",target="local/*"}}' in metrics


async def test_warm_from_the_start(provider, model, trusted, monkeypatch) -> None:
    """The first request finds a connection. Without it the first token comes later, by the handshake."""
    certificate, trust = trusted
    await provider.script(model, {"tokens": 1})

    async def ask(gateway: InProcess) -> float:
        started = time.monotonic()
        assert (await complete(gateway.root, model)).status == 200
        return time.monotonic() - started

    async def warm(_number: int) -> float:
        async with in_process(url, upstream=trust) as gateway:
            await until(lambda: asyncio.sleep(0, "tls" in phases_of(gateway)))
            return await ask(gateway)

    async with behind_tls(provider.url, certificate, handshake=HANDSHAKE) as url:
        await until_fast(warm, HANDSHAKE)
        monkeypatch.setattr(pool.UpstreamClient, "connect", nothing)
        async with in_process(url, upstream=trust) as cold:
            assert await ask(cold) > HANDSHAKE


async def nothing(_client: pool.UpstreamClient) -> None:
    """Make no connection."""


def phases_of(gateway) -> dict:
    """Return the phases that were measured so far."""
    return gateway.app.metrics.stats.windows()["5m"]["phases"]


async def test_kept_warm(monkeypatch) -> None:
    """A connection that the upstream has closed is made anew. There is one at any time, and never a second."""
    monkeypatch.setattr(pool, "WARM_INTERVAL", 0.02)
    opened: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        assert await reader.read() == b""  # not a byte is sent

    async with listening(accept) as port, in_process(f"http://127.0.0.1:{port}/v1"):
        for count in range(1, 4):
            await until(lambda count=count: asyncio.sleep(0, len(opened) == count))
            await asyncio.sleep(0.1)
            assert len(opened) == count
            opened[-1].close()


async def test_an_unused_upstream_is_left_alone(monkeypatch) -> None:
    """An upstream that no request has asked for a long time is no longer connected."""
    monkeypatch.setattr(pool, "WARM_INTERVAL", 0.02)
    monkeypatch.setattr(pool, "WARM_FOR", -1.0)
    opened: list[asyncio.StreamWriter] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)

    async with listening(accept) as port, in_process(f"http://127.0.0.1:{port}/v1"):
        await asyncio.sleep(0.2)
    assert opened == []


async def test_through_a_proxy(provider, model, trusted) -> None:
    """The connection that is kept warm goes through the upstream's proxy, and a request takes it."""
    certificate, trust = trusted
    tunnels: list[bytes] = []

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        tunnels.append(asked)
        there, back = await asyncio.open_connection(*asked.decode().split(":"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with (
        listening(tunnel) as port,
        behind_tls(provider.url, certificate) as url,
        in_process(url, upstream={**trust, "proxy": f"http://127.0.0.1:{port}"}) as gateway,
    ):
        await until(lambda: asyncio.sleep(0, "tls" in phases_of(gateway)))
        assert (await complete(gateway.root, model)).status == 200
        await gateway.idle()
    assert tunnels == [url.split("/")[2].encode()]


async def test_an_upstream_that_is_away(provider, model) -> None:
    """An upstream that is away does not keep the gateway from starting, and is no failure of a target."""
    upstreams = [{"name": "local", "base_url": provider.url}, {"name": "gone", "base_url": "http://127.0.0.1:1/v1"}]
    async with in_process(provider.url, upstreams=upstreams) as gateway:
        assert (await complete(gateway.root, model)).status == 200
        metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
    assert "sluiceway_upstream_errors_total{" not in metrics
