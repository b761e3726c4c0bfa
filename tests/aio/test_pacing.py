"""Requests begin one a turn of the event loop, in their order, and a client that has left takes nobody's turn."""

import asyncio
import time
from contextlib import suppress
from itertools import pairwise

from server.aio.pacing import LATE, PATIENCE, StartPacer


async def begun(turns: StartPacer, name: int, order: list[int]) -> None:
    await turns.take()
    order.append(name)


async def test_the_first_does_not_wait_and_the_others_begin_one_a_turn_in_their_order() -> None:
    """What else is ready has a turn between two of them: here a callback that counts how many have begun."""
    turns, order, seen = StartPacer(), [], []
    loop = asyncio.get_running_loop()

    def look() -> None:
        seen.append(len(order))
        if len(order) < 5:
            loop.call_soon(look)

    tasks = [asyncio.create_task(begun(turns, name, order)) for name in range(5)]
    loop.call_soon(look)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert {1, 2, 3, 4} <= set(seen)


async def test_a_burst_over_is_forgotten() -> None:
    """After it a request that comes alone begins at once again."""
    turns, order = StartPacer(), []
    await asyncio.gather(*(begun(turns, name, order) for name in range(3)))
    for _ in range(3):
        await asyncio.sleep(0)
    alone = begun(turns, 3, order)
    with suppress(StopIteration):
        alone.send(None)
    assert order[-1] == 3


async def test_a_client_that_leaves_while_it_waits_lets_the_next_one_in() -> None:
    """Its place is passed over, in the same turn."""
    turns, order = StartPacer(), []
    tasks = [asyncio.create_task(begun(turns, name, order)) for name in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 3]


async def test_those_that_have_waited_long_begin_several_in_a_turn() -> None:
    """Where the turns are long the queue is not: in each that follows LATE begin, in their order, and no more."""
    turns, order = StartPacer(), []
    loop = asyncio.get_running_loop()
    counts = []

    def look() -> None:
        counts.append(len(order))
        if len(order) < 3 * LATE:
            loop.call_soon(look)

    tasks = [asyncio.create_task(begun(turns, name, order)) for name in range(3 * LATE)]
    await asyncio.sleep(0)
    time.sleep(PATIENCE)  # noqa: ASYNC251 - a turn of the loop that is as long as that
    loop.call_soon(look)
    await asyncio.gather(*tasks)
    assert order == list(range(3 * LATE))
    assert max(after - before for before, after in pairwise(counts)) == LATE
