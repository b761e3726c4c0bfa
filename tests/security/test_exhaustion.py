"""Attacks that use up sockets, memory or time: each costs a bounded amount, and other clients are served."""

import asyncio
import gzip
import os
import time
import zlib
from contextlib import suppress

import pytest
import redis_server
from gateway import in_process, own_process
from wire import Client, call, complete, completion, request, until

from server.api import connection as protocol
from server.api import requests
from server.core.errors import Deleted
from server.streams.admission import Owner

PATH = "/v1/chat/completions"
CHUNKED = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
MEGABYTE = 1 << 20


async def test_slow_body(gateway, monkeypatch) -> None:
    """A body that trickles in is given up after a total time, and a silent one sooner."""
    monkeypatch.setattr(requests, "BODY_TIMEOUT", 0.5)
    monkeypatch.setattr(requests, "BODY_TOTAL", 1.5)
    for pause, least, most in ((0.1, 1.4, 10.0), (60.0, 0.4, 10.0)):
        async with Client(gateway.root) as client:
            started = time.monotonic()
            await client.send(request("POST", PATH, headers={**CHUNKED}))

            async def trickle(client=client, pause=pause) -> None:
                while True:
                    await client.send(b"1\r\n \r\n")
                    await asyncio.sleep(pause)

            trickling = asyncio.create_task(trickle())
            answer = await client.answer()
            trickling.cancel()
            await asyncio.wait([trickling])
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert least < time.monotonic() - started < most


async def test_slow_heads(gateway, monkeypatch) -> None:
    """Two hundred connections whose head never ends are all closed, and other clients are served meanwhile."""
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT", 1.0)
    clients = [Client(gateway.root) for _ in range(200)]
    for client in clients:
        await client.__aenter__()
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: loc")
    assert (await call(gateway.root, "GET", "/healthz")).status == 200
    assert [await client.closed() for client in clients] == [b""] * 200


async def test_idle_connections_are_closed(provider, monkeypatch) -> None:
    """A kept-alive connection is closed if it sends nothing more, or only half of a second head."""
    monkeypatch.setattr(protocol, "KEEPALIVE_TIMEOUT", 0.5)
    async with in_process(provider.url) as gateway, Client(gateway.root) as idle, Client(gateway.root) as half:
        for client in (idle, half):
            await client.ask("GET", "/healthz")
            assert (await client.answer()).status == 200
        await half.send(b"GET /healthz HTTP/1.1\r\nX: ")
        assert (await idle.closed(), await half.closed()) == (b"", b"")


async def test_body_too_large(provider, model) -> None:
    """A body above the limit is refused: before it is read if its length says so, else as soon as it is above it."""
    async with own_process(provider.url, server={"max_body_bytes": 100_000}) as gateway:
        async with Client(gateway.root) as client:
            await client.send(
                request("POST", PATH, headers={"Content-Type": "application/json", "Content-Length": "9" * 9})
            )
            assert (await client.answer()).status == 413
        before = gateway.rss()
        for _ in range(3):
            async with Client(gateway.root) as client:
                await client.send(request("POST", PATH, headers=CHUNKED))
                with pytest.raises(ConnectionError):
                    await endless(client)
        assert gateway.rss() - before < 30 * MEGABYTE
        assert (await complete(gateway.root, model)).status == 200


async def endless(client: Client) -> None:
    """Send chunks until the connection is closed."""
    async with asyncio.timeout(30):
        while True:
            await client.send(b"10000\r\n" + b" " * 65_536 + b"\r\n")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_bomb(provider, model, coding) -> None:
    """A compressed body that would unpack to a gigabyte is refused, and never unpacked."""
    packed = gzip.compress(b" " * (1024 * MEGABYTE), 9) if coding == "gzip" else deflated(1024)
    async with own_process(provider.url) as gateway:
        before = gateway.rss()
        headers = {"Content-Type": "application/json", "Content-Encoding": coding}
        answer = await call(gateway.root, "POST", PATH, packed, headers)
        assert answer.status in (400, 413, 415)
        assert gateway.rss() - before < 40 * MEGABYTE
        assert (await complete(gateway.root, model)).status == 200


def deflated(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(b" " * MEGABYTE) for _ in range(megabytes)) + packer.flush()


async def test_header_sizes(gateway) -> None:
    """A header, a request line or a number of headers above its limit is 400. Just below the limit it is served."""
    for head, status in (
        ({"X": "a" * 8_000}, 200),
        ({"X": "a" * 40_000}, 400),
        ({f"X-{i}": "a" for i in range(90)}, 200),
        ({f"X-{i}": "a" for i in range(200)}, 400),
    ):
        assert (await call(gateway.root, "GET", "/healthz", headers=head)).status == status
    assert (await call(gateway.root, "GET", "/healthz?" + "a" * 40_000)).status == 400


async def test_pipelining_flood(provider) -> None:
    """If nobody reads the answers, the gateway stops taking requests from a connection, here of a hundred thousand."""
    async with own_process(provider.url) as gateway, Client(gateway.root) as client:
        before = gateway.rss()
        client.pause_reading()
        one = request("GET", "/v1/models")
        flooding = asyncio.create_task(client.send(one * 100_000))
        await asyncio.sleep(1.0)
        assert not flooding.done()  # our own sending is held up
        assert (await call(gateway.root, "GET", "/healthz")).status == 200
        assert gateway.rss() - before < 20 * MEGABYTE
        flooding.cancel()
        client.leave("rst")


