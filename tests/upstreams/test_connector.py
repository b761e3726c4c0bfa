"""Connections to upstreams, over a real socket."""

import asyncio

import internals
from aiohttp import web

from server.aio.aiohttp_internals import UpstreamProtocol
from server.upstreams.connecting import UpstreamConnector
from server.upstreams.transport import new_session

SIZE = 4_000_000


async def test_a_reader_that_pauses_gets_every_byte_over_our_own_protocol() -> None:
    """A body is far larger than all buffers and read with pauses: what was paused is resumed, and nothing is lost."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(SIZE // 1000):
            await response.write(b"%06d" % number + b"x" * 994)
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    session = new_session()
    try:
        response = await session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        assert response.connection is not None
        assert isinstance(response.connection.protocol, UpstreamProtocol)
        read = bytearray()
        while data := await response.content.readany():
            read += data
            if len(read) % 7 == 0:
                await asyncio.sleep(0)
        assert len(read) == SIZE
        assert [int(read[at : at + 6]) for at in range(0, SIZE, 1000)] == list(range(SIZE // 1000))
    finally:
        await session.close()
        await runner.cleanup()


async def test_nothing_is_resumed_that_was_not_paused() -> None:
    """The parser does not run on nothing after every read. It runs after a pause."""
    connector = UpstreamConnector()
    protocol = internals.new_protocol(connector)
    runs = []
    protocol.data_received = runs.append  # type: ignore[method-assign]
    protocol.resume_reading()
    assert runs == []
    internals.mark_paused(protocol)
    protocol.resume_reading()
    assert runs == [b""]
    await connector.close()
