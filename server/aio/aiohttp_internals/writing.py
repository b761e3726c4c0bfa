"""Writing to a client: without waiting, and without what `StreamWriter.write` adds for other bodies."""

from types import SimpleNamespace
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import StreamWriter

from server.aio.aiohttp_internals.queues import NO_LOOP, FakeTransport, request_handler
from server.aio.private_part import PrivatePart, completed, expect


class LateHeadResponse(web.StreamResponse):
    """A response whose head goes out with its first bytes: on its own it would wake the client for nothing."""

    _send_headers_immediately = False  # aiohttp's switch for its own `Response`; LATE_HEAD


def _check_late_head() -> None:
    expect(vars(web.StreamResponse).get("_send_headers_immediately") is True, "StreamResponse has no such switch")


LATE_HEAD = PrivatePart("aiohttp heads", _check_late_head, instead="the head of a response is a packet of its own")


def write_now(writer: AbstractStreamWriter, data: bytes) -> None:
    """Hand data to the transport in this turn of the event loop. Raises ConnectionError if the client has gone.

    `drain=False` is not documented. Without it aiohttp waits for the transport now and then, after it has handed the
    data over. That wait is dropped: the caller watches the transport itself.
    """
    inner: Any = writer
    if WRITE_NOW.usable:
        completed(inner.write(data, drain=False))
        return
    size = writer.output_size
    write: Any = inner.write(data)
    try:
        future = write.send(None)
    except StopIteration:
        return
    write.close()
    # As a task does when it takes a future to wait for. Else the next `drain()`, which waits for the same, fails.
    future._asyncio_future_blocking = False  # the documentation of `asyncio.isfuture` names it
    if writer.output_size == size:
        raise RuntimeError("aiohttp waits before it writes")


def end_now(writer: AbstractStreamWriter) -> bool:
    """Hand the end of a body to the transport. Return False if only aiohttp's own `write_eof` can do that.

    Without waiting, as `write_now`, and with the same error.
    """
    if not (isinstance(writer, StreamWriter) and CHUNKS.usable):
        return False
    writer.set_eof()
    return True


CHUNK = b"%x\r\n%b\r\n"  # of HTTP/1.1 (RFC 9112, section 7.1): the length of the data, and the data


def takes_chunks(writer: AbstractStreamWriter) -> bool:
    """Whether what follows on `writer` may be written to the transport as `CHUNK`s, past aiohttp.

    `StreamWriter.write` also serves compression and bodies of a known length. That costs as much as the rest of a
    token's way to its client. Ask after the first write, with which the head goes out.
    """
    return isinstance(writer, StreamWriter) and writer.chunked and CHUNKS.usable


def forget_head(response: web.StreamResponse) -> None:
    """Drop a prepared response's headers: aiohttp has made bytes of them, and as objects they are 2 KB of a stream."""
    if HEAD_AS_BYTES.usable:
        response.headers.clear()


def stop_idle_clock(protocol: web.RequestHandler) -> None:
    """Drop the timer that closes an idle connection, half a KB. aiohttp makes a new one after the response."""
    if IDLE_CLOCK.usable:
        protocol.keep_alive(True)


def _writer() -> tuple[StreamWriter, Any]:
    """Return a writer that has the head of a chunked response, over a transport that takes no more: it is paused."""
    protocol: Any = BaseProtocol(NO_LOOP)
    protocol.transport = transport = FakeTransport()
    protocol._paused = True  # what a full transport sets
    writer = StreamWriter(protocol, NO_LOOP)
    writer.enable_chunking()
    headers = web.StreamResponse(headers={"X-Name": "value"}).headers
    completed(writer.write_headers("HTTP/1.1 200 OK", headers))
    headers.clear()
    return writer, transport


def _check_write_now() -> None:
    writer, transport = _writer()
    for _ in range(3):  # aiohttp waits after 64 KiB
        completed(writer.write(bytes(65_536), drain=False))
    expect(len(transport.written) > 3 * 65_536, "a write keeps data back")


def _check_chunks() -> None:
    """Write a body in both ways: the bytes are the same, and so is the end that aiohttp writes."""
    (plain, expected), (ours, transport) = _writer(), _writer()
    for size in (1, 15, 16, 4096, 70_000):
        completed(plain.write(bytes(size), drain=False))
    plain.set_eof()
    completed(ours.write(bytes(1), drain=False))
    expect(ours.chunked, "a writer of chunks is not called chunked")
    for size in (15, 16, 4096, 70_000):
        transport.write(CHUNK % (size, bytes(size)))
    ours.set_eof()
    expect(transport.written == expected.written, "aiohttp frames chunks differently")
    expect(transport.written.endswith(b"\r\n0\r\n\r\n"), "aiohttp ends a body differently")


def _check_head_as_bytes() -> None:
    writer, transport = _writer()
    completed(writer.write(b"x", drain=False))
    expect(b"\r\nX-Name: value\r\n" in transport.written, "a head is made of its headers later")


def _check_idle_clock() -> None:
    protocol = request_handler()
    cancelled: list[bool] = []
    protocol._keepalive_handle = SimpleNamespace(cancel=lambda: cancelled.append(True))
    protocol.keep_alive(True)
    expect(cancelled == [True] and protocol._keepalive_handle is None, "the timer goes on")


WRITE_NOW = PrivatePart("aiohttp writing", _check_write_now, instead="what aiohttp waits for is dropped")
CHUNKS = PrivatePart("aiohttp chunks", _check_chunks, instead="aiohttp writes the chunks, with more CPU per token")
HEAD_AS_BYTES = PrivatePart("aiohttp headers", _check_head_as_bytes, instead="2 KB more for each open stream")
IDLE_CLOCK = PrivatePart("aiohttp idle clock", _check_idle_clock, instead="half a KB more for each open stream")
