"""Passes an answer on as it comes, at the pace of its client."""

import time
from collections.abc import Awaitable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from server.aio.aiohttp_internals.writing import write_now
from server.aio.deadline import Deadline
from server.api.channel import StalledClientError
from server.api.connection import Connection
from server.api.plain.attempts import Attempt
from server.api.plain.usage import UsageFinder
from server.api.tcp import AckClock, cut, leave_timeouts_to_us
from server.config.settings import Flow
from server.core.errors import Kind, UpstreamError
from server.upstreams.translate import FOREIGN, translate

# Of the upstream's head. What else it says is about its own connection, or for nobody but the gateway.
PASSED_ON = ("Content-Type", "Content-Disposition")
UNBUFFERED = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}  # of an event stream
How = Literal["answered", "stalled", "gone"]


@dataclass(slots=True)
class Passing:
    """How far an answer has come. `drained` are the seconds in which writes to the client were blocked."""

    size: int = 0
    drained: float = 0.0
    last: float = 0.0  # when the upstream said something, or the client took the rest; time.monotonic()


class Answer:
    """An answer whose head has come, and its response."""

    def __init__(self, request: web.Request, attempt: Attempt, flow: Flow, headers: Mapping[str, str]) -> None:
        upstream = attempt.response
        self.response = web.StreamResponse(status=upstream.status, headers=_headers(upstream, headers))
        if upstream.content_length is not None and "Content-Encoding" not in upstream.headers:
            self.response.content_length = upstream.content_length
        self.passing = Passing()
        self.usage = UsageFinder(upstream.content_type)
        self._request = request
        self._attempt = attempt
        self._flow = flow

    async def run(self, *, watched: bool) -> How:
        """Pass the answer on to its end; return how that went. `watched`: the client has sent all of its request.

        If it breaks off, the client's connection is cut: a part must not look like the whole.

        Raises:
            UpstreamError: the upstream broke off.
            CancelledError: the client has gone.

        """
        protocol = self._request.protocol
        assert isinstance(protocol, Connection)
        try:
            writer = await self.response.prepare(self._request)
            assert writer is not None  # the response was not prepared before
            leave_timeouts_to_us(self._request.transport)
            with protocol.delivering() if watched else nullcontext():
                await self._relay(writer)
                await self._patiently(self.response.write_eof())
        except StalledClientError:
            cut(self._request.transport)
            return "stalled"
        except ConnectionError:
            return "gone"
        except UpstreamError:
            cut(self._request.transport)
            raise
        return "answered"

    async def _relay(self, writer: AbstractStreamWriter) -> None:
        """Write the body as it comes. While the client takes none of it, the upstream is not read.

        Raises UpstreamError, StalledClientError, ConnectionError.
        """
        body, passing, silence = self._attempt.response.content, self.passing, self._attempt.silence
        try:
            with Deadline() as deadline:
                passing.last = time.monotonic()
                deadline.follow(passing, silence)
                while data := await _read(body):
                    self._write(writer, data)
                    if self._request.protocol.writing_paused:
                        deadline.set(None)  # the upstream is not the slow one now
                        await self._patiently(writer.drain())
                        deadline.follow(passing, silence)
                    passing.last = time.monotonic()
        except TimeoutError:
            raise UpstreamError(Kind.IDLE_TIMEOUT, "The upstream stopped in the middle of its answer.") from None

    def _write(self, writer: AbstractStreamWriter, data: bytes) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self.usage.feed(data)
        self.passing.size += len(data)
        write_now(writer, data)

    async def _patiently(self, write: Awaitable[None]) -> None:
        """Wait for a write while the client acknowledges a byte now and then. Raises StalledClientError."""
        started = self.passing.last = time.monotonic()
        protocol = self._request.protocol
        try:
            async with AckClock(protocol.transport, lambda: protocol.writing_paused, self._flow.drain_timeout):
                await write
        except TimeoutError:
            raise StalledClientError from None
        finally:
            self.passing.last = time.monotonic()
            self.passing.drained += self.passing.last - started
        if protocol.transport is None or protocol.transport.is_closing():
            raise ConnectionResetError("the client has gone")  # a drain that the loss woke returns silently


async def _read(body: aiohttp.StreamReader) -> bytes:
    """Return what comes next of a body, empty at its end. Raises UpstreamError."""
    try:
        return await body.readany()
    except FOREIGN as error:
        raise translate(error, in_body=True) from error.with_traceback(None)  # see `Attempt._broke_off`


def _headers(upstream: aiohttp.ClientResponse, own: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a response: what is said of the body, and our own."""
    headers = {name: upstream.headers[name] for name in PASSED_ON if name in upstream.headers}
    unbuffered = UNBUFFERED if upstream.content_type == "text/event-stream" else {}
    return {**headers, **unbuffered, **own}
