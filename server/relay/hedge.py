"""Hedging: when the first token is late, ask the next target too (Dean and Barroso, The Tail at Scale, 2013)."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from server.core.errors import UpstreamError

Result = TypeVar("Result")
Step = Coroutine[Any, Any, Result]


async def race(first: Step[Result], second: Callable[[], Step[Result] | None], after: float) -> Result:
    """Return the result of whichever step is done first; the other one is cancelled.

    `second` is called if `first` has neither succeeded nor failed after so many seconds; it returns the step to run
    beside it, or None. Of two that succeed in the same moment the first one counts.

    Raises:
        UpstreamError: neither succeeded; the error of the last one that was left.

    """
    tasks = [asyncio.create_task(first, name="hedged attempt")]
    try:
        done, _ = await asyncio.wait(tasks, timeout=after)
        if not done and (step := second()) is not None:
            tasks.append(asyncio.create_task(step, name="hedging attempt"))
        return await _first_success(tasks)
    finally:
        for task in tasks:
            task.cancel()
        # The losers' sockets are closed when this returns, even if the caller was cancelled.
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first_success(tasks: list[asyncio.Task[Result]]) -> Result:
    left = set(tasks)
    failure: BaseException | None = None
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=tasks.index):
            failure = task.exception()
            if failure is None:
                return task.result()
            if not isinstance(failure, UpstreamError):
                raise failure
    assert failure is not None
    raise failure
