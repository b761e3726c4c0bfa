"""DELETE while the stream changes hands: the answer 204 comes when the stream has ended, not before."""

import asyncio
import json
from contextlib import asynccontextmanager

import internals
import wire
from gateway import InProcess, in_process

from server.core.errors import StoreError
from server.core.lifecycle import State
from server.streams import streams as streams_module
from server.streams.admission import Owner

STALLED = {"pieces": [f"word{n} " for n in range(60)], "stall_after": 3}
TURNS = 12  # more than a relay takes to end when it is cancelled
JSON = {"Accept": "application/json"}


def tables(store):
    """Give gateways that share a store; the lease outlives the test: only what a test does moves a stream."""
    return {"store": {**store, "lease": 30.0}, "recovery": {"strategy": "auto", "backoff": 0.05}}


async def begun(client: wire.Client, model: str) -> str:
    """Begin a stream that stalls after three tokens; return its id when the client has them."""
    await client.complete(model, headers={"X-On-Disconnect": "continue"})
    _, head = await client.head()
    await client.events(3)
    return head["x-stream-id"]


@asynccontextmanager
async def on_one_of_two(provider, model, store):
    """Run two gateways, the first of which relays a stream that stalls; give both, its client and its path."""
    await provider.script(model, STALLED)
    async with (
        in_process(provider.url, **tables(store)) as one,
        in_process(provider.url, **tables(store)) as two,
        wire.Client(one.root) as client,
    ):
        yield one, two, client, f"/v1/streams/{await begun(client, model)}"


async def taken_over(gateway: InProcess, stream_id: str) -> None:
    """Let a gateway take a running stream away from another one, and go on with it."""
    stream = await gateway.app.streams.find(stream_id, Owner())
    assert await internals.takeover(gateway.app).take_over(stream, force=True)


async def ending(gateway: InProcess, stream_id: str) -> State | None:
    """Return how a stream has ended, as its store says; None: it has not."""
    found = await gateway.app.store.find(stream_id)
    return found.ending and found.ending.state


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def closed(provider, model):
    """Whether every request upstream was given up."""
    return all(one["closed_by_client_at"] for one in await provider.seen(model))


async def test_taken_over_in_the_same_moment(provider, model, store):
    """The relay that is to write the ending turns out to be fenced: the stream is taken back, and ended."""
    async with on_one_of_two(provider, model, store) as (one, two, client, path):
        abort = one.app.streams.abort

        async def abort_late(stream, reason):
            await taken_over(two, stream.id)
            await abort(stream, reason)

        one.app.streams.abort = abort_late
        assert (await wire.call(one.root, "DELETE", path)).status == 204
        for root in (two.root, one.root):
            state = (await wire.call(root, "GET", path, headers=JSON)).json
            assert (state["state"], state["error"]["code"]) == ("cancelled", "cancelled")
        events = await client.rest()
        assert json.loads(events[-1].data)["error"]["code"] == "cancelled"
        await wire.until(lambda: closed(provider, model))


async def test_any_turn_after_the_loss_was_noticed(provider, model, store):
    """The relay here ends without an ending. In whichever turn `abort` comes, the stream has ended when it returns."""
    await provider.script(model, STALLED)
    async with in_process(provider.url, **tables(store)) as one, in_process(provider.url, **tables(store)) as two:
        for count in range(TURNS):
            async with wire.Client(one.root) as client:
                streams = one.app.streams
                stream = await streams.find(await begun(client, model), Owner())
                live = internals.live_streams(one.app).get(stream.id)
                await taken_over(two, stream.id)
                live.task.cancel()  # as the next renewal of the lease does, which may have come by already
                await turns(count)
                await streams.abort(stream, "test")
                assert await ending(one, stream.id) is State.CANCELLED, count
        await two.idle_streams()
        await wire.until(lambda: closed(provider, model))


async def test_any_turn_of_a_shutdown(provider, model, store):
    """DELETE is served while the gateway stops. A relay that was let go without an ending begins again to write one."""
    await provider.script(model, STALLED)
    async with in_process(provider.url, **tables(store)) as gateway:
        streams = gateway.app.streams
        for count in range(TURNS):
            async with wire.Client(gateway.root) as client:
                stream = await streams.find(await begun(client, model), Owner())
                draining = asyncio.create_task(streams.drain(0.0, 0.0, gateway.app.responder.idle))
                await turns(count)
                await streams.abort(stream, "test")
                assert await ending(gateway, stream.id) is State.CANCELLED, count
                await draining
                internals.stop_draining(gateway.app)
        await wire.until(lambda: closed(provider, model))


async def test_taken_away_again_and_again(provider, model, store, monkeypatch):
    """If others take the stream back each time, DELETE is 503 after a while: the stream has not ended."""
    monkeypatch.setattr(streams_module, "ABORT_PATIENCE", 0.3)
    async with on_one_of_two(provider, model, store) as (one, two, _client, path):
        claim = one.app.store.claim

        async def claim_in_vain(log, *, force=False):
            claimed = await claim(log, force=force)
            await two.app.store.claim(await two.app.store.find(log.beginning.id), force=True)
            return claimed

        await taken_over(two, path.rpartition("/")[2])
        one.app.store.claim = claim_in_vain
        refused = await wire.call(one.root, "DELETE", path)
        assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
        one.app.store.claim = claim
        assert (await wire.call(one.root, "DELETE", path)).status == 204
        assert await ending(two, path.rpartition("/")[2]) is State.CANCELLED


async def test_the_store_fails_halfway(provider, model, store):
    """DELETE takes a stream away and then fails: 503. The stream goes on, and its client gets all of it."""
    async with on_one_of_two(provider, model, store) as (one, two, client, path):
        await provider.script(model, {**STALLED, "stall_after": None})
        catalog = internals.catalog(two.app.store)
        refresh = catalog.refresh

        async def failing(_logs):
            catalog.refresh = refresh
            raise StoreError("The disk has failed.")

        catalog.refresh = failing  # which comes after the claim
        refused = await wire.call(two.root, "DELETE", path)
        assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
        events = await client.rest()
        assert "".join(wire.texts(events)) == "".join(STALLED["pieces"])
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        assert await ending(one, path.rpartition("/")[2]) is State.COMPLETE
