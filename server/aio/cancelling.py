"""Cancelling tasks so that they end."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN = 0.5  # seconds until a task that still runs is cancelled once more


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when all of them have ended; what they raise is dropped.

    A cancel can be lost. `asyncio.wait_for` (until Python 3.12), which redis-py sends with, swallows one that comes in
    the turn in which its own wait ends: a loop over calls of Redis then goes on, and who waits for it waits for ever.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=AGAIN)
        for task in done:
            if not task.cancelled():
                task.exception()  # else the loop complains that nobody has looked
