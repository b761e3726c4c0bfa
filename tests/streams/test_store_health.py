"""Anybody may ask whether the store is well: that costs the store little, and the log one line."""

import asyncio

import structlog.testing

from server.streams import housekeeping
from server.streams.housekeeping import StoreHealth


class Store:
    """Says what is wrong with it when it may, and counts how often it was asked."""

    def __init__(self):
        self.wrong = None
        self.asked = 0
        self.may = asyncio.Event()
        self.may.set()

    async def problem(self):
        self.asked += 1
        await self.may.wait()
        return self.wrong


async def test_one_question_for_all(monkeypatch):
    """All who ask while a question is under way, or just after it, get its answer. Who leaves takes it from nobody."""
    monkeypatch.setattr(housekeeping, "FRESH", 1000.0)
    store = Store()
    store.may.clear()
    health = StoreHealth(store)
    asking = [asyncio.create_task(health.good()) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()
    store.may.set()
    assert await asyncio.gather(*asking[1:]) == [True] * 49
    assert await health.good()
    assert store.asked == 1


async def test_the_log(monkeypatch):
    """A line says what is wrong when that changes, and one that it is over."""
    monkeypatch.setattr(housekeeping, "FRESH", 0.0)
    store = Store()
    health = StoreHealth(store)
    answers = []
    with structlog.testing.capture_logs() as lines:
        for wrong in (None, "full", "full", "away", None, None):
            store.wrong = wrong
            answers.append(await health.good())
    assert answers == [True, False, False, False, True, True]
    said = [(line["event"], line.get("error")) for line in lines]
    assert said == [("store unavailable", "full"), ("store unavailable", "away"), ("store well again", None)]


async def test_closing():
    """A question that is under way ends with the gateway."""
    store = Store()
    store.may.clear()
    health = StoreHealth(store)
    asking = asyncio.create_task(health.good())
    await asyncio.sleep(0)
    await health.close()
    assert (await asyncio.gather(asking, return_exceptions=True))[0].__class__ is asyncio.CancelledError
