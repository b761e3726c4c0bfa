"""Hedging: when the first token is late, ask the next target too (Dean and Barroso, The Tail at Scale, 2013)."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from server.core.errors import UpstreamError

Result = TypeVar("Result")
Step = Coroutine[Any, Any, Result]


async def race(first: Step[Result], second: Callable[[], Step[Result] | None], after: float) -> Result:
    """Return the result of the step that succeeds first, and cancel the other one.

    `second` is called if `first` is not done after `after` seconds. It returns the step to run beside `first`, or None.
    If both succeed in the same moment, `first` counts.

    Raises:
        UpstreamError: no step succeeded. It is the error of the step that failed last.

    """
    tasks = [asyncio.create_task(first, name="hedged attempt")]
    try:
        done, _ = await asyncio.wait(tasks, timeout=after)
        if not done and (step := second()) is not None:
            tasks.append(asyncio.create_task(step, name="hedging attempt"))
        deciding = await _deciding(tasks)
    finally:
        for task in tasks:
            task.cancel()
        # When this returns, the sockets of the losers are closed, even if the caller was cancelled.
        await asyncio.gather(*tasks, return_exceptions=True)
    try:
        return deciding.result()
    finally:
        del tasks, task, deciding  # a task knows its error, and the error, when it is raised here, this frame


async def _deciding(tasks: list[asyncio.Task[Result]]) -> asyncio.Task[Result]:
    """Return the task that succeeded, or failed with what is no failure of a target, or else failed last."""
    pending = set(tasks)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=tasks.index):
            if not isinstance(task.exception(), UpstreamError):
                return task
        if not pending:
            return task
