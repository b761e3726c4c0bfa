"""A body that is pushed: its sink gets what a reader would have read, in the turn in which it arrived."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import given
from hypothesis import strategies as st

from server.aio.aiohttp_internals.pushing import PUSHING, push
from server.aio.aiohttp_internals.queues import FakeTransport
from server.aio.aiohttp_internals.upstream import SinkError, UpstreamProtocol
from server.aio.private_part import completed
from server.upstreams.transport import new_session

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Sink:
    """Keeps what it is given, and refuses more after each number of bytes in `refuse_at`."""

    refuse_at: list[int] = field(default_factory=list)
    received: bytes = b""
    error: Exception | None = None

    def receive(self, data: bytes) -> bool:
        """Take data."""
        if self.error is not None:
            raise self.error
        self.received += data
        refuses = bool(self.refuse_at) and len(self.received) >= self.refuse_at[0]
        if refuses:
            self.refuse_at.pop(0)
        return not refuses


class Connection:
    """An upstream's connection without a socket, whose body has not begun."""

    def __init__(self, coding: bytes = b"") -> None:
        self.transport = FakeTransport()
        self.protocol = UpstreamProtocol(asyncio.get_running_loop())
        self.protocol.transport = self.transport  # type: ignore[assignment]
        self.protocol.set_response_params(read_bufsize=16_384, auto_decompress=True)
        self.protocol.data_received(HEAD.removesuffix(b"\r\n") + coding + b"\r\n")
        _, body = completed(self.protocol.read())
        response: Any = SimpleNamespace(content=body, connection=SimpleNamespace(protocol=self.protocol))
        self.response: aiohttp.ClientResponse = response


async def pushed_to_the_end(response: aiohttp.ClientResponse, sink: Sink) -> None:
    """Push again and again after each refusal."""
    more = True
    while more:
        more = await push(response, sink)
        await turn()


async def turn() -> None:
    """Let the other tasks run."""
    await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until the condition holds."""
    while not condition():
        await turn()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answered(answer: Answer, use: Callable[[aiohttp.ClientResponse], Awaitable[None]]) -> None:
    """Serve one raw answer on a real socket, and use its response."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await answer(reader, writer)
        finally:
            writer.close()
            ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        async with new_session() as session, asyncio.timeout(20):
            port = server.sockets[0].getsockname()[1]
            response = await session.get(f"http://127.0.0.1:{port}/", headers={"Accept-Encoding": "identity"})
            await use(response)
            response.release()
        await ended.wait()


def chunk(data: bytes, form: str = "%x") -> bytes:
    """Give one chunk (RFC 9112, section 7.1)."""
    return (form % len(data)).encode() + b"\r\n" + data + b"\r\n"


FORMS = st.sampled_from(["%x", "%X", "0%x", "%x;name=value", '%x;q="a b"'])
CHUNKS = st.lists(
    st.tuples(
        st.one_of(st.binary(min_size=1, max_size=60), st.sampled_from([b"\r\n", b"1\r\na\r\n", b"0\r\n\r\n"])), FORMS
    ),
    min_size=1,
    max_size=12,
)


@given(CHUNKS, st.lists(st.integers(1, 400), max_size=12), st.lists(st.integers(1, 300), max_size=4))
def test_any_split_and_any_refusal(chunks, cuts, refuse_at) -> None:
    """However chunks are written and reads fall, and whenever the sink refuses more, it gets every byte once."""
    wire = b"".join(chunk(data, form) for data, form in chunks) + b"0\r\n\r\n"
    body = b"".join(data for data, _ in chunks)
    places = sorted({cut for cut in cuts if cut < len(wire)} | {len(wire)})
    reads = [wire[start:end] for start, end in zip([0, *places], places, strict=False)]

    async def scenario() -> None:
        connection = Connection()
        sink = Sink(sorted(refuse_at))
        pushing = asyncio.create_task(pushed_to_the_end(connection.response, sink))
        for read in reads:
            await until(lambda: connection.transport.reading)
            connection.protocol.data_received(read)
        await pushing
        assert sink.received == body

    asyncio.run(scenario())


def test_a_sink_gets_a_read_in_the_turn_in_which_it_arrives() -> None:
    """Nothing waits for a task: when `data_received` returns, the sink has what was read."""

    async def scenario() -> None:
        connection, sink = Connection(), Sink()
        pushing = asyncio.create_task(push(connection.response, sink))
        await asyncio.sleep(0)
        connection.protocol.data_received(chunk(b"one"))
        assert sink.received == b"one"
        connection.protocol.data_received(chunk(b"two") + chunk(b"three")[:5])
        assert sink.received == b"onetwoth"
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)

    asyncio.run(scenario())


