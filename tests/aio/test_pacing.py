"""One request begins per turn of the event loop, in their order. A client that has left takes no turn."""

import asyncio
import time
from contextlib import suppress
from itertools import pairwise

from server.aio.pacing import LATE_PER_TURN, OWN_TURN_WITHIN, StartPacer


async def begun(pacer: StartPacer, name: int, order: list[int]) -> None:
    await pacer.take()
    order.append(name)


async def test_the_first_does_not_wait_and_the_others_begin_one_a_turn_in_their_order() -> None:
    """Other callbacks run between two of them: here one that counts how many have begun."""
    pacer, order, seen = StartPacer(), [], []
    loop = asyncio.get_running_loop()

    def look() -> None:
        seen.append(len(order))
        if len(order) < 5:
            loop.call_soon(look)

    tasks = [asyncio.create_task(begun(pacer, name, order)) for name in range(5)]
    loop.call_soon(look)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert {1, 2, 3, 4} <= set(seen)


async def test_a_burst_that_is_over_is_forgotten() -> None:
    """After a burst a request that comes alone begins at once."""
    pacer, order = StartPacer(), []
    await asyncio.gather(*(begun(pacer, name, order) for name in range(3)))
    for _ in range(3):
        await asyncio.sleep(0)
    alone = begun(pacer, 3, order)
    with suppress(StopIteration):
        alone.send(None)
    assert order[-1] == 3


async def test_a_client_that_leaves_while_it_waits_lets_the_next_one_in() -> None:
    """The next one begins in the same turn."""
    pacer, order = StartPacer(), []
    tasks = [asyncio.create_task(begun(pacer, name, order)) for name in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 3]


async def test_those_that_have_waited_long_begin_several_in_a_turn() -> None:
    """After a long turn LATE_PER_TURN requests begin in each turn, in their order, and no more."""
    pacer, order = StartPacer(), []
    loop = asyncio.get_running_loop()
    counts = []

    def look() -> None:
        counts.append(len(order))
        if len(order) < 3 * LATE_PER_TURN:
            loop.call_soon(look)

    tasks = [asyncio.create_task(begun(pacer, name, order)) for name in range(3 * LATE_PER_TURN)]
    await asyncio.sleep(0)
    time.sleep(OWN_TURN_WITHIN)  # noqa: ASYNC251 - a turn of the loop that is as long as that
    loop.call_soon(look)
    await asyncio.gather(*tasks)
    assert order == list(range(3 * LATE_PER_TURN))
    assert max(after - before for before, after in pairwise(counts)) == LATE_PER_TURN
