"""The HTTP connection: low write-buffer marks, and OpenAI-shaped answers to what the parser refuses."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import orjson
import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from server.aio.aiohttp_internals.queues import use_small_request_queue
from server.api.errors import new_request_id
from server.api.tcp import leave_timeouts_to_us
from server.core.errors import error_body
from server.telemetry.logs import LineLimit, cause

KEEPALIVE_TIMEOUT = 75.0  # seconds that an idle connection is kept; above nginx's own 60
LINGERING = 2.0  # seconds that the rest of a refused body is read and dropped, so that its client gets to the answer
HEADER_TIMEOUT = 15.0  # seconds for the first request of a connection: a slow head holds nothing but a socket
MAX_LINE = 16_384  # bytes of the request line, and of one header
MAX_HEADERS = 100
# aiohttp would name its version and Python's; a browser must not take an error that quotes a request for a page.
HEADERS = {"Server": "sluiceway", "X-Content-Type-Options": "nosniff"}
BAD_REQUESTS = LineLimit(10)  # of malformed requests: a client can send thousands a second
log = structlog.get_logger("sluiceway.http")


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:  # noqa: ARG001 — aiohttp's signal
    """Give every response what all of them carry, before its head is sent."""
    response.headers.update(HEADERS)
    if (request_id := response.headers.get("X-Request-Id")) is not None:
        response.headers["request-id"] = request_id  # the name under which Anthropic's SDKs look for it
    if response.content_type == "application/json":  # prompts, answers, and who may see them
        response.headers.setdefault("Cache-Control", "no-store")


class Connection(web.RequestHandler):
    """aiohttp's protocol with the write-buffer marks at zero: the kernel's bounded buffer is the only one below us."""

    __slots__ = ("_delivering", "_head_timer", "_timeouts_are_ours", "_unended", "fresh")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fresh = True  # no request has come yet
        self._delivering = False  # a stream's response is under way
        self._timeouts_are_ours = False
        self._unended = b""  # of the first request's head: its last three bytes, which may begin the head's end
        use_small_request_queue(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the marks; uvloop's defaults differ from asyncio's."""
        super().connection_made(transport)
        stream = cast("asyncio.Transport", transport)  # uvloop's transports are none of asyncio's classes
        stream.set_write_buffer_limits(high=0, low=0)
        loop = asyncio.get_running_loop()
        self._head_timer: asyncio.TimerHandle | None = loop.call_later(HEADER_TIMEOUT, self._no_request, stream)

    def data_received(self, data: bytes) -> None:
        """Stop the clock of the first request when its head is here."""
        super().data_received(data)
        if self.fresh:
            self._look_for_head(data)
        if self._delivering:
            self._stay_in_sight()

    def begin_delivery(self) -> None:
        """Close the connection if its client cannot be seen to leave. Call `end_delivery` later.

        A client may send more requests before the answer to this one has ended. When many wait, aiohttp stops reading,
        and nobody would learn that the client has gone: its stream would go on.
        """
        self._delivering = True
        self._stay_in_sight()

    def end_delivery(self) -> None:
        """Note that the stream's response is over."""
        self._delivering = False

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Deliver while the block runs."""
        self.begin_delivery()
        try:
            yield
        finally:
            self.end_delivery()

    def leave_timeouts_to_us(self) -> None:
        """Have a client that vanishes noticed by the gateway, and not by the kernel, from its first stream on."""
        if not self._timeouts_are_ours:
            self._timeouts_are_ours = True
            leave_timeouts_to_us(self.transport)

    def _stay_in_sight(self) -> None:
        transport = self.transport
        if transport is not None and not transport.is_reading() and not transport.is_closing():
            transport.abort()

    def _look_for_head(self, data: bytes) -> None:
        """Find the blank line that ends a head (RFC 9112, section 2.1); blank lines before a request do not count."""
        head = (self._unended + data) if self._unended else data.lstrip(b"\r\n")
        self._unended = head[-3:]
        if b"\r\n\r\n" in head:
            self._begun()

    def _begun(self) -> None:
        self.fresh = False
        self._unended = b""
        self._stop_clock()

    def _stop_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _no_request(self, transport: asyncio.Transport) -> None:
        if self.fresh:
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock of the first request."""
        self._stop_clock()
        if exc is not None:  # aiohttp keeps it in the request; a write that failed has left the stream in its traceback
            exc = exc.with_traceback(None)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 — aiohttp's words may quote the request
    ) -> web.StreamResponse:
        """Answer in OpenAI's shape, with one log line and no traceback. Nothing of the request is repeated."""
        if self.fresh:
            self._begun()  # the parser has refused its head
        facts = {} if exc is None else {"error": type(exc).__name__} if status < 500 else cause(exc)
        if status >= 500:
            log.error("handler failed", status=status, **facts)
        elif (left_out := BAD_REQUESTS.take(time.monotonic())) is not None:
            log.warning("bad request", status=status, **facts, **({"left_out": left_out} if left_out else {}))
        if isinstance(request.writer, AbstractStreamWriter) and request.writer.output_size > 0:
            raise ConnectionError("a response is under way already")
        kind = "invalid_request_error" if status < 500 else "api_error"
        response = web.Response(
            status=status,
            body=orjson.dumps(
                error_body(_message(status, exc), "bad_http" if status < 500 else "internal_error", kind)
            ),
            content_type="application/json",
            headers={**HEADERS, "Cache-Control": "no-store", "X-Request-Id": new_request_id()},
        )
        response.force_close()
        return response


def _message(status: int, exc: BaseException | None) -> str:
    if status >= 500:
        return "The gateway failed on this request."
    name = type(exc).__name__
    return "A header or the request line is too long." if "TooLong" in name else f"This is not valid HTTP ({name})."


def connection_options() -> dict[str, Any]:
    """Return the keyword arguments that every `Connection` is made with."""
    return {
        "keepalive_timeout": KEEPALIVE_TIMEOUT,
        "lingering_time": LINGERING,
        "max_line_size": MAX_LINE,
        "max_field_size": MAX_LINE,
        "max_headers": MAX_HEADERS,
        "access_log": None,
        "read_bufsize": 65_536,
    }
