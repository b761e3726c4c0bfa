"""The listening sockets. Every connection that they accept inherits their bounds."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from server.api.port_owner import port_owner
from server.config.settings import Flow, is_loopback

BACKLOG = 4096
NOTSENT_LOWAT = 16_384  # bytes that the kernel may hold unsent before the transport counts as full
USER_TIMEOUT_MS = 30_000  # unacknowledged data after which a vanished client is noticed
KEEPALIVE = (15, 5, 3)  # seconds of silence, seconds between two probes, probes: for a client that is sent nothing
ACCEPT_TURNS = 4  # of the event loop: asyncio takes three from accepting a connection to telling its protocol
TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; the socket module of 3.11 has no name for it


def listen(host: str, port: int, flow: Flow) -> list[socket.socket]:
    """Return a listening socket for each address of `host`. Raises OSError with one sentence for the operator."""
    with contextlib.ExitStack() as sockets:
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            listening = [
                sockets.enter_context(_listening(family, kind, protocol, address, flow))
                for family, kind, protocol, _, address in dict.fromkeys(addresses)
            ]
        except OSError as error:
            raise OSError(cannot_listen(host, port, error)) from error
        sockets.pop_all()  # from now on they are the caller's
        return listening


def cannot_listen(host: str, port: int, error: OSError) -> str:
    """Return one sentence that says why a port cannot be listened on, and which process has it."""
    owner = port_owner(port) if error.errno == errno.EADDRINUSE else None
    return f"cannot listen on {host} port {port}: {error.strerror}" + (f" by {owner}" if owner else "")


def _listening(family: int, kind: int, protocol: int, address: Any, flow: Flow) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound(sock, flow)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def exposed(sockets: Sequence[socket.socket]) -> str | None:
    """Return the first address of listening sockets that other machines can reach, or None."""
    addresses = [str(sock.getsockname()[0]) for sock in sockets]
    return next((address for address in addresses if not is_loopback(address)), None)


def bound(sock: socket.socket, flow: Flow) -> None:
    """Bound the send side of every connection that a listener accepts, and notice clients that vanish.

    Without `TCP_NOTSENT_LOWAT` the kernel takes megabytes before a write blocks. No completion is that long, so a slow
    client would never be noticed.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, flow.send_buffer_bytes)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, min(NOTSENT_LOWAT, flow.send_buffer_bytes))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), KEEPALIVE, strict=True):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


async def close(servers: Sequence[asyncio.Server], serve: Callable[[], asyncio.Protocol] | None) -> None:
    """Close listeners. When this returns, each connection that they have accepted is known to its protocol.

    If nobody else listens on these sockets, `serve` makes protocols for the connections that the kernel has made
    meanwhile. It would reset them, and a proxy that has sent a POST on one could not know whether it was read.

    asyncio accepts a connection in one turn of the event loop and makes its transport in the next. If the listener is
    closed in between, asyncio neither answers the connection nor closes it. So asyncio's reader on the listening socket
    is removed first, and the listener is closed some turns later. uvloop makes the transport at once and tells the
    protocol a turn later; it has no such reader, and removing it does nothing.
    """
    loop = asyncio.get_running_loop()
    sockets = [sock for server in servers for sock in server.sockets]
    for sock in sockets:
        loop.remove_reader(sock.fileno())
    waiting = [socket.socket(fileno=os.dup(sock.fileno())) for sock in sockets] if serve is not None else []
    await _turns()
    for server in servers:
        server.close()
    await _turns()
    accepted = [connection for sock in waiting for connection in _accept_all(sock)]
    for connection in accepted:
        assert serve is not None
        with contextlib.suppress(OSError):  # its client may have gone
            await loop.connect_accepted_socket(serve, connection)


def _accept_all(sock: socket.socket) -> list[socket.socket]:
    """Accept all connections that wait, and close the listening socket in the same moment."""
    connections = []
    with sock, contextlib.suppress(OSError):
        while True:
            connection, _ = sock.accept()
            connections.append(connection)
            connection.setblocking(False)
    return connections


async def _turns() -> None:
    for _ in range(ACCEPT_TURNS):
        await asyncio.sleep(0)
