"""One connection of a client: requests in, bytes out, and the exact moment in which the client leaves.

It is an asyncio Protocol, not a pair of streams. Only a socket that is always read shows a FIN or RST at once, even
while a writer waits for a client that takes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from scripted.request import BadRequestError, Request, expects_continue, take

if TYPE_CHECKING:
    from scripted.seen import Seen

# Seconds that a reset waits for what was written before it. RST throws away what the peer's kernel does not have yet.
SETTLE = 1.0

# tcpi_bytes_acked of Linux's struct tcp_info: a u64 that has been at this offset since Linux 4.1.
BYTES_ACKED = struct.Struct("=Q")
BYTES_ACKED_AT = 120

Serve = Callable[["Connection", Request], Awaitable[None]]
_numbers = itertools.count(1)


class Connection(asyncio.Protocol):
    """Serves one request at a time. `current` is its entry among the requests that were seen."""

    def __init__(self, serve: Serve) -> None:
        self.number = next(_numbers)
        self.written = 0
        self.current: Seen | None = None
        self._serve = serve
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._acked = 0
        self._keep = True
        self._ours = False

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport. The cast is for uvloop's, which has the methods of a transport but not its class."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Collect a request. One that comes while another is answered waits in the buffer."""
        self._buffer += data
        if self._task is None:
            self._next()

    def eof_received(self) -> bool:
        """Take a FIN as the client's leaving, as most servers do, and drop what it has not taken."""
        self._client_left()
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # FIN or RST makes no difference here
        """Stop the answer under way."""
        self._client_left()
        self.acked()
        self._transport = None
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Let `drain` wait."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let `drain` go on."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # What an answer calls.

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport, unless the connection is gone."""
        if self._transport is None or self._transport.is_closing():
            return
        self.written += len(data)
        if self.current is not None:
            self.current.bytes_written += len(data)
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the client takes nothing. If the connection is lost, the waiting task is cancelled."""
        if self._writable is not None:
            await self._writable

    def acked(self) -> int:
        """Bytes since the connection began that the peer's kernel has acknowledged.

        This is the kernel's own count, not `written` minus its queue (TIOCOUTQ). When the transport tells of a reset,
        its buffer is empty already, and what was in it would pass for delivered.
        """
        if self._transport is not None:
            info = self._socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_ACKED.size + BYTES_ACKED_AT)
            self._acked = min(self.written, BYTES_ACKED.unpack_from(info, BYTES_ACKED_AT)[0])
        return self._acked

    def end(self) -> None:
        """Close the connection when this answer is out."""
        self._keep = False

    def abort(self) -> None:
        """Close at once. What was not sent is lost."""
        self._ours = True
        self.acked()
        if self._transport is not None:
            self._transport.abort()

    async def reset(self) -> None:
        """Close with RST, after what was written before has arrived."""
        patience = time.monotonic() + SETTLE
        while self.acked() < self.written and time.monotonic() < patience:  # noqa: ASYNC110  # no event tells of an ACK
            await asyncio.sleep(0.001)
        if self._transport is not None:
            linger = struct.pack("ii", 1, 0)
            self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.abort()

    # Inside.

    def _next(self) -> None:
        """Begin the next request if it is there."""
        try:
            if expects_continue(self._buffer):
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request = take(self._buffer)
        except BadRequestError:
            self.abort()
            return
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        self._keep = request.keep_alive
        try:
            await self._serve(self, request)
        except asyncio.CancelledError:
            return  # only connection_lost cancels
        except Exception:  # noqa: BLE001  # a defect of the provider: it is shown, and the connection cannot be used on
            traceback.print_exc(file=sys.stderr)
            self.abort()
        finally:
            if self.current is not None:
                self.current.open = False
                self.current = None
            self._task = None
        if self._transport is None or self._transport.is_closing():
            return
        if self._keep:
            self._next()
        else:
            self._ours = True
            self._transport.close()

    def _client_left(self) -> None:
        if not self._ours and self.current is not None and self.current.closed_by_client_at is None:
            self.current.closed_by_client_at = time.monotonic()

    def _socket(self) -> socket.socket:
        assert self._transport is not None  # both callers have looked
        sock: socket.socket = self._transport.get_extra_info("socket")
        return sock
