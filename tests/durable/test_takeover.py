"""A stream goes on if its gateway is killed, is stopped or stands still. No token is lost, repeated or altered."""

import asyncio
import json
import random
import signal

import wire
from gateway import in_process, own_process
from resuming_client import ResumingClient

PIECES = [f"word{n} " for n in range(60)]
TEXT = "".join(PIECES)
SLOW = {"pieces": PIECES, "rate": 60}
QUICK = {"pieces": PIECES}
LONG = {"pieces": PIECES, "rate": 10}  # six seconds: whatever befalls its relay comes in mid-stream


def tables(store, **more):
    return {"store": store, "recovery": {"strategy": "auto", "backoff": 0.05}, **more}


async def test_after_a_kill(provider, model, store):
    """SIGKILL at a random moment, three times in one stream: the next process goes on where the client was."""
    await provider.script(model, LONG, SLOW)
    moment = random.Random(4)
    roots: list[str] = []
    client = ResumingClient(lambda: roots)
    async with own_process(provider.url, **tables(store)) as first:
        roots.append(first.root)
        await client.begin(first.root, model)
        reading = asyncio.create_task(client.run())
        await asyncio.sleep(moment.uniform(0.1, 0.5))
        first.process.kill()
        await first.ended()
    for _ in range(2):
        roots.clear()
        async with own_process(provider.url, **tables(store)) as following:
            roots.append(following.root)
            await asyncio.sleep(moment.uniform(0.3, 1.0))
            following.process.kill()
            await following.ended()
    roots.clear()
    async with own_process(provider.url, **tables(store)) as last:
        roots.append(last.root)
        await reading
        state = (await wire.call(last.root, "GET", f"/v1/streams/{client.stream_id}",
                                 headers={"Accept": "application/json"})).json  # fmt: skip
    client.check(TEXT)
    assert client.cuts >= 1
    assert state["state"] == "complete"
    assert state["records"] == client.last
    assert state["recoveries"] == 0


async def test_killed_beside_another(provider, model, store):
    """SIGKILL of one of two gateways in mid-stream: the client goes on at the other, which is asked for the stream."""
    await provider.script(model, LONG, QUICK)
    async with own_process(provider.url, **tables(store)) as one, own_process(provider.url, **tables(store)) as other:
        client = ResumingClient(lambda: [other.root])
        await client.begin(one.root, model, headers={"X-On-Disconnect": "cancel"})
        one.process.kill()
        await client.run()
        taken = other.logged("stream taken over")
    client.check(TEXT)
    assert client.cuts == 1
    assert [line["stream_id"] for line in taken] == [client.stream_id]
    assert len(await provider.seen(model)) == 2


async def test_after_a_stop(provider, model, store):
    """SIGTERM, and the grace is over: the client is told when to come back and is cut. The next gateway goes on."""
    await provider.script(model, LONG, QUICK)
    roots: list[str] = []
    client = ResumingClient(lambda: roots)
    shared = tables(store, server={"shutdown_grace": 0.1, "port": 0})
    async with own_process(provider.url, **shared) as first:
        await client.begin(first.root, model)
        reading = asyncio.create_task(client.run())
        connection = client.connection
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
    assert connection.body.endswith(b"retry: 1000\n")
    async with own_process(provider.url, **shared) as second:
        roots.append(second.root)
        await reading
    client.check(TEXT)
    assert client.cuts == 1


async def test_a_stale_relay_stops(provider, model, store):
    """A gateway that stood still (SIGSTOP) and wakes up after a takeover cannot write, and cancels its upstream."""
    await provider.script(model, LONG, QUICK)
    async with own_process(provider.url, **tables(store)) as stale, own_process(provider.url, **tables(store)) as other:
        client = ResumingClient(lambda: [other.root])
        await client.begin(stale.root, model)
        stale.signal(signal.SIGSTOP)  # what its upstream sends from now on waits for it
        try:
            client.connection.leave("rst")
            await client.run()
        finally:
            stale.signal(signal.SIGCONT)
        client.check(TEXT)
        await wire.until(lambda: _over(provider, model, 2))
        again = ResumingClient(lambda: [stale.root])
        again.stream_id = client.stream_id
        await again.resume(stale.root)
        assert again.events == client.events
        await wire.until(lambda: _lost(stale, client.stream_id))
        assert not [line for line in stale.lines if "Traceback" in str(line)]


async def _lost(stale, stream_id):
    return [line["stream_id"] for line in stale.logged("stream lost to another instance")] == [stream_id]


async def _over(provider, model, count):
    seen = await provider.seen(model)
    return len(seen) == count and all(one["finished"] or one["closed_by_client_at"] for one in seen)


