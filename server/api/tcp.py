"""What the kernel knows of a client's connection: how much the client has received, and whether it still answers.

`struct tcp_info` and its offsets are those of linux/tcp.h. Linux only ever adds fields at its end.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from types import TracebackType

TCP_INFO = 11
INFO_BYTES = 128
BACKOFF = struct.Struct("=4xB")  # tcpi_backoff: doublings of the retransmission (or window probe) timer
LAST_ACK = struct.Struct("=56xI")  # tcpi_last_ack_recv: milliseconds
ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked
RST_ON_CLOSE = struct.pack("ii", 1, 0)


def bytes_acked(transport: asyncio.BaseTransport | None) -> int:
    """Return how many bytes the client has acknowledged so far, or 0 if the kernel does not say."""
    info = _info(transport)
    acked: int = ACKED.unpack_from(info)[0] if info else 0
    return acked


def unanswered(transport: asyncio.BaseTransport | None) -> float:
    """Return for how many seconds the kernel has repeated a packet without any answer."""
    info = _info(transport)
    if not info or not BACKOFF.unpack_from(info)[0]:
        return 0.0
    return float(LAST_ACK.unpack_from(info)[0]) / 1000


def cut(transport: asyncio.Transport | None) -> None:
    """Cut a connection with a RST.

    A FIN would queue behind what the client does not read, and the client would never learn of it.
    """
    if transport is None:
        return
    if (sock := _socket(transport)) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
    transport.abort()


def leave_timeouts_to_us(transport: asyncio.BaseTransport | None) -> None:
    """Switch `TCP_USER_TIMEOUT` off for a connection that the gateway watches itself.

    While a client's window is smaller than the packet that waits for it, Linux counts the time as unanswered, although
    the client reads and acknowledges. It would cut off a steady slow reader after the timeout.
    """
    if (sock := _socket(transport)) is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


class AckClock:
    """A timeout for one blocked write: `async with AckClock(…)`. Any byte that the client acknowledges restarts it.

    `blocked` says whether the write is still blocked; `limit` is in seconds. Leaving the block raises TimeoutError if
    the clock has run out or the connection is being closed, since aiohttp's `drain()` would not notice either.
    """

    def __init__(self, transport: asyncio.Transport | None, blocked: Callable[[], bool], limit: float) -> None:
        self._transport = transport
        self._blocked = blocked
        self._limit = limit
        self._poll = min(1.0, limit / 8)
        self._loop = asyncio.get_running_loop()
        self._acked = bytes_acked(transport)
        self._since = self._loop.time()
        self._timeout: asyncio.Timeout | None = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        assert self._timeout is not None, "a clock is used once"
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(self._poll, self._check)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()  # else it would see the next write blocked, and expire for this one
            self._timer = None
        # A timeout knows its task, the task its error, and the error, by the frames that it passed, this clock and the
        # timeout. Together they would stay until a collection, and the stream with them.
        timeout, self._timeout = self._timeout, None
        assert timeout is not None
        try:
            await timeout.__aexit__(kind, error, trace)
        except TimeoutError as expired:
            raise expired.with_traceback(None) from error
        finally:
            del timeout

    def _check(self) -> None:
        self._timer = None
        if self._timeout is None or self._transport is None or not self._blocked():
            return
        now, acked = self._loop.time(), bytes_acked(self._transport)
        if acked != self._acked:
            self._acked, self._since = acked, now
        if now - self._since >= self._limit or self._transport.is_closing():
            self._timeout.reschedule(now)
        else:
            self._timer = self._loop.call_later(min(self._poll, self._since + self._limit - now), self._check)


def _socket(transport: asyncio.BaseTransport | None) -> socket.socket | None:
    sock: socket.socket | None = None if transport is None else transport.get_extra_info("socket")
    return sock


def _info(transport: asyncio.BaseTransport | None) -> bytes:
    sock = _socket(transport)
    if sock is None:
        return b""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, INFO_BYTES)
    except OSError:
        return b""  # closed, or not a TCP socket
    return info if len(info) == INFO_BYTES else b""
