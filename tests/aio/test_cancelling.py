"""Tasks that are cancelled end, also if a cancel is lost."""

import asyncio

from server.aio.cancelling import cancel


async def deaf(losses: int) -> None:
    """Lose that many cancels, as `asyncio.wait_for` may."""
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
        raise RuntimeError("dropped")


async def test_a_lost_cancel_is_repeated() -> None:
    """All tasks end: at the first cancel, at the third, with an exception of their own, or before any."""
    tasks = [asyncio.create_task(one) for one in (deaf(0), deaf(2), failing(), asyncio.sleep(0))]
    await asyncio.sleep(0.01)
    await cancel(tasks)
    assert [task.done() for task in tasks] == [True] * 4
    assert [task.cancelled() for task in tasks] == [True, True, False, False]
    await cancel([])
