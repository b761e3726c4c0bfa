"""A log has been created and its relay is about to begin: no other request begins a relay for it."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import internals
import pytest
import wire
from gateway import in_process, settings

from server.core.lifecycle import State
from server.streams.admission import Owner

JSON = {"Accept": "application/json"}
TEXT = {"pieces": [f"word{n} " for n in range(5)]}


class Held:
    """Holds a gateway back when a log has been created and its relay is to begin, until `go`."""

    def __init__(self, gateway):
        self.begun = Counter()
        self.go = asyncio.Event()
        self.made = asyncio.Event()
        live_streams = internals.live_streams(gateway.app)
        self._begin = live_streams.begin
        live_streams.begin = self.begin
        self._create = gateway.app.store.create
        gateway.app.store.create = self.create

    async def create(self, beginning):
        found = await self._create(beginning)
        self.made.set()
        await self.go.wait()
        return found

    def begin(self, stream, *arguments, **options):
        self.begun[stream.id] += 1
        return self._begin(stream, *arguments, **options)


async def only(gateway):
    """Give the id of the one stream there is."""
    [one] = [log.beginning.id async for log in gateway.app.store.logs()]
    return one


async def test_deleted_before_its_relay_began(provider, model, store):
    """DELETE of a stream whose relay is about to begin waits for it and ends it: one relay, one ending, one reader."""
    await provider.script(model, TEXT)
    async with in_process(provider.url, store=store) as gateway, wire.Client(gateway.root) as client:
        held = Held(gateway)
        await client.complete(model)
        await held.made.wait()
        stream_id = await only(gateway)
        deleting = asyncio.create_task(wire.call(gateway.root, "DELETE", f"/v1/streams/{stream_id}"))
        await asyncio.sleep(0.1)  # the request is here, and would have begun a relay
        held.go.set()
        assert (await deleting).status == 204
        assert (await client.head())[0] == 499
        await gateway.idle()
        assert held.begun == {stream_id: 1}
        assert (await gateway.app.store.find(stream_id)).ending.state is State.CANCELLED
        assert internals.live_streams(gateway.app).count("") == 0


async def test_read_before_its_relay_began(provider, model, store):
    """A reader that finds a stream before its relay has begun gets all of it, from that relay."""
    await provider.script(model, TEXT)
    async with (
        in_process(provider.url, store=store) as gateway,
        wire.Client(gateway.root) as client,
        wire.Client(gateway.root) as reader,
    ):
        held = Held(gateway)
        await client.complete(model)
        await held.made.wait()
        stream_id = await only(gateway)
        await reader.ask("GET", f"/v1/streams/{stream_id}")
        await asyncio.sleep(0.1)  # the request is here, and would have begun a relay
        held.go.set()
        for one in (client, reader):
            await one.head()
            assert [event.data for event in await one.rest()][-1] == b"[DONE]"
        assert held.begun == {stream_id: 1}
        assert len(await provider.seen(model)) == 1


async def test_a_client_that_leaves_before(provider, model, store):
    """A client that leaves at that moment leaves a stream with one relay and one ending. Nothing waits for it."""
    await provider.script(model, TEXT)
    async with in_process(provider.url, store=store) as gateway:
        held = Held(gateway)
        async with wire.Client(gateway.root) as client:
            await client.complete(model)
            await held.made.wait()
        stream_id = await only(gateway)
        finding = asyncio.create_task(gateway.app.streams.find(stream_id, Owner()))
        held.go.set()
        assert (await finding).id == stream_id
        await gateway.idle()
        assert held.begun == {stream_id: 1}
        assert not internals.starting_streams(gateway.app)


@pytest.mark.parametrize("leaves", [False, True])
async def test_the_gateway_stops_before(provider, model, store, leaves):
    """A request whose log is still being created is told that the gateway goes. Nothing begins after that."""
    await provider.script(model, TEXT)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(in_process(provider.url, store=store))
        client = await stack.enter_async_context(wire.Client(gateway.root))
        held = Held(gateway)
        await client.complete(model)
        await held.made.wait()
        if leaves:
            client.leave()
            await asyncio.sleep(0.1)  # the request has been cancelled, and its log is waited for without it
        await gateway.app.stop(0.0)
        gateway.app.stop = stopped
        if not leaves:
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (503, "draining")
        assert not held.begun
        assert not internals.starting_streams(gateway.app)
    assert await provider.seen(model) == []


async def stopped(grace):
    """Take the place of `stop` in a gateway that has been stopped."""


async def test_a_reload_before(provider, model, store):
    """A client leaves, and a reload replaces its upstream: the one that the request was let in for is asked."""
    await provider.script(model, TEXT)
    tables = {"store": store, "streams": {"on_disconnect": "continue"}}
    async with in_process(provider.url, **tables) as gateway:
        held = Held(gateway)
        async with wire.Client(gateway.root) as client:
            await client.complete(model)
            await held.made.wait()
        await asyncio.sleep(0.1)  # the request has been cancelled, and its log is waited for without it
        await gateway.app.reload(settings(provider.url, **tables, upstream={"ttft_timeout": 6.0}), {})
        held.go.set()
        stream_id = await only(gateway)
        await wire.until(lambda: asyncio.sleep(0, held.begun))
        await gateway.idle()
        assert held.begun == {stream_id: 1}
        assert (await gateway.app.store.find(stream_id)).ending.state is State.COMPLETE
        assert not internals.retired_clients(gateway.app.upstreams)


@pytest.mark.parametrize("form", ["openai", "native"])
async def test_a_key_whose_stream_never_opened(provider, model, store, form):
    """A key is free if its stream failed before it opened, even if the gateway died before it could say so."""
    await provider.script(model, {"status": 400, "error": {"message": "no", "type": "x", "code": "x"}}, TEXT)
    path = {"openai": "/v1/chat/completions", "native": "/api/stream"}[form]
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with in_process(provider.url, store=store) as one, in_process(provider.url, store=store) as two:
        headers = {"Idempotency-Key": "k"}
        first = await wire.call(one.root, "POST", path, body, headers)
        assert first.status == 400
        other = {**body, "messages": [{"role": "user", "content": "another body"}]}
        second = await wire.call(two.root, "POST", path, other, headers)
        assert second.status == 200
        assert second.headers["x-stream-id"] != first.headers["x-stream-id"]


async def test_orphans_whose_client_stays_away(provider, model, store):
    """A stream under `cancel` whose gateway went ends as cancelled when its client has not come back."""
    await provider.script(model, {"pieces": ["a ", "b "], "stall_after": 1})
    tables = {"store": store, "streams": {"linger": 0.3}}
    async with in_process(provider.url, **tables) as one, wire.Client(one.root) as client:
        await client.complete(model)
        _, head = await client.head()
        await client.events(1)
    async with in_process(provider.url, **tables) as two:
        path = f"/v1/streams/{head['x-stream-id']}"

        async def ended():
            return (await wire.call(two.root, "GET", path, headers=JSON)).json["state"] == "cancelled"

        await wire.until(ended)
        await two.idle()
