"""Sharing places: pure bookkeeping, no tools."""

import asyncio

import pytest

from server.tools.places import Payer, Places

A1, A2, B1, B2 = Payer("a", "1"), Payer("a", "2"), Payer("b", "3"), Payer("b", "4")


async def fill(places: Places, payer: Payer, count: int = 40) -> tuple[int, list[asyncio.Task[None]]]:
    """Let a payer ask for many places; give how many it got, and the tasks of all."""
    tasks = [asyncio.create_task(places.take(payer)) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return sum(task.done() for task in tasks), tasks


async def stop(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel those that wait."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("count", "shares"), [(16, [8, 3, 3, 1]), (4, [2, 1, 1, 0]), (2, [1, 1, 0, 0]), (1, [1, 0, 0, 0])]
)
async def test_shares(count: int, shares: list[int]) -> None:
    """A stream gets half of what is free, and another one of the same owner less than one of another owner."""
    places, waiting, got = Places(count), [], []
    for payer in (A1, A2, B1, B2):
        share, tasks = await fill(places, payer)
        got.append(share)
        waiting += tasks
    await stop(waiting)
    assert got == shares


async def test_streams_without_owners() -> None:
    """Without keys every stream has a share of its own."""
    places, waiting, got = Places(16), [], []
    for number in range(5):
        share, tasks = await fill(places, Payer("", str(number)))
        got.append(share)
        waiting += tasks
    await stop(waiting)
    assert got == [8, 4, 2, 1, 1]


async def test_turns() -> None:
    """A place that is given back goes to those who wait, in turns, and in the end all have had one."""
    places, order = Places(2), []

    async def use(payer: Payer) -> None:
        await places.take(payer)
        order.append(payer.stream)
        await asyncio.sleep(0)
        places.give_back(payer)

    await asyncio.gather(*(use(payer) for payer in [A1] * 6 + [B1] * 2))
    assert sorted(order) == ["1"] * 6 + ["3"] * 2
    assert set(order[:4]) == {"1", "3"}


async def test_cancelled_while_waiting() -> None:
    """Who is cancelled leaves no trace, also in the moment in which it gets its place."""
    places = Places(1)
    await places.take(A1)
    waiting = [asyncio.create_task(places.take(payer)) for payer in (A1, B1)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    places.give_back(A1)  # B1 has it now, and is cancelled before it hears of that
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(5):
        await places.take(B2)
