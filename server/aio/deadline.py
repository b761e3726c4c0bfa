"""A deadline that moves with every token, and costs a token nothing."""

import asyncio
import math
from types import TracebackType
from typing import Protocol, Self

from server.aio.timers import timer_wheel


class Progress(Protocol):
    """Something that moves now and then."""

    @property
    def last(self) -> float:
        """When it moved last, on the clock of time.monotonic()."""


class Deadline:
    """`asyncio.timeout` for a deadline that moves with every token. It may be late by a tick of the wheel.

    To reschedule a timer per token costs more than to parse the token. Here the wheel looks at the deadline when the
    time seems to have come. If it has moved, the wheel looks again then.
    """

    __slots__ = (
        "_allowance",
        "_look_at",
        "_loop",
        "_progress",
        "_slot",
        "_timeout",
        "_wheel",
        "at",
    )

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wheel = timer_wheel()
        self._timeout: asyncio.Timeout | None = asyncio.timeout(None)
        # Seconds on the clock of time.monotonic(), which both event loops keep; uvloop's `time()` is in whole
        # milliseconds. None: no deadline.
        self.at: float | None = None
        self._progress: Progress | None = None
        self._allowance = 0.0
        self._look_at = math.inf  # when the wheel looks
        self._slot = 0  # where the wheel keeps it

    async def __aenter__(self) -> Self:
        assert self._timeout is not None, "it is used once"
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.set(None)
        # A timeout knows its task, and the task knows the error that it ends with. The error knows the frames that it
        # has passed, and by them this deadline and the timeout. Together they would stay until a collection.
        timeout, self._timeout = self._timeout, None
        assert timeout is not None
        try:
            await timeout.__aexit__(kind, error, trace)
        except TimeoutError as expired:
            raise expired.with_traceback(None) from error
        finally:
            del timeout

    def set(self, at: float | None) -> None:
        """Move the deadline to a time; None: there is no deadline."""
        self._progress = None
        self._move(at)

    def follow(self, progress: Progress, allowance: float) -> None:
        """Move the deadline to `allowance` seconds after the last progress, however often there is some."""
        self._move(progress.last + allowance)
        self._progress, self._allowance = progress, allowance

    def _move(self, at: float | None) -> None:
        self.at = at
        if self._look_at < math.inf and (at is None or at < self._look_at):
            self._wheel.drop(self._slot, self)
            self._look_at = math.inf
        if at is not None and self._look_at == math.inf:
            self._look_at, self._slot = at, self._wheel.put(at, self)

    def due(self) -> None:
        """Expire, unless the deadline has moved."""
        self._look_at = math.inf
        if self.at is None or self._timeout is None:
            return
        if self._progress is not None:
            self.at = self._progress.last + self._allowance
        if self._loop.time() >= self.at:
            self._timeout.reschedule(self._loop.time())
        else:
            self._move(self.at)
