"""Every reach into aiohttp's private parts, each with its reason, its check at import, and the plain way without it.

Written for aiohttp 3.14; `setup.cfg` bounds it. `tests/aio/test_aiohttp_internals.py` takes each part away.
"""

import asyncio
import inspect
import ssl
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import set_result
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from yarl import URL

from server.aio.private_part import PrivatePart, completed, expect

T = TypeVar("T")
NO_LOOP: Any = object()  # the checks make objects that store their event loop and do not use it


class FakeTransport:
    """A transport for the checks: it keeps what is written, and whether it may read."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True

    def write(self, data: bytes) -> None:
        """Keep the data."""
        self.written += data

    def writelines(self, parts: list[bytes]) -> None:
        """Keep the data."""
        self.written += b"".join(parts)

    def is_closing(self) -> bool:
        """Whether the connection is being closed: never."""
        return False

    def close(self) -> None:
        """Stop reading."""
        self.reading = False

    def pause_reading(self) -> None:
        """Stop reading."""
        self.reading = False

    def resume_reading(self) -> None:
        """Read again."""
        self.reading = True


# --- Small queues: aiohttp keeps a `collections.deque` in five places for every stream, 660 bytes each ---------------


class SmallDeque(list[T]):
    """A `collections.deque` for few elements. An empty one takes 72 bytes; `popleft` moves all other elements."""

    __slots__ = ()

    def popleft(self) -> T:
        """Remove and return the first element. Raises IndexError if there is none."""
        return self.pop(0)

    def appendleft(self, value: T) -> None:
        """Add an element before all others."""
        self.insert(0, value)


def use_small_queues(body: StreamReader, *, chunked: bool = False) -> None:
    """Replace a body's queues, whatever they hold. `chunked`: it will get one for the ends of its chunks, too."""
    if body is not EMPTY_PAYLOAD and SMALL_QUEUES.usable:
        inner: Any = body
        inner._buffer = SmallDeque(inner._buffer)
        splits = inner._http_chunk_splits
        if chunked or splits is not None:
            inner._http_chunk_splits = SmallDeque(splits or ())


def use_small_request_queue(protocol: web.RequestHandler) -> None:
    """Replace the queue of requests that wait for their turn: a client hardly ever sends a second one."""
    if SMALL_QUEUES.usable:
        inner: Any = protocol
        inner._messages = SmallDeque()


def _check_small_queues() -> None:
    body: Any = StreamReader(NO_LOOP, 64, loop=NO_LOOP)
    body.begin_http_chunk_receiving()
    request, response = _request_handler(), ResponseHandler(NO_LOOP)
    queues = (body._buffer, body._http_chunk_splits, request._messages, response._buffer)
    expect(all(type(queue) is deque and not queue for queue in queues), "a queue is no empty deque")
    _check_body_with_small_queues()


def _check_body_with_small_queues() -> None:
    """Feed two chunks to a body with small queues: both come out."""
    protocol = SimpleNamespace(resume_reading=lambda **_: None)
    body: Any = StreamReader(protocol, 64, loop=NO_LOOP)  # type: ignore[arg-type]
    body._buffer, body._http_chunk_splits = SmallDeque(), SmallDeque()
    for chunk in (b"one", b"two"):
        body.begin_http_chunk_receiving()
        body.feed_data(chunk)
        body.end_http_chunk_receiving()
    body.feed_eof()
    expect(completed(body.readchunk()) == (b"one", True), "a chunk is read wrongly")
    expect(completed(body.readany()) == b"two", "the rest of a body is read wrongly")


def _request_handler() -> Any:
    server: Any = SimpleNamespace(request_handler=None, request_factory=None)  # as much of one as is read
    return web.RequestHandler(server, loop=NO_LOOP)


SMALL_QUEUES = PrivatePart("aiohttp queues", _check_small_queues, instead="3 KB more for each open stream")


# --- The upstream's protocol: aiohttp resumes a connection after every read, paused or not, and gives what has come ---
# --- on an idle one to the next request (aiohttp#13656) --------------------------------------------------------------


