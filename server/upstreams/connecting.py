"""Connections to an upstream: how they are made, and how long each step takes.

aiohttp's tracing does not know TLS. But its connector takes a resolver, a socket factory and an SSL context, and calls
each of the three when one step begins.
"""

import functools
import socket
import ssl
import time
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult

from server.aio.aiohttp_internals import use_upstream_protocol
from server.core.timing import Phases

RECEIVE_BUFFER = 32_768  # bytes in the kernel for one upstream connection, so that a pause is felt upstream
USER_TIMEOUT_MS = 30_000  # unacknowledged data after which a vanished upstream is noticed

# The phases of the attempt that runs in this task. Neither the SDK nor the connector has a way to hand them through.
current_phases: ContextVar[Phases | None] = ContextVar("current_phases", default=None)


class Resolver(aiohttp.ThreadedResolver):
    """The system's resolver. aiohttp asks it only for names that are neither addresses nor cached."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name, and note how long that took."""
        started = time.monotonic()
        addresses = await super().resolve(host, port, family)
        if (phases := current_phases.get()) is not None:
            phases.dns = time.monotonic() - started
        return addresses


def upstream_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket that aiohttp connects at once. Its receive buffer is bounded, and a vanished peer is noticed."""
    if (phases := current_phases.get()) is not None and phases.connecting is None:
        phases.connecting = time.monotonic()
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return sock


class TimedTls(ssl.SSLObject):
    """The TLS of one connection. Its handshake is tried again each time data of the peer comes in."""

    _begun: float | None = None
    _phases: Phases | None = None

    def do_handshake(self) -> None:
        """Go on with the handshake. Note how long it took when it is done; until then this raises."""
        if self._begun is None:
            self._begun = time.monotonic()
            self._phases = current_phases.get()
        super().do_handshake()
        if self._phases is not None:
            self._phases.tls = time.monotonic() - self._begun
            self._phases = None


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS context that verifies an upstream: by the certificates of `ca_file`, or by the system's.

    Raises OSError.
    """
    if ca_file is None:
        return _system_context()  # reading the system's certificates takes 20 ms
    return _timed(ssl.create_default_context(cafile=ca_file))


@functools.cache
def _system_context() -> ssl.SSLContext:
    return _timed(ssl.create_default_context())


def _timed(context: ssl.SSLContext) -> ssl.SSLContext:
    context.sslobject_class = TimedTls
    context.set_alpn_protocols(["http/1.1"])
    return context


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