def test_a_refusal_stops_the_socket_at_once() -> None:
    """In the same turn nothing more is read. What the read still brought is kept, and comes after the pause."""

    async def scenario() -> None:
        connection, sink = Connection(), Sink([1])
        pushing = asyncio.create_task(push(connection.response, sink))
        await asyncio.sleep(0)
        connection.protocol.data_received(b"".join(chunk(b"%05d" % number * 1000) for number in range(20)))
        assert not connection.transport.reading
        before = len(sink.received)
        assert before < 40_000
        assert await pushing
        assert len(sink.received) == before
        again = asyncio.create_task(push(connection.response, sink))
        await until(lambda: len(sink.received) == 100_000)
        assert connection.transport.reading
        assert sink.received == b"".join(b"%05d" % number * 1000 for number in range(20))
        connection.protocol.data_received(b"0\r\n\r\n")
        assert not await again

    asyncio.run(scenario())


def test_nothing_is_pushed_after_a_cancel() -> None:
    """A task that was cancelled in `push` gets no more, and the body can be read in the plain way."""

    async def scenario() -> None:
        connection, sink = Connection(), Sink()
        pushing = asyncio.create_task(push(connection.response, sink))
        await asyncio.sleep(0)
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
        connection.protocol.data_received(chunk(b"late"))
        assert sink.received == b""
        assert await connection.response.content.readany() == b"late"

    asyncio.run(scenario())


def test_the_error_of_a_sink_ends_its_own_push_alone() -> None:
    """What `receive` raises comes out of `push`, and does not get into the event loop."""

    async def scenario() -> None:
        first, second = Connection(), Connection()
        failing, good = Sink(error=KeyError("a bug")), Sink()
        pushes = [
            asyncio.create_task(push(connection.response, sink))
            for connection, sink in ((first, failing), (second, good))
        ]
        await asyncio.sleep(0)
        for data in (b"a", b"b"):
            for connection in (first, second):
                connection.protocol.data_received(chunk(data))
        with pytest.raises(SinkError) as failed:
            await pushes[0]
        assert failed.value.take() is failing.error
        assert not first.transport.reading
        assert good.received == b"ab"
        second.protocol.data_received(b"0\r\n\r\n")
        assert not await pushes[1]

    asyncio.run(scenario())


@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize(
    ("head", "wire", "outcome"),
    [
        pytest.param(HEAD, chunk(b"one") + chunk(b"two") + b"0\r\n\r\n", False, id="chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", b"onetwo", False, id="a length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"onetwo", False, id="to the end"),
        pytest.param(HEAD, chunk(b"one") + chunk(b"two"), aiohttp.ClientPayloadError, id="cut after a chunk"),
        pytest.param(HEAD, chunk(b"one") + b"9\r\ntwo", aiohttp.ClientPayloadError, id="cut in a chunk"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"onetwo", aiohttp.ClientPayloadError, id="short"
        ),
    ],
)
async def test_every_end(
    head: bytes, wire: bytes, outcome: object, usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real socket: however a body ends or breaks off, the sink has all that came before, pushed or read."""
    monkeypatch.setattr(PUSHING, "usable", usable)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        await going_on.wait()
        for at in range(0, len(wire), 4):
            writer.write(wire[at : at + 4])
            await asyncio.sleep(0)

    async def use(response: aiohttp.ClientResponse) -> None:
        sink = Sink()
        pushing = asyncio.create_task(push(response, sink))
        await asyncio.sleep(0)
        going_on.set()
        if outcome is False:
            assert not await pushing
        else:
            with pytest.raises(outcome):  # type: ignore[arg-type]
                await pushing
        assert sink.received == b"onetwo"

    going_on = asyncio.Event()
    await answered(answer, use)


@pytest.mark.parametrize(("coding", "bits"), [(b"gzip", 31), (b"deflate", 15)])
async def test_a_coded_body(coding: bytes, bits: int) -> None:
    """A proxy may code a body though nobody asked for it. The sink gets what was coded, also if a read is one chunk."""
    connection, sink, coder = Connection(b"Content-Encoding: %b\r\n" % coding), Sink(), zlib.compressobj(wbits=bits)
    pushing = asyncio.create_task(push(connection.response, sink))
    for text in (b"one", b"two", b"three"):
        await turn()
        connection.protocol.data_received(chunk(coder.compress(text) + coder.flush(zlib.Z_SYNC_FLUSH)))
    await turn()
    connection.protocol.data_received(chunk(coder.flush()) + b"0\r\n\r\n")
    assert not await pushing
    assert sink.received == b"onetwothree"


def test_a_body_that_is_not_http_any_more() -> None:
    """A chunk that cannot be parsed ends the push at once: aiohttp itself would wait for ever."""

    async def scenario() -> None:
        connection, sink = Connection(), Sink()
        pushing = asyncio.create_task(push(connection.response, sink))
        await asyncio.sleep(0)
        connection.protocol.data_received(chunk(b"one") + b"nonsense\r\n")
        with pytest.raises(HttpProcessingError):
            await pushing
        assert sink.received == b"one"

    asyncio.run(scenario())