class UpstreamProtocol(ResponseHandler):
    """aiohttp's protocol, but it resumes only what was paused, pushes bodies, and tells what nobody asked for.

    Resuming a connection that is not paused runs the HTTP parser on nothing and calls the transport. That is a twelfth
    of the instructions that a bare relay needs per token.

    An idle connection has no parser, as a new one has none before its first request. aiohttp stores what comes then,
    and parses it when the next request is sent. So the connector asks `is_clean` before that.
    """

    # Each as an attribute of aiohttp's own kind would cost every connection a dict of 800 bytes.
    __slots__ = ("_fault", "_held", "_last_parser", "_pushed", "between_chunks", "sink", "was_taken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.was_taken = False  # by a request, or by `connect_idle`; so it has been idle when it is taken again
        self._last_parser: Any = None  # of the last answer, if there was one
        self.sink: Sink | None = None  # what the body is pushed to
        self._pushed: Any = None  # the body; Any, because its private parts are used
        self.between_chunks = False  # of a pushed body: the parser waits for the head of a chunk
        self._held = False  # the socket is not read, because the sink has refused more
        self._fault: Exception | None = None  # what the sink has raised
        if SMALL_QUEUES.usable:
            self._buffer: Any = SmallDeque()  # heads that nobody has taken yet: there is never more than one

    def rest(self) -> None:
        """Be idle: the last answer has ended, and what comes from now on belongs to nobody."""
        self._last_parser, self._parser = self._parser, None

    @property
    def is_clean(self) -> bool:
        """Whether it rests, and nothing has come since the last answer: no byte and no end of the connection."""
        rests = self._parser is None and self.is_connected()
        return rests and not self.should_close and not _has_begun(self._last_parser)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Hand over a head with its body."""
        message, body = data
        use_small_queues(body, chunked=message.chunked)
        super().feed_data(data, size)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading after a pause. The parser keeps something back only if it was paused."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def data_received(self, data: bytes) -> None:
        """Parse what was read. If the body is pushed, give the sink all that the read has brought."""
        sink = self.sink
        if sink is None:
            super().data_received(data)
            return
        if self.between_chunks:
            # Nearly every read is one whole chunk (RFC 9112, section 7.1). The parser would be where it is now.
            start = data.find(b"\r\n", 0, CHUNK_HEAD) + 2
            size = len(data) - start - 2
            if size > 0 and data[:start] == b"%x\r\n" % size and data[-2:] == b"\r\n":
                try:
                    if not sink.receive(data[start:-2]):
                        self._refused()
                except Exception as fault:  # noqa: BLE001 — whatever it is, it ends this stream and no other
                    self._refused(fault)
                return
        super().data_received(data)
        if data[-2:] != b"\r\n":
            self.between_chunks = False  # a chunk's head may have begun
        self._give(sink)

    def _give(self, sink: "Sink") -> None:
        """Give the sink what the parser has made of a read."""
        parts = self._pushed._buffer
        try:
            while parts:
                if not sink.receive(_first(parts, PUSHED_AT_ONCE)):
                    self._refused()
                    return
        except Exception as fault:  # noqa: BLE001 — as above
            self._refused(fault)
        if self._exception is not None:  # the parser's error: a body that waits would not learn of it
            self._refused()
        elif self._pushed is not None and self._pushed._eof:
            self._stop_pushing()  # what comes now belongs to nobody, or to the next request

    def _refused(self, fault: Exception | None = None) -> None:
        """Stop pushing and reading, and wake the task that waits in `push`."""
        body, self._fault = self._pushed, fault
        if body is None:
            return  # it was stopped by the sink itself
        body._size = sum(map(len, body._buffer))
        self._stop_pushing()
        if not body._eof:
            self._held = True
            self._pause_transport_reading()
        if body._waiter is not None:
            set_result(body._waiter, None)

    def _start_pushing(self, body: StreamReader, sink: "Sink") -> None:
        self._pushed = cast("Any", body)
        self._pushed.__class__ = PushedBody
        self.sink, self.between_chunks = sink, False

    def _stop_pushing(self) -> None:
        if self._pushed is not None:
            self._pushed.__class__ = StreamReader
            self.sink = self._pushed = None

    async def push(self, body: StreamReader, sink: "Sink") -> None:
        """Hand `body` to `sink` as it arrives. Return when it ends, or when the sink refuses more.

        Raises SinkError, and what reading raises.
        """
        self.read_on()
        self._start_pushing(body, sink)
        inner: Any = body
        try:
            await inner._wait("push")
        finally:
            if self._pushed is body:
                self._stop_pushing()
            fault, self._fault = self._fault, None
        if fault is not None:
            try:
                raise SinkError(fault)
            finally:
                del fault  # it will know this frame
        if self._exception is not None and not body.is_eof():
            raise self._exception

    def read_on(self) -> None:
        """Read the socket again, after a sink has refused more."""
        if self._held:
            self._held = False
            self._resume_transport_reading()


def _first(parts: Any, size: int) -> bytes:
    """Take the first parts of a queue, of about so many bytes; return them joined."""
    first: bytes = parts.popleft()
    if not parts:
        return first
    taken = [first]
    while parts and size > len(first):
        size -= len(parts[0])
        taken.append(parts.popleft())
    return b"".join(taken)


class PushedBody(StreamReader):
    """A body that is pushed: what arrives waits only until the parser is done with the read."""

    __slots__ = ()

    def feed_data(self, data: bytes, size: int = 0) -> bool:  # noqa: ARG002 — aiohttp's signature
        """Keep a part of the body."""
        self._buffer.append(data)
        return False

    def begin_http_chunk_receiving(self) -> None:
        """Note that a chunk has begun."""
        self._protocol.between_chunks = False  # type: ignore[attr-defined]  # it is an UpstreamProtocol

    def end_http_chunk_receiving(self) -> None:
        """Note that a chunk has ended."""
        self._protocol.between_chunks = True  # type: ignore[attr-defined]


def _has_begun(parser: Any) -> bool:
    """Whether a parser has the beginning of one more answer, which came in one read with the end of the last one."""
    try:
        return parser is not None and parser.feed_eof() is not None
    except Exception:  # noqa: BLE001 — a beginning that cannot be an answer fails in any way
        return True


def _check_upstream_protocol() -> None:
    _check_pausing()
    _check_idle_connection()


def _check_pausing() -> None:
    """Receive a body that is larger than its buffers: it pauses the connection, which resumes when it has been read."""
    protocol, transport = UpstreamProtocol(NO_LOOP), FakeTransport()
    inner: Any = protocol
    inner.transport = transport
    protocol.set_response_params(read_bufsize=64)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    message, body = completed(protocol.read())
    expect(message.code == 200, "a head is read wrongly")
    for _ in range(2):  # a pause that follows a pause
        protocol.data_received(b"100\r\n" + b"x" * 256 + b"\r\n100\r\n" + b"y" * 256 + b"\r\n")
        expect(not transport.reading, "a full buffer does not pause the connection")
        text = b"".join(body.read_nowait() for _ in range(3))  # the parser had kept the second chunk back
        expect(text == b"x" * 256 + b"y" * 256, "a body is read wrongly")
        expect(transport.reading, "a connection that was paused is not resumed")
    protocol.data_received(b"0\r\n\r\n")
    expect(body.is_eof(), "the end of a body is missed")


def _check_idle_connection() -> None:
    """Receive answers with something after them, in the same read or while the connection is idle."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    for same_read, later, clean in (
        (b"", b"", True),
        (answer, b"", False),
        (b"H", b"", False),
        (answer[:20], b"", False),
        (b"", answer, False),
        (b"", b"H", False),
        (b"", b"\r\n", False),
    ):
        protocol = UpstreamProtocol(NO_LOOP)
        inner: Any = protocol
        inner.transport = FakeTransport()
        for asked in range(2):
            protocol.set_response_params()
            protocol.data_received(answer + (same_read if asked else b""))
            message, body = completed(protocol.read())
            expect((message.code, body.is_eof()) == (200, True), "an answer is read wrongly")
            protocol.rest()
            protocol.data_received(later if asked else b"")
            expect(protocol.is_clean == (clean or not asked), "a connection that was idle is judged wrongly")
    expect(callable(aiohttp.connector.Connection.add_callback), "the end of an answer is not told")


