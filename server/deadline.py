"""A moving deadline whose move costs an assignment."""

import asyncio
from types import TracebackType
from typing import Self


class Deadline:
    """`asyncio.timeout` for a deadline that moves with every token.

    Rescheduling a timer for each token costs more than the token's own parsing. Here `at` is only assigned; the timer
    that is already running looks at it when it fires and goes to sleep again if the deadline has moved away.
    """

    __slots__ = (
        "_loop",
        "_timeout",
        "_timer",
        "at",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        # On the clock of time.monotonic(), which both event loops keep (uvloop in whole milliseconds, too coarse to
        # measure with). None: no deadline. Assign to move it later, `set` to move it anywhere.
        self.at: float | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._timeout.__aexit__(kind, error, trace)

    def set(self, at: float | None) -> None:
        """Move the deadline to any time."""
        self.at = at
        if self._timer is not None and (at is None or at < self._timer.when()):
            self._timer.cancel()
            self._timer = None
        if at is not None and self._timer is None:
            self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.at is None:
            return
        if self._loop.time() >= self.at:
            self._timeout.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_at(self.at, self._look)
