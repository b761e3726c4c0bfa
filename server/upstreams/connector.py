"""The pool of connections to one upstream."""

import time
from typing import Any

import aiohttp

from server.aio.aiohttp_internals import use_upstream_protocol
from server.upstreams.connecting import Resolver, current_phases, upstream_socket

KEEPALIVE_TIMEOUT = 30.0  # seconds that an idle connection is kept


class UpstreamConnector(aiohttp.TCPConnector):
    """aiohttp's pool without a limit: the gateway has limits of its own."""

    def __init__(self) -> None:
        super().__init__(
            limit=0, resolver=Resolver(), socket_factory=upstream_socket, keepalive_timeout=KEEPALIVE_TIMEOUT
        )
        use_upstream_protocol(self)

    async def connect(self, *args: Any, **options: Any) -> aiohttp.connector.Connection:
        """Return a connection, kept or new. Note for the attempt how long it waited and when it could send.

        aiohttp's own tracing awaits a dozen signals per request for these two times. The arguments are aiohttp's.
        """
        phases, began = current_phases.get(), time.monotonic()
        connection = await super().connect(*args, **options)
        if phases is not None:
            phases.sent = time.monotonic()  # the request follows in the same turn of the event loop
            phases.connected(phases.sent)
            phases.waited += phases.sent - began
        return connection
