"""A client of a plain path that leaves, or that reads slowly: its upstream is cancelled, or paused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog
from plain_upstream import form, over, says, silent, streams, taken
from wire import Client, call, request, until

COMPLETIONS, EMBEDDINGS, AUDIO = "/v1/completions", "/v1/embeddings", "/v1/audio/transcriptions"
ANSWER = {"text": "hello"}
STREAMED = {"model": "m", "prompt": "Hi", "stream": True}
PIECE = b"data: " + b"x" * 8000 + b"\n\n"


class Endless:
    """Frames without end. `sent` counts those that the upstream's connection has taken."""

    def __init__(self) -> None:
        self.sent = 0
        self.enough = asyncio.Event()

    async def frames(self) -> AsyncIterator[bytes]:
        while not self.enough.is_set():
            yield PIECE
            self.sent += 1

    async def still(self) -> int:
        """Wait until no more is taken, and return how much was."""
        last = -1
        while self.sent != last:
            last = self.sent
            await asyncio.sleep(0.3)
        return last


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_before_the_head(how: str) -> None:
    """A client that leaves while it waits: the upstream's connection is closed, and the circuit counts nothing."""
    with structlog.testing.capture_logs() as lines:
        async with over(silent) as (gateway, upstream):
            async with Client(gateway.root) as client:
                await client.ask("POST", EMBEDDINGS, {"model": "m", "input": "Hi"})
                await until(lambda: asyncio.sleep(0, len(upstream.seen) == 1 and upstream.seen[0].whole))
                client.leave(how)
                await asyncio.wait_for(upstream.seen[0].left.wait(), 20)
            await until(lambda: asyncio.sleep(0, [line for line in lines if line["event"] == "request ended"]))
    [line] = [line for line in lines if line["event"] == "request ended"]
    assert (line["outcome"], line["status"]) == ("gone", None)
    assert not [line for line in lines if line["event"] == "attempt failed"]


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_in_the_answer(how: str) -> None:
    """A client that leaves in the middle of a streamed completion stops its upstream."""
    endless = Endless()
    with structlog.testing.capture_logs() as lines:
        async with over(streams(endless.frames())) as (gateway, upstream):
            async with Client(gateway.root) as client:
                await client.ask("POST", COMPLETIONS, STREAMED)
                status, headers = await client.head()
                assert (status, headers["content-type"]) == (200, "text/event-stream")
                assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache, no-transform", "no")
                await client.more()
                client.leave(how)
                await asyncio.wait_for(upstream.seen[0].left.wait(), 20)
            await until(lambda: asyncio.sleep(0, [line for line in lines if line["event"] == "request ended"]))
    [line] = [line for line in lines if line["event"] == "request ended"]
    assert (line["outcome"], line["status"]) == ("gone", 200)


async def test_in_an_upload() -> None:
    """A client that leaves in the middle of its upload: the upstream never takes the part for the whole."""
    body, headers = form(size=1_000_000)
    async with over(says(ANSWER)) as (gateway, upstream), Client(gateway.root) as client:
        await client.send(request("POST", AUDIO, body, headers)[:-100_000])
        await until(lambda: asyncio.sleep(0, upstream.seen and upstream.seen[0].size > 500_000))
        client.leave()
        await asyncio.wait_for(upstream.seen[0].left.wait(), 20)
    assert not upstream.seen[0].whole


async def test_a_slow_reader_pauses_its_upstream() -> None:
    """While a client reads nothing, little is taken from its upstream. When it reads on, so does the gateway."""
    endless = Endless()
    async with over(streams(endless.frames())) as (gateway, _), Client(gateway.root) as client:
        await client.ask("POST", COMPLETIONS, STREAMED)
        await client.head()
        client.pause_reading()
        paused = await endless.still()
        # The kernel has buffers of its own, at both ends of both connections. None of them is the gateway's.
        assert paused * len(PIECE) < 12_000_000
        assert await endless.still() == paused
        client.resume_reading()
        while endless.sent < paused + 100:
            await client.more()
        endless.enough.set()
        while await client.more():
            pass
        assert client.body == PIECE * (len(client.body) // len(PIECE))
        assert endless.sent * len(PIECE) == len(client.body)


async def test_a_reader_that_never_reads() -> None:
    """A client that acknowledges nothing for `drain_timeout` is cut off, and its upstream is cancelled."""
    endless = Endless()
    flow = {"drain_timeout": 0.5, "send_buffer_bytes": 16_384}
    with structlog.testing.capture_logs() as lines:
        async with over(streams(endless.frames()), flow=flow) as (gateway, upstream):
            async with Client(gateway.root) as client:
                await client.ask("POST", COMPLETIONS, STREAMED)
                await client.head()
                client.pause_reading()
                await asyncio.wait_for(upstream.seen[0].left.wait(), 20)
            await until(lambda: asyncio.sleep(0, [line for line in lines if line["event"] == "request ended"]))
            metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
    [line] = [line for line in lines if line["event"] == "request ended"]
    assert line["outcome"] == "stalled"
    assert line["drain_ms"] >= 500
    assert 'sluiceway_client_disconnects_total{reason="stalled"} 1.0' in metrics


async def test_an_upstream_that_takes_nothing() -> None:
    """An upload that its upstream does not take holds its client back, and fails when that lasts too long."""
    gate = asyncio.Event()

    async def takes_late(request, seen):
        await gate.wait()
        await taken(request, seen)
        return await says(ANSWER)(request, seen)

    body, headers = form(size=30_000_000)
    limits = {"idle_timeout": 1.0, "last_resort_timeout": 1.0}
    async with over(takes_late, upstream=limits) as (gateway, _):
        answer = await call_large(gateway.root, body, headers)
        assert answer.status == 504
        gate.set()


async def call_large(root: str, body: bytes, headers: dict[str, str]):
    """Send a large upload, and read its answer even if it comes before the upload is whole."""
    async with Client(root) as client:
        sending = asyncio.create_task(client.send(request("POST", AUDIO, body, headers)))
        answer = await client.answer()
        sending.cancel()
        await asyncio.wait([sending])
        return answer
