"""Pushing: a body is handed on in the turn of the event loop in which its socket was read."""

import asyncio
from typing import Any

import aiohttp
from aiohttp.streams import StreamReader

from server.aio.aiohttp_internals.queues import NO_LOOP, SMALL_QUEUES, FakeTransport
from server.aio.aiohttp_internals.upstream import PUSHED_AT_ONCE, UPSTREAM_PROTOCOL, Sink, SinkError, UpstreamProtocol
from server.aio.private_part import PrivatePart, completed, expect


async def read(body: StreamReader) -> bytes:
    """Return what has come of a body, and wait if that is nothing; empty at its end. Raises what reading raises.

    aiohttp's own `readany` looks at each chunk: if a whole answer comes at once, that is a tenth of a request.
    """
    return (PUSHING.usable and _all_parts(body)) or await body.readany()


def _all_parts(body: StreamReader) -> bytes:
    """Take all parts that have come of a body; empty if there is only one, or something else to be done."""
    inner: Any = body
    if inner._buffer_offset or len(inner._buffer) < 2 or inner._protocol._reading_paused or body.exception():
        return b""
    data = b"".join(inner._buffer)
    inner._buffer.clear()
    inner._size = 0
    inner._cursor += len(data)
    if inner._http_chunk_splits is not None:
        inner._http_chunk_splits.clear()
    return data


async def push(response: aiohttp.ClientResponse, sink: Sink) -> bool:
    """Hand a body to `sink` as it arrives. Return True if the sink refused more, False at the end of the body.

    A task that waits for each read costs a future, a step of the task and a second turn of the event loop: a sixth of
    all that a token costs. Here the task waits only for the end.

    After a refusal the socket is not read until the next `push`, or `read_on`. Raises SinkError, and what reading
    raises.
    """
    body = response.content
    while data := body.read_nowait(PUSHED_AT_ONCE):
        if not _receive(sink, data):
            return True
    if body.is_eof():
        return False
    protocol = None if response.connection is None else response.connection.protocol
    if PUSHING.usable and isinstance(protocol, UpstreamProtocol) and type(body) is StreamReader and not protocol.coded:
        await protocol.push(body, sink)
        return not body.at_eof()
    while data := await body.readany():
        if not _receive(sink, data):
            return True
    return False


def _receive(sink: Sink, data: bytes) -> bool:
    try:
        return sink.receive(data)
    except Exception as fault:  # noqa: BLE001 — whatever it is, `SinkError.take` returns it
        raise SinkError(fault) from None


def _check_pushing() -> None:
    """Push a body until the sink refuses more: it gets every read at once, and what it refused is still there."""
    expect(SMALL_QUEUES.usable and UPSTREAM_PROTOCOL.usable, "the connections are not ours")
    protocol, transport, sink = UpstreamProtocol(NO_LOOP), FakeTransport(), _Bucket()
    inner: Any = protocol
    inner.transport = transport
    protocol.set_response_params(read_bufsize=64)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    _, body = completed(protocol.read())
    protocol.data_received(b"1\r\nx\r\n1\r\ny\r\n2\r\nz")
    expect(_all_parts(body) == b"xyz" and not body._buffer, "a body is read wrongly")
    protocol.data_received(b"z\r\n")
    expect(completed(body.readany()) == b"z" and body._cursor == body.total_bytes == 4, "the rest of a body is lost")
    protocol._start_pushing(body, sink)
    for arrived in (b"1\r\na\r\n", b"2\r\nbc\r\n", b"1\r\nd\r\n2\r\ne", b"f\r\n", b"1\r\n"):
        protocol.data_received(arrived)
    expect(sink.received == [b"a", b"bc", b"de", b"f"], "a body is pushed wrongly")
    expect(body._waiter is None and asyncio.iscoroutinefunction(StreamReader._wait), "a body is waited for differently")
    sink.full = True
    protocol.data_received(b"g\r\n10000\r\n" + b"h" * 0x10000 + b"\r\n")
    expect(b"".join(sink.received[4:]) + body.read_nowait() == b"g" + b"h" * 0x10000, "what was refused is lost")
    expect(not transport.reading and type(body) is StreamReader, "a body that was refused is pushed on")
    protocol.read_on()
    protocol.data_received(b"1\r\ni\r\n0\r\n\r\n")
    expect(transport.reading and body.read_nowait() == b"i" and body.is_eof(), "a body that was pushed does not go on")


class _Bucket:
    """A sink for the check."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.full = False

    def receive(self, data: bytes) -> bool:
        """Keep the data."""
        self.received.append(data)
        return not self.full


PUSHING = PrivatePart("aiohttp bodies", _check_pushing, instead="more CPU per token")


def read_on(response: aiohttp.ClientResponse) -> None:
    """Read the socket of a response again, after a sink has refused more."""
    protocol = None if response.connection is None else response.connection.protocol
    if isinstance(protocol, UpstreamProtocol):
        protocol.read_on()
