"""A deadline that moves with every token, and costs a token nothing."""

import asyncio
import math
import time
from types import TracebackType
from typing import Any, Protocol, Self

from server.aio.timers import timer_wheel


class Progress(Protocol):
    """Something that moves now and then."""

    @property
    def last(self) -> float:
        """When it moved last, on the clock of time.monotonic()."""


class Deadline:
    """`asyncio.timeout` for a deadline that moves with every token. It may be late by a tick of the wheel.

    `with Deadline() as deadline` raises TimeoutError if `deadline` has cancelled the block. It is used once. As it is
    neither a coroutine nor a timer of the event loop, it costs a third of `asyncio.timeout`.

    To reschedule a timer per token costs more than to parse the token. Here the wheel looks at the deadline when the
    time seems to have come. If it has moved, the wheel looks again then.
    """

    __slots__ = (
        "_allowance",
        "_cancelling",
        "_expired",
        "_look_at",
        "_progress",
        "_slot",
        "_task",
        "_wheel",
        "at",
    )

    def __init__(self) -> None:
        self._wheel = timer_wheel()
        self._task: asyncio.Task[Any] | None = None  # which runs the block
        self._cancelling = 0  # requests to cancel that task which came before the block
        self._expired = False
        # Seconds on the clock of time.monotonic(), which both event loops keep; uvloop's `time()` is in whole
        # milliseconds. None: no deadline.
        self.at: float | None = None
        self._progress: Progress | None = None
        self._allowance = 0.0
        self._look_at = math.inf  # when the wheel looks
        self._slot = 0  # where the wheel keeps it

    def __enter__(self) -> Self:
        self._task = task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.set(None)
        # The task knows the error that it ends with. The error knows the frames that it has passed, and by them this
        # deadline. With the task it would be a cycle, which would stay until a collection.
        task, self._task = self._task, None
        assert task is not None
        # As `asyncio.timeout` does: if the task was also cancelled by somebody else, that cancel counts.
        if self._expired and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            del task
            raise TimeoutError from error

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
        if self.at is None or self._task is None:
            return
        if self._progress is not None:
            self.at = self._progress.last + self._allowance
        if time.monotonic() >= self.at:
            self._expired, self.at = True, None
            self._task.cancel()
        else:
            self._move(self.at)
