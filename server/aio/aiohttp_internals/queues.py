"""Small queues: aiohttp keeps a `collections.deque` in five places for every stream, 660 bytes each.

Also here is what the checks of all private parts share.
"""

from collections import deque
from types import SimpleNamespace
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

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
    request, response = request_handler(), ResponseHandler(NO_LOOP)
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


def request_handler() -> Any:
    """Return a connection of the server for the checks."""
    server: Any = SimpleNamespace(request_handler=None, request_factory=None)  # as much of one as is read
    return web.RequestHandler(server, loop=NO_LOOP)


SMALL_QUEUES = PrivatePart("aiohttp queues", _check_small_queues, instead="3 KB more for each open stream")
