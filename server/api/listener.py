"""The listening socket: every accepted connection inherits its bounds."""

import asyncio
import socket
from collections.abc import Sequence

from server.config.settings import Flow, is_loopback

BACKLOG = 4096
NOTSENT_LOWAT = 16_384  # bytes that the kernel may hold unsent before the transport counts as full
USER_TIMEOUT_MS = 30_000  # unacknowledged data after which a vanished client is noticed
KEEPALIVE = (15, 5, 3)  # seconds of silence, seconds between two probes, probes: the same where nothing is to be sent
ACCEPTING = 4  # turns of the event loop: asyncio takes three from accepting a connection to telling its protocol
TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; the socket module of 3.11 has no name for it


def listen(host: str, port: int, flow: Flow) -> list[socket.socket]:
    """Return listening sockets for every address of `host`. Raises OSError."""
    sockets = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound(sock, flow)
        sock.bind(address)
        sock.listen(BACKLOG)
        sockets.append(sock)
    return sockets


def exposed(sockets: Sequence[socket.socket]) -> str | None:
    """Return the first address among listening sockets that others than this machine can reach, or None."""
    addresses = [str(sock.getsockname()[0]) for sock in sockets]
    return next((address for address in addresses if not is_loopback(address)), None)


def bound(sock: socket.socket, flow: Flow) -> None:
    """Bound the send side of every connection that this listener accepts, and notice peers that vanish.

    Without `TCP_NOTSENT_LOWAT` the kernel takes megabytes from us before a write ever blocks: no completion is long
    enough for a slow client to be felt.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, flow.send_buffer_bytes)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, min(NOTSENT_LOWAT, flow.send_buffer_bytes))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in zip((socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), KEEPALIVE, strict=True):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


async def close(servers: Sequence[asyncio.Server]) -> None:
    """Close listeners; when this returns, every connection that they have accepted is known to its protocol.

    asyncio accepts in one turn of the loop and makes the transport in the next: one whose listener was closed in
    between it would never answer, nor close. uvloop makes it at once and tells the protocol a turn later. Where
    asyncio accepts, it has a reader on the socket; uvloop has none.
    """
    loop = asyncio.get_running_loop()
    for server in servers:
        for sock in server.sockets:
            loop.remove_reader(sock.fileno())
    await _turns()
    for server in servers:
        server.close()
    await _turns()


async def _turns() -> None:
    for _ in range(ACCEPTING):
        await asyncio.sleep(0)
