"""Group commit: what many streams write within a few milliseconds becomes durable together."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import structlog

from server.core.errors import StoreError

log = structlog.get_logger("sluiceway.stores")
Kind = TypeVar("Kind", bound="Write")


class Write:
    """Something that waits for its batch; who commits it answers it."""

    __slots__ = ("_answered", "_error", "_result", "_waiter")

    def __init__(self) -> None:
        self._answered = False
        self._result: object = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # made only where somebody waits

    def succeed(self, result: object = None) -> None:
        """Answer that it was made."""
        self._answered = True
        self._result = result
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Answer that it was not made, unless there is an answer."""
        if not self._answered:
            self._error = error
            self.succeed()

    async def decided(self) -> Any:
        """Wait for the answer; whoever is cancelled meanwhile is so only then.

        A caller that left before would not know what is in the log: it would read it back and miss what is yet to come.
        """
        cancelled: asyncio.CancelledError | None = None
        while not self._answered:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        if self._error is not None:
            raise self._error
        return self._result


class Batches(Generic[Kind]):
    """Gathers writes and commits them, one batch at a time, in the order in which they were put.

    At most one batch begins in `window` seconds: with commits that are quick, batches would otherwise be small, and
    each costs a hand-over to a thread or a server. A write that comes after a quiet time does not wait.

    `commit` begins to commit a batch. Whatever happens, it answers every write and then calls its second argument.
    """

    def __init__(self, commit: Callable[[list[Kind], Callable[[], None]], None], window: float) -> None:
        self._commit = commit
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Kind] = []
        self._running = False
        self._began = -window
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, write: Kind) -> None:
        """Add one write to the next batch."""
        self._waiting.append(write)
        if not self._running and len(self._waiting) == 1:
            self._idle.clear()
            self._schedule()

    def _schedule(self) -> None:
        self._loop.call_at(max(self._loop.time(), self._began + self._window), self._begin)

    def _begin(self) -> None:
        self._began = self._loop.time()
        self._running = True
        batch, self._waiting = self._waiting, []
        self._commit(batch, self._next)

    def _next(self) -> None:
        self._running = False
        if self._waiting:
            self._schedule()
        else:
            self._idle.set()

    async def flush(self) -> None:
        """Wait until everything that was put has been committed."""
        await self._idle.wait()


@contextmanager
def answering(batch: Iterable[Write]) -> Iterator[None]:
    """Fail what a block that raises has not answered: a write that nobody answers would hold its stream for ever."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 — whatever it is
        if not isinstance(error, StoreError):
            log.error("batch failed", error=type(error).__name__)  # its message may quote what was to be written
            error = StoreError("The store has failed.")
        for write in batch:
            write.fail(error)
