"""Connections to upstreams: aiohttp's protocol, with what it lacks.

aiohttp resumes a connection after every read, paused or not. It gives what has come on an idle connection to the next
request (aiohttp#13656). It wakes a task for each read. And it has no public way to put a connection into the pool.
"""

import asyncio
import inspect
import ssl
from functools import partial
from itertools import accumulate, islice
from typing import Any, Protocol, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import set_result
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader
from yarl import URL

from server.aio.aiohttp_internals.queues import NO_LOOP, SMALL_QUEUES, FakeTransport, SmallDeque, use_small_queues
from server.aio.private_part import PrivatePart, completed, expect

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


class UpstreamProtocol(ResponseHandler):
    """aiohttp's protocol, but it resumes only what was paused, pushes bodies, and tells what nobody asked for.

    Resuming a connection that is not paused runs the HTTP parser on nothing and calls the transport. That is a twelfth
    of the instructions that a bare relay needs per token.

    An idle connection has no parser, as a new one has none before its first request. aiohttp stores what comes then,
    and parses it when the next request is sent. So the connector asks `is_clean` before that.
    """

    # Each as an attribute of aiohttp's own kind would cost every connection a dict of 800 bytes.
    __slots__ = ("_fault", "_held", "_last_parser", "_pushed", "between_chunks", "coded", "sink", "was_taken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.was_taken = False  # by a request, or by `connect_idle`; so it has been idle when it is taken again
        self._last_parser: Any = None  # of the last answer, if there was one
        self.sink: Sink | None = None  # what the body is pushed to
        self._pushed: Any = None  # the body; Any, because its private parts are used
        self.between_chunks = False  # of a pushed body: the parser waits for the head of a chunk
        self.coded = False  # the body is compressed, so that what a read brings is not yet the body: it is not pushed
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
        self.coded = message.compression is not None
        use_small_queues(body, chunked=message.chunked)
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Note that the connection cannot be used any more, and tell the reader of the body that was broken off.

        aiohttp tells only who waits for a head, if the parser fails. The reader of a body would wait for ever.
        """
        super().set_exception(exc, *cause)
        body = self._payload
        if self.sink is None and body is not None and not body._eof and body.exception() is None:
            body.set_exception(exc, *cause)

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
    if len(parts) == 1:
        first: bytes = parts.pop()
        return first
    ends = accumulate(map(len, parts))
    count = next((number for number, end in enumerate(ends, 1) if end >= size), len(parts))
    first = b"".join(islice(parts, count))
    if isinstance(parts, SmallDeque):
        # Chunks of one byte make thousands of parts, and its `popleft` moves all that follow.
        del parts[:count]
    else:
        for _ in range(count):
            parts.popleft()
    return first


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
    broken: Any = UpstreamProtocol(NO_LOOP)
    broken.transport = FakeTransport()
    broken.set_response_params(read_bufsize=64)
    broken.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    _, body = completed(broken.read())
    broken.data_received(b"no chunk\r\n")
    expect(body.exception() is not None, "a body that breaks off tells nobody")


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


def idle_connections(connector: aiohttp.BaseConnector) -> int:
    """Return how many connections wait in the pool. Call only if `can_connect_ahead`."""
    inner: Any = connector
    return sum(map(len, inner._conns.values()))


def _check_connect_ahead() -> None:
    inspect.signature(aiohttp.ClientRequest).bind("POST", None, session=None, ssl=None, proxy=None)
    inspect.signature(aiohttp.TCPConnector.connect).bind(None, None, traces=[], timeout=None)
    expect(inspect.iscoroutinefunction(aiohttp.TCPConnector.connect), "connecting is no coroutine")
    expect(hasattr(aiohttp.connector.Connection, "release"), "a connection cannot be given back")
    expect("_conns" in aiohttp.BaseConnector._get.__code__.co_names, "idle connections are kept elsewhere")


CONNECT_AHEAD = PrivatePart("aiohttp connecting", _check_connect_ahead, instead="requests connect for themselves")


def can_connect_ahead() -> bool:
    """Whether a connection can be made before its request is there, and is kept until then."""
    return CONNECT_AHEAD.usable and UPSTREAM_PROTOCOL.usable