UPSTREAM_PROTOCOL = PrivatePart(
    "aiohttp protocol", _check_upstream_protocol, instead="no connection is kept, and more CPU per token"
)


def use_upstream_protocol(connector: aiohttp.TCPConnector) -> None:
    """Make a connector's connections `UpstreamProtocol`s. aiohttp has no public way to choose the class."""
    if not UPSTREAM_PROTOCOL.usable:
        return
    factory = vars(connector).get("_factory")
    if isinstance(factory, partial) and factory.func is ResponseHandler:
        inner: Any = connector
        inner._factory = partial(UpstreamProtocol, **factory.keywords)
    else:
        UPSTREAM_PROTOCOL.lost("TCPConnector has no factory of protocols")


def watch_idle(connection: aiohttp.connector.Connection) -> None:
    """When `connection` is released, let its protocol be idle. One that could not say what came then is not kept."""
    protocol = connection.protocol
    assert protocol is not None
    if isinstance(protocol, UpstreamProtocol):
        protocol.was_taken = True
        connection.add_callback(protocol.rest)
    else:
        connection.add_callback(protocol.force_close)


# --- Pushing: a body is handed on in the turn of the event loop in which its socket was read --------------------------


PUSHED_AT_ONCE = 16_384  # bytes: one read may bring more, and the sink may refuse the rest of it
CHUNK_HEAD = 8  # bytes within which the head of a chunk ends, if a read is one chunk


