"""A connection knows when its first request has come, by the blank line that ends its head."""

import asyncio

import internals
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from server.aio.aiohttp_internals.queues import FakeTransport
from server.api.connection import Connection, connection_options

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
HEAD = REQUEST[:-3]


class Client(FakeTransport):
    """The transport of a client."""

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert (high, low) == (0, 0)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def close(self) -> None:
        pass


async def answer(_request: web.BaseRequest) -> web.Response:
    return web.Response()


async def connected() -> Connection:
    """Give a connection that a client has opened."""
    connection = Connection(web.Server(answer), loop=asyncio.get_running_loop(), **connection_options())
    connection.connection_made(Client())
    return connection


@given(st.lists(st.integers(1, len(REQUEST)), max_size=5), st.integers(0, 3))
def test_the_first_request_in_any_pieces(cuts, blank) -> None:
    """It has come exactly when aiohttp's parser has its head; blank lines before it do not count."""

    async def scenario() -> None:
        connection, data = await connected(), b"\r\n" * blank + REQUEST
        assert connection.fresh
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
            connection.data_received(data[start:end])
            assert connection.fresh == (internals.requests_received(connection) == 0)
        assert not connection.fresh
        assert not internals.waits_for_head(connection)
        connection.connection_lost(None)

    asyncio.run(scenario())


@pytest.mark.parametrize("data", [b"\r\n\r\n\r\n\r\n", HEAD[:-1], HEAD[:-2], b"POST / HTTP/1.1\r\nHost:"])
async def test_a_request_that_has_not_come(data) -> None:
    """Without the end of a head the clock goes on, and stops with the connection."""
    connection = await connected()
    connection.data_received(data)
    assert connection.fresh
    assert internals.waits_for_head(connection)
    connection.connection_lost(None)
    assert not internals.waits_for_head(connection)


async def test_a_head_that_the_parser_refuses() -> None:
    """A request that is no HTTP counts as one: it is answered."""
    connection = await connected()
    connection.data_received(b"nonsense\r\n")
    async with asyncio.timeout(5):
        while connection.fresh:  # noqa: ASYNC110  # aiohttp answers in a task of its own
            await asyncio.sleep(0)
    connection.connection_lost(None)