async def test_too_many_streams(provider, model) -> None:
    """Above `max_streams` a request is 429 with Retry-After, and leaves nothing behind."""
    await provider.script(model, {"stall_after": 1})
    async with in_process(provider.url, server={"max_streams": 3}) as gateway:
        clients = [Client(gateway.root) for _ in range(3)]
        for client in clients:
            await client.__aenter__()
            await client.complete(model)
            await client.head()
        for _ in range(20):
            answer = await complete(gateway.root, model)
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (
                429,
                "too_many_streams",
                "1",
            )
        assert gateway.app.streams.live == 3
        assert len((await call(gateway.root, "GET", "/v1/streams")).json["data"]) == 3
        for client in clients:
            client.leave()
        await gateway.idle()


async def test_out_of_descriptors(provider, model) -> None:
    """With every descriptor in use new connections wait, the process lives, and afterwards it serves as before."""
    command = ("bash", "-c", 'ulimit -n 96; exec "$@"', "-")
    async with own_process(provider.url, command=command) as gateway:
        opened = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(150)]
        used = f"/proc/{gateway.pid}/fd"
        await until(lambda: asyncio.sleep(0, len(os.listdir(used)) > 90))  # noqa: PTH208
        for _, writer in opened:
            writer.close()
        await until(lambda: asyncio.sleep(0, len(os.listdir(used)) < 60), 30)  # noqa: PTH208
        assert (await complete(gateway.root, model)).status == 200


async def test_nobody_reads(provider, model) -> None:
    """Readers that never read a large answer cost their bounded buffers, not the answer."""
    await provider.script(model, {"tokens": 200_000, "big": 200})
    async with own_process(provider.url) as gateway:
        await complete(gateway.root, f"{model}-warm")
        before = gateway.rss()
        clients = [Client(gateway.root) for _ in range(20)]
        for client in clients:
            await client.__aenter__()
            client.pause_reading()
            await client.send(request("POST", PATH, completion(model)))

        async def paused() -> bool:
            listed = (await call(gateway.root, "GET", "/v1/streams")).json["data"]
            return sum(one["paused"] for one in listed) == 20

        await until(paused, 30)
        assert gateway.rss() - before < 20 * 2 * MEGABYTE
        for client in clients:
            client.leave("rst")


@pytest.mark.parametrize("script", [{"tokens": 1}, {"status": 400}, {"cut_after": 1}], ids=["whole", "refused", "cut"])
async def test_large_requests_one_after_the_other(provider, model, script) -> None:
    """Thirty requests of 8 MB leave nothing in memory when their retention is over, however they have ended."""
    await provider.script(model, script)
    async with own_process(provider.url, streams={"retention": 0.1}) as gateway:
        prompt = [{"role": "user", "content": "x" * (8 * MEGABYTE - 1000)}]
        for count in range(33):
            if count == 3:
                before = gateway.rss()
            await complete(gateway.root, model, messages=prompt)
        await asyncio.sleep(2.0)  # a sweep
        assert gateway.rss() - before < 4 * 8 * MEGABYTE


@pytest.fixture
def store(request, tmp_path):
    """The table of a store: of the kind that is the fixture's parameter."""
    if request.param == "redis":
        with redis_server.running(tmp_path) as server:
            yield {"kind": "redis", "url": server.url}
    else:
        yield {"kind": request.param, "path": str(tmp_path / "streams.db")}


@pytest.mark.parametrize("store", ["memory", "sqlite", "redis"], indirect=True)
@pytest.mark.parametrize("why", ["retention", "size"])
async def test_readers_of_a_deleted_log(provider, model, store, why) -> None:
    """Readers that stand still do not keep a log that is deleted, nor its request. They are told when they read on."""
    await provider.script(model, {"tokens": 12_000, "big": 1000})
    store |= {"max_bytes": 20 * MEGABYTE} if why == "size" else {}
    async with in_process(
        provider.url, store=store, streams={"retention": 2.0 if why == "retention" else 600.0}
    ) as gateway:
        prompt = [{"role": "user", "content": "x" * (MEGABYTE // 2)}]
        answer = await complete(gateway.root, model, messages=prompt)
        path = f"/v1/streams/{answer.headers['x-stream-id']}"
        async with Client(gateway.root) as client:
            await client.ask("GET", path)
            await client.head()
            client.pause_reading()
            stream = await gateway.app.streams.find(answer.headers["x-stream-id"], Owner())
            (reader,) = gateway.app.responder.open  # it keeps the log as long as it reads
            if why == "size":
                await complete(gateway.root, model)  # there is no room for both
            await until(lambda: forgotten(stream.log))
            assert reader.cursor < stream.log.tail
            client.resume_reading()
            while await client.more():
                pass
    assert b'"code":"gap"' in client.body[-300:]
    assert client.body.count(b"\nid: ") < 12_000


async def forgotten(log) -> bool:
    """Whether nothing of a log is in memory."""
    with suppress(Deleted):
        return not log.beginning.body and await log.read(0, 1) == []
    return True
