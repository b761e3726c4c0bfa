"""Creations and takeovers that are cancelled in any turn of the event loop: nothing is left half done."""

import asyncio

import internals
from gateway import in_process, settings

from server.core.generation import Generation
from server.core.lifecycle import State
from server.relay.stream import Stream
from server.streams.admission import Owner

TEXT = {"pieces": [f"word{n} " for n in range(5)]}
TURNS = 24  # more than a creation or a takeover takes


def generation(model, policy):
    """Give a request for a stream."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    return Generation(dialect="chat", model=model, body=body, stream=True, policy=policy)


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled(task):
    """Cancel a task; return what it gave, if it was done before that."""
    task.cancel()
    await asyncio.wait([task])
    return None if task.cancelled() else task.result()


async def endings(gateway):
    """Give how each log has ended."""
    return [log.ending and log.ending.state async for log in gateway.app.store.logs()]


async def test_creations(provider, model, store):
    """A log that has been created has one relay and one ending; its key can be used again; nothing stays held."""
    await provider.script(model, TEXT)
    async with in_process(provider.url, store={**store, "lease": 30.0}) as gateway:
        streams, begun = gateway.app.streams, 0
        for count in range(TURNS):
            task = asyncio.create_task(streams.create(generation(model, "continue"), Owner(), f"key-{count}"))
            await turns(count)
            begun += await cancelled(task) is not None
            again = await streams.create(generation(model, "continue"), Owner(), f"key-{count}")
            await asyncio.wait_for(again.ended.wait(), 10)
        await gateway.idle()
        assert 0 <= begun < TURNS
        assert await endings(gateway) == [State.COMPLETE] * TURNS
        assert len(await provider.seen(model)) == TURNS
        assert not internals.starting_streams(gateway.app)
        assert not internals.creation_tasks(gateway.app)
        await gateway.app.reload(settings(provider.url, store=store, upstream={"ttft_timeout": 6.0}), {})
        assert not internals.retired_clients(gateway.app.upstreams), "a route is still held"


async def test_creations_while_the_gateway_stops(provider, model, store):
    """Whenever it stops, a request for a stream has one, or is told that the gateway goes; nothing is left running."""
    await provider.script(model, TEXT)
    for count in range(TURNS):
        async with in_process(provider.url, store={**store, "lease": 30.0}) as gateway:
            streams = gateway.app.streams
            task = asyncio.create_task(streams.create(generation(model, "continue"), Owner(), None))
            await turns(count)
            internals.start_draining(gateway.app)
            await streams.close()
            [outcome] = await asyncio.gather(asyncio.wait_for(task, 10), return_exceptions=True)
            assert isinstance(outcome, Stream) or outcome.code == "draining"
            assert not internals.starting_streams(gateway.app)
            assert not internals.creation_tasks(gateway.app)
            assert not streams.live


async def test_takeovers(provider, model, store):
    """A claim that is given up leaves no mark: the next one takes the stream over, from one relay to one ending."""
    tables = {"store": {**store, "lease": 30.0}, "recovery": {"strategy": "auto", "backoff": 0.05}}
    for count in range(TURNS):
        async with in_process(provider.url, **tables) as one:
            await provider.script(f"{model}-{count}", {**TEXT, "stall_after": 2}, TEXT)
            stream = await one.app.streams.create(generation(f"{model}-{count}", "continue"), Owner(), None)
            await asyncio.wait_for(stream.opened.wait(), 10)
        async with in_process(provider.url, **tables) as two:
            takeover = internals.takeover(two.app)
            await takeover.close()  # only this test takes anything over
            stream = await two.app.streams.find(stream.id, Owner())
            task = asyncio.create_task(takeover.take_over(stream))
            await turns(count)
            live = await cancelled(task)
            assert not internals.live_streams(two.app).claims
            if live is None:
                live = await takeover.take_over(stream)
            await asyncio.wait_for(live.over.wait(), 10)
            assert await endings(two) == [State.COMPLETE] * (count + 1)
