"""A deadline that moves with every token, for the price of an assignment."""

import asyncio
import math
from types import TracebackType
from typing import Self

from server.aio.timers import timer_wheel


class Deadline:
    """`asyncio.timeout` for a deadline that moves with every token. It may be late by a tick of the wheel.

    To reschedule a timer per token costs more than to parse the token. Here a token only assigns `at`. The wheel looks
    at `at` when the time seems to have come. If the deadline has moved, the wheel looks again then.
    """

    __slots__ = (
        "_look_at",
        "_loop",
        "_slot",
        "_timeout",
        "_wheel",
        "at",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wheel = timer_wheel()
        self._timeout = asyncio.timeout(None)
        # Seconds on the clock of time.monotonic(), which both event loops keep; uvloop's `time()` is in whole
        # milliseconds. None: no deadline. Assign `at` to move the deadline later; call `set` to move it to any time.
        self.at: float | None = None
        self._look_at = math.inf  # when the wheel looks
        self._slot = 0  # where the wheel keeps it

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.set(None)
        await self._timeout.__aexit__(kind, error, trace)

    def set(self, at: float | None) -> None:
        """Move the deadline to any time."""
        self.at = at
        if self._look_at < math.inf and (at is None or at < self._look_at):
            self._wheel.drop(self._slot, self)
            self._look_at = math.inf
        if at is not None and self._look_at == math.inf:
            self._look_at, self._slot = at, self._wheel.put(at, self)

    def due(self) -> None:
        """Expire, unless the deadline has moved."""
        self._look_at = math.inf
        if self.at is None:
            return
        if self._loop.time() >= self.at:
            self._timeout.reschedule(self._loop.time())
        else:
            self.set(self.at)