class Sink(Protocol):
    """Takes a body as it arrives."""

    def receive(self, data: bytes) -> bool:
        """Take what one read of the socket has brought. Return whether more may come."""


class SinkError(Exception):
    """A sink has raised an error. It is not an error of the body."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(str(fault))
        self._fault: Exception | None = fault

    def take(self) -> Exception:
        """Return the sink's error, once. This one does not keep it: raised again, it has this one as its context."""
        fault, self._fault = self._fault, None
        assert fault is not None
        return fault


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
    if PUSHING.usable and isinstance(protocol, UpstreamProtocol) and type(body) is StreamReader:
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


# --- Connecting ahead: aiohttp has no public way to put a connection into the pool -----------------------------------


async def connect_idle(
    session: aiohttp.ClientSession, url: str, *, tls: ssl.SSLContext, proxy: str | None, timeout: aiohttp.ClientTimeout
) -> None:
    """Take a connection to `url` from the session's pool or make one, and leave it there. Sends nothing.

    Call only if `can_connect_ahead`. Raises what connecting does.
    """
    assert session.connector is not None
    request = aiohttp.ClientRequest("POST", URL(url), ssl=tls, proxy=URL(proxy) if proxy else None, session=session)
    connection = await session.connector.connect(request, traces=[], timeout=timeout)
    connection.release()


def _check_connect_ahead() -> None:
    inspect.signature(aiohttp.ClientRequest).bind("POST", None, session=None, ssl=None, proxy=None)
    inspect.signature(aiohttp.TCPConnector.connect).bind(None, None, traces=[], timeout=None)
    expect(inspect.iscoroutinefunction(aiohttp.TCPConnector.connect), "connecting is no coroutine")
    expect(hasattr(aiohttp.connector.Connection, "release"), "a connection cannot be given back")


CONNECT_AHEAD = PrivatePart("aiohttp connecting", _check_connect_ahead, instead="requests connect for themselves")


def can_connect_ahead() -> bool:
    """Whether a connection can be made before its request is there, and is kept until then."""
    return CONNECT_AHEAD.usable and UPSTREAM_PROTOCOL.usable


# --- Writing to a client: without waiting, and without what `StreamWriter.write` adds for other bodies ---------------


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
    protocol = _request_handler()
    cancelled: list[bool] = []
    protocol._keepalive_handle = SimpleNamespace(cancel=lambda: cancelled.append(True))
    protocol.keep_alive(True)
    expect(cancelled == [True] and protocol._keepalive_handle is None, "the timer goes on")


WRITE_NOW = PrivatePart("aiohttp writing", _check_write_now, instead="what aiohttp waits for is dropped")
CHUNKS = PrivatePart("aiohttp chunks", _check_chunks, instead="aiohttp writes the chunks, with more CPU per token")
HEAD_AS_BYTES = PrivatePart("aiohttp headers", _check_head_as_bytes, instead="2 KB more for each open stream")
IDLE_CLOCK = PrivatePart("aiohttp idle clock", _check_idle_clock, instead="half a KB more for each open stream")
