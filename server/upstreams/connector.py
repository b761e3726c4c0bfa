"""The pool of connections to an upstream, and what makes a token cheap to read from one."""

import asyncio
import functools
import time
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

from server.aio.aiohttp_internals import SmallDeque, use_small_queues
from server.upstreams.connecting import Resolver, current_phases, upstream_socket

KEEPALIVE_TIMEOUT = 30.0  # seconds that an idle connection is kept


class UpstreamProtocol(ResponseHandler):
    """aiohttp's protocol, which does not resume what was not paused, and keeps its queues small.

    aiohttp's reader resumes the connection after every read, paused or not: an empty run of the HTTP parser and a
    call of the transport, a twelfth of the instructions that a bare relay takes for a token.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._buffer: Any = SmallDeque()  # heads that nobody has taken yet: there is never more than one

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Hand over a head with its body."""
        message, body = data
        use_small_queues(body, chunked=message.chunked)
        super().feed_data(data, size)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading after a pause; the parser keeps something back only where it was paused."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)


class UpstreamConnector(aiohttp.TCPConnector):
    """aiohttp's pool without a limit: the gateway has its own."""

    def __init__(self) -> None:
        super().__init__(
            limit=0, resolver=Resolver(), socket_factory=upstream_socket, keepalive_timeout=KEEPALIVE_TIMEOUT
        )
        # aiohttp has no public way to choose the protocol; tests/upstreams/test_connector.py tells when this one goes.
        self._factory: Any = functools.partial(UpstreamProtocol, loop=asyncio.get_running_loop())

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Return a connection, kept or new, and note for the attempt how long it waited and when it could send.

        aiohttp's own tracing would await a dozen signals a request for these two times.
        """
        phases, began = current_phases.get(), time.monotonic()
        connection = await super().connect(req, traces, timeout)
        if phases is not None:
            phases.sent = time.monotonic()  # the request follows in the same turn of the loop
            phases.connected(phases.sent)
            phases.waited += phases.sent - began
        return connection
