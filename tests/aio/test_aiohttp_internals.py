"""What is put in place of aiohttp's private parts does the same as they do."""

import asyncio
from collections import deque

import aiohttp
import internals
import pytest
from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from server.aio.aiohttp_internals.heads import forget_heads
from server.aio.aiohttp_internals.queues import FakeTransport, SmallDeque, use_small_queues
from server.aio.aiohttp_internals.upstream import UpstreamProtocol
from server.aio.aiohttp_internals.writing import CHUNK
from server.api.connection import Connection, connection_options
from server.upstreams.connecting import UpstreamConnector

STEPS = st.lists(st.sampled_from(["append", "appendleft", "popleft"]))


@given(STEPS)
def test_small_deque_is_a_deque(steps) -> None:
    """After any steps it holds what a deque would hold, and gives the same."""
    small, like = SmallDeque(), deque()
    for number, step in enumerate(steps):
        if step != "popleft":
            getattr(small, step)(number)
            getattr(like, step)(number)
        elif like:
            assert small.popleft() == like.popleft()
        assert len(small) == len(like)
        assert bool(small) == bool(like)
        assert list(small) == list(like)


class Protocol:
    """As much of a protocol as a body asks for."""

    _reading_paused = _buffer_paused = False
    connected = True

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self, **_: object) -> None:
        self._reading_paused = False


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=20), st.integers(0, 20), st.booleans())
def test_a_body_whose_queues_are_replaced_gives_every_byte(pieces, when, chunked) -> None:
    """What it holds at that time and what comes later is read whole and in order."""

    async def scenario() -> bytes:
        body = StreamReader(Protocol(), 64, loop=asyncio.get_running_loop())
        for number, piece in enumerate(pieces):
            if number == when:
                use_small_queues(body, chunked=chunked)
            if chunked:
                body.begin_http_chunk_receiving()
            body.feed_data(piece)
            if chunked:
                body.end_http_chunk_receiving()
        body.feed_eof()
        read = b""
        while data := await body.readany():
            read += data
        return read

    assert asyncio.run(scenario()) == b"".join(pieces)


async def test_the_queues_are_replaced() -> None:
    """Connections of clients, connections to upstreams, and bodies have small queues."""
    loop = asyncio.get_running_loop()
    body = StreamReader(Protocol(), 64, loop=loop)
    body.begin_http_chunk_receiving()
    use_small_queues(body)
    connector = UpstreamConnector()
    connection = Connection(web.Server(lambda _: web.Response()), loop=loop, **connection_options())
    queues = internals.queues(connection, internals.new_protocol(connector), body)
    assert [type(queue) for queue in queues] == [SmallDeque] * 4
    await connector.close()


def test_the_body_of_a_request_without_one_is_left_alone() -> None:
    """All requests without a body share one."""
    use_small_queues(EMPTY_PAYLOAD)


HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = {
    "length": HEAD + b"Content-Length: 5\r\n\r\nhello",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "trailers": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
}


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE)
def test_whatever_follows_an_answer_is_noticed(whole) -> None:
    """Wherever the reads end, a connection is clean after its answer, and not after one byte of another one."""

    async def is_clean(*reads: bytes) -> bool:
        protocol = UpstreamProtocol(asyncio.get_running_loop())
        protocol.transport = FakeTransport()
        protocol.set_response_params()
        for read in reads:
            protocol.data_received(read)
            if read is reads[0]:
                _, body = await protocol.read()
                body.on_eof(protocol.rest)  # as a response does, which releases its connection then
        return protocol.is_clean

    async def scenario() -> None:
        start = whole.index(b"\r\n\r\n") + 4
        for end in range(start, len(whole)):
            head, rest = whole[:end], whole[end:]
            assert await is_clean(head, rest)
            for size in range(1, len(whole) + 1):
                more = whole[:size]
                assert not await is_clean(head, rest + more)
                assert not await is_clean(head, rest, more)
                assert not await is_clean(head, rest + more[:1], more[1:])

    asyncio.run(scenario())


@given(st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=10))
def test_chunks_are_read_as_they_were_written(pieces) -> None:
    """aiohttp's own parser reads what is written past aiohttp's writer: every byte, and the end."""

    async def scenario() -> bytes:
        protocol, transport = UpstreamProtocol(asyncio.get_running_loop()), FakeTransport()
        protocol.transport = transport
        protocol.set_response_params(read_bufsize=1 << 20)
        wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire += b"".join(CHUNK % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        protocol.data_received(wire)
        _, body = await protocol.read()
        read = b""
        while data := await body.readany():
            read += data
        return read

    assert asyncio.run(scenario()) == b"".join(pieces)


async def test_the_heads_of_an_answer_are_forgotten() -> None:
    """The headers of the answer and of its request are gone, also those that were read; the body comes."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="body", headers={"X-Name": "value"})

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session, session.get(server.make_url("/")) as got:
        assert got.headers["X-Name"] == "value"
        assert all((got.raw_headers, got.request_info.headers))
        forget_heads(got)
        assert not any((got.headers, got.raw_headers, got.request_info.headers))
        assert await got.content.read() == b"body"
