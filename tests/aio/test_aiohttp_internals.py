"""Small queues: they act as those of aiohttp, which are still where they are replaced."""

import asyncio
from collections import deque

from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from hypothesis import given
from hypothesis import strategies as st

from server.aio.aiohttp_internals import SmallDeque, use_small_queues
from server.api.connection import Connection, connection_options
from server.upstreams.connector import UpstreamConnector

STEPS = st.lists(st.sampled_from(["append", "appendleft", "popleft"]))


@given(STEPS)
def test_few_is_a_queue(steps) -> None:
    """After any steps it holds what a deque would, at both ends, and gives the same."""
    few, like = SmallDeque(), deque()
    for number, step in enumerate(steps):
        if step != "popleft":
            getattr(few, step)(number)
            getattr(like, step)(number)
        elif like:
            assert few.popleft() == like.popleft()
        assert len(few) == len(like)
        assert bool(few) == bool(like)
        assert list(few) == list(like)


class Paused:
    """As much of a protocol as a reader asks for."""

    _reading_paused = _buffer_paused = False
    connected = True

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self, **_: object) -> None:
        self._reading_paused = False


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=20), st.integers(0, 20), st.booleans())
def test_a_body_made_slim_half_way_gives_every_byte(pieces, when, chunked) -> None:
    """Whatever it holds at that time, and whatever comes later, is read whole and in order."""

    async def scenario() -> bytes:
        body = StreamReader(Paused(), 64, loop=asyncio.get_running_loop())
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


async def test_the_queues_of_aiohttp_are_where_they_were() -> None:
    """aiohttp's own classes keep a deque in each of the places that ours fill."""
    loop = asyncio.get_running_loop()
    server = web.Server(lambda _: web.Response())
    body = StreamReader(Paused(), 64, loop=loop)
    body.begin_http_chunk_receiving()
    plain = [web.RequestHandler(server, loop=loop)._messages, ResponseHandler(loop)._buffer, body._buffer]
    assert [type(queue) for queue in [*plain, body._http_chunk_splits]] == [deque] * 4
    connector = UpstreamConnector()
    use_small_queues(body)
    ours = [Connection(server, loop=loop, **connection_options())._messages, connector._factory()._buffer, body._buffer]
    assert [type(queue) for queue in [*ours, body._http_chunk_splits]] == [SmallDeque] * 4
    await connector.close()


def test_the_body_of_a_request_without_one_is_left_alone() -> None:
    """aiohttp has one for all of them."""
    use_small_queues(EMPTY_PAYLOAD)
