"""Connections to upstreams, over a real socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import aiohttp
import internals
import pytest
from aiohttp import web
from yarl import URL

from server.aio.aiohttp_internals import upstream
from server.aio.aiohttp_internals.upstream import UpstreamProtocol
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


@contextlib.asynccontextmanager
async def idle_connection(session: aiohttp.ClientSession) -> AsyncIterator[tuple[socket.socket, str]]:
    """Have an idle connection in a session's pool; yield its other end, which is a blocking socket, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        await connect(session, url)
        accepted, _ = listener.accept()
        with accepted:
            yield accepted, url


async def connect(session: aiohttp.ClientSession, url: str) -> int:
    """Take a connection from a session and give it back; return the port of its own end."""
    assert session.connector is not None
    request = aiohttp.ClientRequest("POST", URL(url), session=session)
    connection = await session.connector.connect(request, traces=[], timeout=aiohttp.ClientTimeout())
    assert connection.transport is not None
    port: int = connection.transport.get_extra_info("sockname")[1]
    connection.release()
    return port


@pytest.mark.parametrize(
    "stray", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", b"H", b"\r\n", b"x" * 40_000, None]
)
async def test_what_is_still_in_the_kernel(stray) -> None:
    """A connection is taken in the same turn of the event loop in which something came: nobody has read it yet."""
    async with new_session() as session, idle_connection(session) as (other_end, url):
        port = other_end.getpeername()[1]
        assert await connect(session, url) == port
        if stray is None:
            other_end.shutdown(socket.SHUT_WR)
        else:
            other_end.sendall(stray)
        assert (await connect(session, url) == port) is (stray == b"")


async def test_a_request_that_is_cancelled_while_its_connection_is_looked_at() -> None:
    """The connection is closed, and nothing is left of it."""
    async with new_session() as session, idle_connection(session) as (other_end, url):
        other_end.sendall(b"H")
        asking = asyncio.create_task(connect(session, url))
        await asyncio.sleep(0)  # it has taken the connection, and waits for the event loop to read it
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert other_end.recv(1) == b""


async def test_a_connection_that_cannot_be_watched_is_not_kept(monkeypatch) -> None:
    """Without our protocol nobody can say what came on an idle connection. So each request has a new one."""
    monkeypatch.setattr(upstream.UPSTREAM_PROTOCOL, "usable", False)
    async with new_session() as session, idle_connection(session) as (other_end, url):
        assert await connect(session, url) != other_end.getpeername()[1]


async def test_a_connection_whose_release_is_not_told_is_not_used_again(monkeypatch) -> None:
    """If aiohttp tells no longer that a connection is given back, nobody knows whether it was idle: it is dropped."""
    monkeypatch.setattr(aiohttp.connector.Connection, "add_callback", lambda _self, _callback: None)
    async with new_session() as session, idle_connection(session) as (other_end, url):

        def answer() -> None:
            other_end.recv(65_536)
            other_end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        answering = asyncio.create_task(asyncio.to_thread(answer))
        async with session.post(url) as response:
            assert await response.read() == b"ok"
        await answering
        assert await connect(session, url) != other_end.getpeername()[1]
