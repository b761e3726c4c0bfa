"""Cancelling tasks so that they end."""

import asyncio
from collections.abc import Iterable
from typing import Any

RETRY = 0.5  # seconds until a task that still runs is cancelled again


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and return when all of them have ended. What they raise is dropped.

    A cancel can be lost. Until Python 3.12 `asyncio.wait_for`, which redis-py uses to send, swallows a cancel that
    comes in the turn in which its own wait ends. A loop over calls of Redis would then go on, and the caller of this
    function would wait for ever.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        done, running = await asyncio.wait(running, timeout=RETRY)
        for task in done:
            if not task.cancelled():
                task.exception()  # else the event loop complains that nobody has retrieved it
