"""Hedging: when the first token is late, ask the next target too (Dean and Barroso, The Tail at Scale, 2013)."""

import asyncio
from collections.abc import Callable, Coroutine

from server.core.errors import UpstreamError

Ask = Callable[[int], Coroutine[None, None, None]]


class Hedge:
    """At most two attempts at once: the first to speak wins, the other is cancelled.

    `ask(target)` makes one attempt and raises UpstreamError; `spare()` returns the target to ask beside it, if any.
    """

    def __init__(self, after: float, ask: Ask, spare: Callable[[], int | None]) -> None:
        self._after = after
        self._ask = ask
        self._spare = spare
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._winner: asyncio.Task[None] | None = None
        self.target = -1  # whose the outcome is

    def won(self) -> None:
        """Note that the attempt that runs in this task has spoken: the other ends here and now."""
        self._winner = asyncio.current_task()
        for task in self._tasks:
            if task is not self._winner:
                task.cancel()

    async def run(self, first: int) -> None:
        """Ask `first`, and another where `first` has neither spoken nor failed after `after` seconds.

        Raises:
            UpstreamError: the winner failed, or none spoke; it is `target`'s.

        """
        try:
            self._begin(first)
            await asyncio.wait(self._tasks, timeout=self._after)
            if self._winner is None and not any(task.done() for task in self._tasks):
                second = self._spare()
                if second is not None:
                    self._begin(second)
            await self._outcome()
        finally:
            for task in self._tasks:
                task.cancel()
            # The upstreams' sockets are closed when this returns, whoever cancelled us.
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, target: int) -> None:
        self._tasks[asyncio.create_task(self._ask(target), name=f"hedged attempt {target}")] = target

    async def _outcome(self) -> None:
        """Return when an attempt is whole; raise what failed for good: the winner, or the last one that was left."""
        left = set(self._tasks)
        failure: BaseException | None = None
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.cancelled():
                    continue  # it lost
                self.target, failure = self._tasks[task], task.exception()
                if failure is None:
                    return
                if task is self._winner or not isinstance(failure, UpstreamError):
                    raise failure
        if failure is not None:
            raise failure
