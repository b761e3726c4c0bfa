"""One connection of a client, on an asyncio Protocol: it reads fast, slowly, or stops for a while."""

import asyncio
import socket
from time import monotonic
from typing import Protocol, cast

from .expected import Answer, WrongError
from .response import Response

SMALL_WINDOW = 8192  # bytes that the kernel takes for a slow reader: few, so that the gateway soon cannot write


class Listener(Protocol):
    """Counts what arrives."""

    def arrived(self, size: int, events: int, ages: list[float], now: float) -> None:
        """Count bytes, events, and the ages of tokens in seconds."""


class Gone(Exception):
    """The connection was closed before the response had ended; the text says how far it came."""

    def __init__(self, response: Response, why: str) -> None:
        super().__init__(f"{why} after event {response.seq}")
        self.response = response


class Connection(asyncio.Protocol):
    """Sends one request at a time. `exchange` checks and returns its response."""

    def __init__(self, listener: Listener) -> None:
        self.transport: asyncio.Transport
        self.usable = True
        self._listener = listener
        self._response: Response | None = None
        self._over: asyncio.Future[None] | None = None
        self._until = 0  # the event after which the exchange ends for the client; 0: at the end of the response
        self._pace = 0.0
        self._stall: tuple[int, float] | None = None

    @classmethod
    async def open(cls, port: int, listener: Listener, *, small: bool = False) -> "Connection":
        """Connect to the loopback port."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
            await loop.sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        _, connection = await loop.create_connection(lambda: cls(listener), sock=sock)
        return connection

    async def exchange(
        self,
        message: bytes,
        answer: Answer,
        *,
        after: int = 0,
        until: int = 0,
        pace: float = 0.0,
        stall: tuple[int, float] | None = None,
    ) -> Response:
        """Send a request; return its response when it has ended, or after event `until`.

        ``pace`` is in bytes a second; ``stall`` is the event after which nothing is read for so many seconds.

        Raises:
            WrongError: an event was not right.
            Gone: the gateway closed, or reset.

        """
        self._response = response = Response(answer, after)
        self._until, self._pace, self._stall = until, pace, stall
        self._over = asyncio.get_running_loop().create_future()
        self.transport.write(message)
        try:
            await self._over
        finally:
            self.usable = self.usable and response.over
            self._response = self._over = None
        return response

    def close(self) -> None:
        """Leave at once."""
        self.usable = False
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Check what has come."""
        response, now = self._response, monotonic()
        if response is None:
            return
        try:
            events, ages = response.feed(data, now)
        except (WrongError, ValueError) as wrong:
            self._end(wrong if isinstance(wrong, WrongError) else WrongError("altered", data))
            return
        self._listener.arrived(len(data), events, ages, now)
        if response.over or (self._until and response.seq >= self._until):
            self._end(None)
        elif self._stall and response.seq >= self._stall[0]:
            self._rest(self._stall[1])
            self._stall = None
        elif self._pace:
            self._rest(len(data) / self._pace)

    def _rest(self, seconds: float) -> None:
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the exchange that is under way."""
        self.usable = False
        if self._response is not None:
            self._end(Gone(self._response, str(error or "closed")))

    def _end(self, error: Exception | None) -> None:
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)
