"""The linger of a stream that other instances may read, too: they are asked, and the answer may come late."""

import asyncio

import wire
from gateway import in_process

from server.aio.event import Event


async def test_a_reader_comes_and_goes_while_the_others_are_asked(provider, model, store):
    """What was asked before a reader came says nothing of the linger that begins when it leaves."""
    await provider.script(model, {"pieces": ["a ", "b "], "stall_after": 2})
    tables = {"store": {**store, "lease": 30.0}, "streams": {"linger": 0.3, "on_disconnect": "continue"}}
    async with in_process(provider.url, **tables) as gateway:
        followed, asked, answer = gateway.app.store.followed, Event(), Event()

        async def followed_late(log):
            found = await followed(log)
            asked.set()
            await answer.wait()
            return found

        gateway.app.store.followed = followed_late
        async with wire.Client(gateway.root) as client:
            await client.complete(model)
            _, head = await client.head()
            await client.events(1)
        live = gateway.app.streams._live.get(head["x-stream-id"])
        await asked.wait()
        gateway.app.streams._linger._seconds = 30.0
        async with wire.Client(gateway.root) as client:
            await client.ask("GET", f"/v1/streams/{live.stream.id}")
            await client.head()
            await client.events(1)
        await wire.until(lambda: asyncio.sleep(0, not live.stream.readers))
        answer.set()
        await asyncio.sleep(0.1)
        assert live.relay.stopped is None
        live.task.cancel()
