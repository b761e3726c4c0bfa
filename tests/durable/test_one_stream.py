"""A process has one `Stream` per log that may still grow, for as long as it is used, wherever its relay is."""

import asyncio
import gc
import time
import weakref

import internals
import wire
from gateway import in_process

from server.core.errors import StoreError
from server.core.records import Beginning
from server.streams.admission import Owner

STALLED = {"pieces": [f"word{n} " for n in range(9)], "stall_after": 3}
WHOLE = {**STALLED, "stall_after": None}
JSON = {"Accept": "application/json"}


def tables(store):
    """Give gateways that share a store; the lease outlives the test: only what a test does moves a stream."""
    return {"store": {**store, "lease": 30.0}, "recovery": {"strategy": "auto", "backoff": 0.05}}


async def begun(client, model):
    """Begin a stream that stalls; return its id when the client has had what comes before."""
    await client.complete(model, headers={"X-On-Disconnect": "continue"})
    _, head = await client.head()
    await client.events(3)
    return head["x-stream-id"]


async def test_where_it_is_relayed_and_where_it_is_not(provider, model, store):
    """Readers, lists and searches of one process share it. The list also counts the readers of a followed stream."""
    await provider.script(model, STALLED)
    async with (
        in_process(provider.url, **tables(store)) as one,
        in_process(provider.url, **tables(store)) as two,
        wire.Client(one.root) as client,
        wire.Client(two.root) as reader,
    ):
        stream_id = await begun(client, model)
        await reader.ask("GET", f"/v1/streams/{stream_id}")
        await reader.head()
        await reader.events(3)
        for gateway in (one, two):
            streams = gateway.app.streams
            found = [await streams.find(stream_id, Owner()) for _ in range(2)]
            listed = [stream async for stream in streams.visible(Owner())]
            assert len({id(stream) for stream in (*found, *listed)}) == 1
            [row] = (await wire.call(gateway.root, "GET", "/v1/streams")).json["data"]
            assert (row["readers"], row["records"]) == (1, 4)
        assert (await wire.call(one.root, "DELETE", f"/v1/streams/{stream_id}")).status == 204


async def test_it_goes_with_its_last_user(provider, model, store):
    """`LiveStreams` keeps no stream alive: neither one that has ended, nor one that nobody here reads any more."""
    await provider.script(model, STALLED)
    async with in_process(provider.url, **tables(store)) as one, in_process(provider.url, **tables(store)) as two:
        async with wire.Client(one.root) as client:
            stream_id = await begun(client, model)
            seen = [weakref.ref(await gateway.app.streams.find(stream_id, Owner())) for gateway in (one, two)]
            assert (await wire.call(two.root, "GET", f"/v1/streams/{stream_id}", headers=JSON)).status == 200
            await one.app.streams.abort(await one.app.streams.find(stream_id, Owner()), "test")
            await client.rest()
        await one.idle()

        async def gone():
            await asyncio.sleep(0)
            gc.collect()
            return not any(stream() for stream in seen)

        await wire.until(gone)
        assert not any(len(internals.streams_in_use(gateway.app)) for gateway in (one, two))


async def test_after_a_fault(provider, model, store):
    """Readers who were told of a fault keep their stream; who comes when the store is well again gets another one."""
    await provider.script(model, STALLED)
    async with (
        in_process(provider.url, **tables(store)) as one,
        in_process(provider.url, **tables(store)) as two,
        wire.Client(one.root) as client,
        wire.Client(two.root) as reader,
    ):
        stream_id = await begun(client, model)
        streams, backing = two.app.streams, two.app.store
        faulty = await streams.find(stream_id, Owner())
        follow = backing.follow

        async def failing(_log):
            raise StoreError("The disk has failed.")

        backing.follow = failing
        await reader.ask("GET", f"/v1/streams/{stream_id}")
        await reader.head()
        while await reader.more():
            pass
        assert b'"store_unavailable"' in reader.body
        assert faulty.fault is not None
        backing.follow = follow
        assert await streams.find(stream_id, Owner()) is not faulty
        async with wire.Client(two.root) as again:
            await again.ask("GET", f"/v1/streams/{stream_id}")
            await again.head()
            assert len(await again.events(3)) >= 3
            assert (await wire.call(one.root, "DELETE", f"/v1/streams/{stream_id}")).status == 204
            assert b'"cancelled"' in (await again.rest())[-1].data


async def test_ended_elsewhere_before_its_relay_knows(provider, model, store):
    """A search finds the ending that another instance wrote. The readers here get it; the relay here does not count."""
    await provider.script(model, STALLED, WHOLE)
    async with (
        in_process(provider.url, **tables(store)) as one,
        in_process(provider.url, **tables(store)) as two,
        wire.Client(one.root) as client,
    ):
        told, renew = asyncio.Event(), one.app.store.renew

        async def renew_late():
            await told.wait()
            return await renew()

        one.app.store.renew = renew_late
        stream_id = await begun(client, model)
        taken = await internals.takeover(two.app).take_over(await two.app.streams.find(stream_id, Owner()), force=True)
        await taken.over.wait()
        assert (await wire.call(one.root, "GET", f"/v1/streams/{stream_id}", headers=JSON)).status == 200
        told.set()
        events = await client.rest()
        assert "".join(wire.texts(events)) == "".join(WHOLE["pieces"])
        await one.idle()
        counted = [(await wire.call(gateway.root, "GET", "/metrics")).body.decode() for gateway in (one, two)]
        assert [text.count('sluiceway_streams_total{status="complete"} 1.0') for text in counted] == [0, 1]


async def test_an_ending_that_is_owed(provider, model, store):
    """A stream was aborted while the store was away. Its next reader brings the ending, and does not let it go on."""
    await provider.script(model, STALLED, WHOLE)
    async with in_process(provider.url, **tables(store)) as gateway, wire.Client(gateway.root) as client:
        stream_id = await begun(client, model)
        live = internals.live_streams(gateway.app).get(stream_id)
        append = live.stream.log.append

        async def failing(*_arguments):
            raise StoreError("The disk has failed.")

        live.stream.log.append = failing
        refused = await wire.call(gateway.root, "DELETE", f"/v1/streams/{stream_id}")
        assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
        live.stream.log.append = append
        answer = await wire.call(gateway.root, "GET", f"/v1/streams/{stream_id}")
        assert b'"cancelled"' in answer.events[-1].data
        assert [event.id for event in answer.events] == list(range(1, len(answer.events) + 1))
        assert len(await provider.seen(model)) == 1
        assert not internals.live_streams(gateway.app).interrupted


async def test_a_dialect_that_is_not_registered(provider, model, store):
    """A log that cannot be shown here hides no other stream, and keeps nobody from taking over the others."""
    await provider.script(model, STALLED, WHOLE)
    odd = Beginning("strm_odd", "", "morse", model, time.time(), b"{}", policy="continue")
    async with in_process(provider.url, store={**store, "lease": 0.5}) as two:
        async with in_process(provider.url, **tables(store)) as one, wire.Client(one.root) as client:
            await one.app.store.create(odd)
            stream_id = await begun(client, model)
        listed = (await wire.call(two.root, "GET", "/v1/streams")).json["data"]
        assert [row["id"] for row in listed] == [stream_id]

        async def ended():
            path = f"/v1/streams/{stream_id}"
            return (await wire.call(two.root, "GET", path, headers=JSON)).json["state"] in ("complete", "failed")

        await wire.until(ended)
