"""Tasks that are cancelled end, also where a cancel is lost on its way."""

import asyncio

from server.aio.cancelling import cancel


async def deaf(losses: int) -> None:
    """Lose so many cancels, as `asyncio.wait_for` may."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not losses:
                raise
            losses -= 1


async def failing() -> None:
    try:
        await asyncio.sleep(60)
    finally:
        raise RuntimeError("of no interest any more")


async def test_a_lost_cancel_is_said_again() -> None:
    """Tasks that hear at once, the third time, with an exception of their own, or have ended: all of them end."""
    tasks = [asyncio.create_task(one) for one in (deaf(0), deaf(2), failing(), asyncio.sleep(0))]
    await asyncio.sleep(0.01)
    await cancel(tasks)
    assert [task.done() for task in tasks] == [True] * 4
    assert [task.cancelled() for task in tasks] == [True, True, False, False]
    await cancel([])
