"""Connections to an upstream: how they are made, and how long each step takes.

aiohttp's tracing does not know TLS. But its connector takes a resolver, a socket factory and an SSL context, and calls
each of the three when one step begins.
"""

import asyncio
import functools
import os
import select
import socket
import ssl
import time
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult

from server.aio.aiohttp_internals.upstream import UpstreamProtocol, use_upstream_protocol, watch_idle
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
        """Resolve a name, and note how long that took. Raises OSError."""
        started = time.monotonic()
        try:
            addresses = await super().resolve(host, port, family)
        except OSError:
            # Without a descriptor the system's resolver says that the name is unknown, or that it failed for now. This
            # raises the true reason.
            socket.socket().close()
            raise
        if (phases := current_phases.get()) is not None:
            phases.dns = time.monotonic() - started
        return addresses


def upstream_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket that aiohttp connects at once. Its receive buffer is bounded, and a vanished peer is noticed."""
    if (phases := current_phases.get()) is not None and phases.connecting is None:
        phases.connecting = time.monotonic()
    family, kind, protocol, _, _ = info
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        if phases is not None:
            phases.no_socket = error.errno
        raise
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
    context.hostname_checks_common_name = False  # a certificate is valid for its alternative names (RFC 9525, 6.3)
    context.set_alpn_protocols(["http/1.1"])
    return context


KEEPALIVE_TIMEOUT = 30.0  # seconds that an idle connection is kept
TURNS = 3  # of the event loop, in which it reads what the kernel holds; asyncio's needs two of them, uvloop's one


async def _is_usable(connection: aiohttp.connector.Connection) -> bool:
    """Whether a connection is new, or nothing has come on it while it was idle (RFC 9112, section 9.2).

    What has come then is an answer to nobody: a second answer, the 408 of a proxy, or the end of the connection. The
    next request, of another owner, would take it for its own. The bytes may still be in the kernel. If there are some,
    the event loop reads them first: under TLS they may be a session ticket, which is nothing bad.
    """
    protocol = connection.protocol
    if not isinstance(protocol, UpstreamProtocol) or not protocol.was_taken:
        return True
    for _ in range(TURNS):
        if not protocol.is_clean:
            return False
        if not _has_unread(protocol.transport):
            return True
        await asyncio.sleep(0)
    return False


def _has_unread(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the kernel holds anything for a connection: bytes, its end, an error. Takes 1.5 microseconds."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


class UpstreamConnector(aiohttp.TCPConnector):
    """aiohttp's pool, but without a limit, because the gateway has limits of its own, and with a look before each use.

    aiohttp itself does not look whether a connection has received anything while it was idle.
    """

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
        connection = await self._usable(*args, **options)
        watch_idle(connection)
        if phases is not None:
            phases.sent = time.monotonic()  # the request follows in the same turn of the event loop
            phases.connected(phases.sent)
            phases.waited += phases.sent - began
        return connection

    async def _usable(self, *args: Any, **options: Any) -> aiohttp.connector.Connection:
        """Return a connection, new or clean. Kept ones that have received something are closed."""
        while True:
            connection = await self._connected(*args, **options)
            try:
                if await _is_usable(connection):
                    return connection
            except asyncio.CancelledError:
                connection.close()
                raise
            connection.close()

    async def _connected(self, *args: Any, **options: Any) -> aiohttp.connector.Connection:
        """Return a connection, new or kept.

        If a host has several addresses and each fails in its own way, aiohttp's error has no reason. Perhaps one of
        them was never tried, as the gateway had no descriptor left for it. That is then the reason.
        """
        phases = current_phases.get()
        if phases is not None:
            phases.no_socket = None
        try:
            return await super().connect(*args, **options)
        except aiohttp.ClientConnectorError as error:
            if phases is not None and phases.no_socket is not None:
                raise OSError(phases.no_socket, os.strerror(phases.no_socket)) from error
            raise