async def test_adopted_without_a_client(provider, model, store):
    """With `continue` another gateway goes on as soon as the lease has run out, though nobody asks it to."""
    await provider.script(model, LONG, QUICK)
    async with own_process(provider.url, **tables(store)) as one, own_process(provider.url, **tables(store)) as other:
        async with wire.Client(one.root) as client:
            await client.complete(model, headers={"X-On-Disconnect": "continue"})
            _, head = await client.head()
            shown = await client.events(5)
        one.process.kill()
        await wire.until(lambda: _over(provider, model, 2))
        path = f"/v1/streams/{head['x-stream-id']}"

        async def complete():
            state = (await wire.call(other.root, "GET", path, headers={"Accept": "application/json"})).json
            return state["state"] == "complete"

        await wire.until(complete)
        events = (await wire.call(other.root, "GET", path)).events
    assert events[: len(shown)] == shown
    assert "".join(wire.texts(events)) == TEXT
    assert [event.id for event in events] == list(range(1, len(events) + 1))


async def test_read_where_it_is_not_relayed(provider, model, store):
    """A second gateway shows a stream live while the first one relays it; both list it."""
    await provider.script(model, SLOW)
    async with in_process(provider.url, **tables(store)) as one, in_process(provider.url, **tables(store)) as two:
        async with wire.Client(one.root) as client, wire.Client(two.root) as other:
            await client.complete(model)
            _, head = await client.head()
            await client.events(2)
            await other.ask("GET", f"/v1/streams/{head['x-stream-id']}")
            assert (await other.head())[1]["x-sluiceway-target"] == f"local/{model}"
            events = await other.events(20)
            assert len(events) < 60, "it came live, not at the end"
            mine, theirs = await client.rest(), await other.rest()
        assert mine == theirs
        assert "".join(wire.texts(theirs)) == TEXT
        listed = [(await wire.call(root, "GET", "/v1/streams")).json["data"] for root in (one.root, two.root)]
        assert [[row["id"] for row in rows] for rows in listed] == [[head["x-stream-id"]]] * 2
        assert await _over(provider, model, 1)


async def test_aborted_from_elsewhere(provider, model, store):
    """DELETE at an instance that does not relay the stream: the upstream is cancelled, all readers get the ending."""
    await provider.script(model, {"pieces": PIECES, "rate": 5})
    async with in_process(provider.url, **tables(store)) as one, in_process(provider.url, **tables(store)) as two:
        async with wire.Client(one.root) as client:
            await client.complete(model)
            _, head = await client.head()
            await client.events(2)
            path = f"/v1/streams/{head['x-stream-id']}"
            for _ in range(2):
                assert (await wire.call(two.root, "DELETE", path)).status == 204
            events = await client.rest()
        assert json.loads(events[-1].data)["error"]["code"] == "cancelled"
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        await wire.until(lambda: _over(provider, model, 1))
        for root in (one.root, two.root):
            state = (await wire.call(root, "GET", path, headers={"Accept": "application/json"})).json
            assert (state["state"], state["error"]["code"]) == ("cancelled", "cancelled")


async def test_a_reader_elsewhere_keeps_it(provider, model, store):
    """Under `cancel`, a stream whose last reader here has left goes on while another instance has a reader."""
    await provider.script(model, SLOW)
    async with (
        in_process(provider.url, **tables(store)) as one,
        in_process(provider.url, **tables(store)) as two,
        wire.Client(one.root) as client,
        wire.Client(two.root) as other,
    ):
        await client.complete(model)
        _, head = await client.head()
        await client.events(2)
        await other.ask("GET", f"/v1/streams/{head['x-stream-id']}")
        await other.head()
        await other.events(5)
        client.leave("rst")
        events = await other.rest()
    assert "".join(wire.texts(events)) == TEXT
    assert events[-1].data == b"[DONE]"


async def test_idempotency_across_instances(provider, model, store):
    """The same key at two instances at the same moment is one stream, one request upstream and one text for both."""
    await provider.script(model, SLOW)
    headers = {"Idempotency-Key": "once"}
    async with in_process(provider.url, **tables(store)) as one, in_process(provider.url, **tables(store)) as two:
        answers = await asyncio.gather(
            *(wire.complete(root, model, headers=headers) for root in (one.root, two.root) for _ in range(3))
        )
        other = await wire.complete(two.root, model, headers=headers, temperature=1)
    assert len({answer.headers["x-stream-id"] for answer in answers}) == 1
    assert all(answer.events == answers[0].events for answer in answers)
    assert "".join(wire.texts(answers[0].events)) == TEXT
    assert len(await provider.seen(model)) == 1
    assert other.error["code"] == "idempotency_key_reused"
