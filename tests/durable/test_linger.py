"""The linger of a stream that other instances may read, too: the store is asked for them, and may be slow to answer.

The question of a linger has an owner. It is given up when a reader comes, when the stream ends, when the gateway stops,
and when the store takes too long.
"""

import asyncio
from contextlib import asynccontextmanager

import internals
import pytest
import wire
from gateway import in_process

from server.core.lifecycle import State
from server.streams import linger

STALLED = {"pieces": ["a ", "b "], "stall_after": 2}


def tables(store, **streams):
    """Give tables with a lease that outlives the test: only the linger moves a stream."""
    return {"store": {**store, "lease": 30.0}, "streams": {"linger": 0.1, **streams}}


class SlowStore:
    """Takes the place of a store's `followed`: its answer comes when the test says so. `cancelled`: nobody waits."""

    def __init__(self, store):
        self.asked, self.answer, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.swallows = False  # a cancel, as a library may
        store.followed = self.followed

    async def followed(self, log):
        self.asked.set()
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            if not self.swallows:
                raise
            await self.answer.wait()
        return False


@asynccontextmanager
async def left_alone(gateway, model, policy="continue"):
    """Begin a stream, read its first token, and leave; give what it is, and its store that has just been asked."""
    store = SlowStore(gateway.app.store)
    async with wire.Client(gateway.root) as client:
        await client.complete(model, headers={"X-On-Disconnect": policy})
        _, head = await client.head()
        await client.events(1)
    live = internals.live_streams(gateway.app).get(head["x-stream-id"])
    await store.asked.wait()
    yield live, store


@asynccontextmanager
async def reader(gateway, live):
    """Read a stream for as long as the block runs."""
    async with wire.Client(gateway.root) as client:
        await client.ask("GET", f"/v1/streams/{live.stream.id}")
        await client.head()
        await client.events(1)
        yield
    await wire.until(lambda: asyncio.sleep(0, not live.stream.readers))


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_reader_comes_and_goes_meanwhile(provider, model, store, swallows):
    """An answer that was asked for before a reader came says nothing of the linger that begins when it leaves."""
    await provider.script(model, STALLED)
    async with in_process(provider.url, **tables(store)) as gateway, left_alone(gateway, model) as (live, slow):
        slow.swallows = swallows
        internals.set_linger(gateway.app, 30.0)
        async with reader(gateway, live):
            await asyncio.wait_for(slow.cancelled.wait(), 5)
        lingering = live.lingering
        slow.answer.set()
        await wire.until(lambda: asyncio.sleep(0, not internals.linger_questions(gateway.app)))
        assert live.relay.stopped is None
        assert live.lingering is lingering
        live.task.cancel()


@pytest.mark.parametrize("policy", ["continue", "cancel"])
async def test_the_store_does_not_answer(provider, model, store, monkeypatch, policy):
    """The wait for it is bounded. Then the stream ends, and its upstream is closed."""
    monkeypatch.setattr(linger, "ASK_PATIENCE", 0.2)
    await provider.script(model, STALLED)
    async with in_process(provider.url, **tables(store)) as gateway, left_alone(gateway, model, policy) as (live, slow):
        await gateway.idle()
        assert slow.cancelled.is_set()
        assert live.stream.log.ending.state is State.CANCELLED
        await provider.closed(model)


async def test_the_stream_ends_meanwhile(provider, model, store):
    """A stream that has ended has no more need of an answer."""
    await provider.script(model, {"pieces": ["a ", "b "], "stall_after": 1, "stall_for": 0.5})
    async with in_process(provider.url, **tables(store)) as gateway, left_alone(gateway, model) as (live, slow):
        await asyncio.wait_for(slow.cancelled.wait(), 5)
        assert live.stream.log.ending.state is State.COMPLETE
        assert live.lingering is None


async def test_the_gateway_stops_meanwhile(provider, model, store):
    """Nothing is asked of a store that is closed; `in_process` checks that no task is left. The log stays open."""
    await provider.script(model, STALLED)
    async with in_process(provider.url, **tables(store)) as gateway, left_alone(gateway, model) as (live, slow):
        close = gateway.app.store.close

        async def close_when_nobody_asks():
            assert slow.cancelled.is_set()
            assert not internals.linger_questions(gateway.app)
            await close()

        gateway.app.store.close = close_when_nobody_asks
    assert live.stream.log.ending is None


async def test_others_read_it(provider, model, store):
    """While others read a stream, they are asked again every lease; when none does any more, the stream ends."""
    await provider.script(model, STALLED)
    short = {"store": {**store, "lease": 0.3}, "streams": {"linger": 0.1}}
    async with in_process(provider.url, **short) as gateway:
        answers = iter([True, True, False])

        async def followed(log):
            return next(answers)

        gateway.app.store.followed = followed
        async with wire.Client(gateway.root) as client:
            await client.complete(model, headers={"X-On-Disconnect": "continue"})
            _, head = await client.head()
            await client.events(1)
        await gateway.idle()
        assert next(answers, None) is None
        found = await gateway.app.store.find(head["x-stream-id"])
        assert found.ending.state is State.CANCELLED
