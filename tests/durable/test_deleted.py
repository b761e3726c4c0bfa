"""A log is deleted, or loses its end, while a slow client still reads it: the client is told, and nothing spins."""

import json
import re
import socket
import time
from contextlib import asynccontextmanager

import internals
import pytest
import wire
from gateway import in_process

from server.stores.redis.server import PREFIX

LARGE = {"pieces": ["x" * 1000] * 900}  # more than all buffers between the log and a client take
PATHS = {"openai": "/v1/chat/completions", "native": "/api/stream"}


@asynccontextmanager
async def slow(root):
    """Connect a client whose buffers are small, and that reads nothing yet."""
    async with wire.Client(root) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 13)
        client.pause_reading()
        yield client


async def stuck(gateway):
    """Wait until the one response is under way, and its client's buffers are full."""

    async def blocked():
        return [one for one in gateway.app.responder.open if one.cursor and internals.is_blocked(one)]

    (delivery,) = await wire.until(blocked)
    return delivery


async def read_on(client):
    """Read to the proper end; return the ids, and the events that have none: their type and data."""
    client.resume_reading()
    await client.head()
    while await client.more():
        pass
    return [int(seq) for seq in re.findall(rb"^id: (\d+)$", client.body, re.MULTILINE)], unnumbered(client.body)


def unnumbered(body):
    """Give the type and the data of each event that has no id."""
    events = re.findall(rb"(?:event: (\w+)\n)?(id: \d+\n)?data: (.*)\n\n", body)
    return [(kind, json.loads(data)) for kind, numbered, data in events if not numbered]


async def forgetful(gateway, stream, cursor):
    """Take the last records of a live stream out of Redis, as a failover does; return the last number that is left."""
    redis, records = internals.redis_server(gateway.app.store).redis, f"{PREFIX}records:{stream.id}"
    entries = [one for one, _ in await redis.xrange(records, f"{cursor + 1}-0")]
    assert await redis.xdel(records, *entries[1:])
    left = int(entries[0].split(b"-")[0])
    await redis.hset(stream.log.key, "tail", left)
    return left


async def kept(gateway, model, form):
    """Let a stream of one form run to its end; return its id and its number of records."""
    body = wire.completion(model) if form == "openai" else {"model": model, "prompt": "Say it."}
    answer = await wire.call(gateway.root, "POST", PATHS[form], body)
    return answer.headers["x-stream-id"], answer.events[-1].id


async def expire(gateway):
    """Let the retention of everything be over."""
    await gateway.app.store.sweep(time.time() + 1e6)


@pytest.mark.parametrize("shown", ["openai", "native"])
@pytest.mark.parametrize("created", ["openai", "native"])
async def test_deleted_under_its_reader(provider, model, store, created, shown):
    """Its retention ends while it is read: the client is told what is missing, in either form. After that it is 404."""
    await provider.script(model, LARGE)
    async with in_process(provider.url, store=store) as gateway:
        stream_id, tail = await kept(gateway, model, created)
        path = f"/v1/streams/{stream_id}?format={shown}"
        async with slow(gateway.root) as client:
            await client.ask("GET", path)
            await stuck(gateway)
            await expire(gateway)
            ids, told = await read_on(client)
        assert ids == list(range(ids[0], ids[-1] + 1))
        assert ids[-1] < tail
        missing = {"requested": ids[-1] + 1, "earliest": tail + 1, "latest": tail}
        if shown == "openai":
            ((_, body),) = told
            assert body["error"].items() >= {"code": "gap", **missing}.items()
            assert b"[DONE]" not in client.body
        else:
            assert told[0] == (b"gap", {"type": "gap", **missing})
            assert [kind for kind, _ in told] == [b"gap", b"error", b"done"]
            assert told[1][1].items() >= {"code": "gap", "retryable": True, "resumable": False}.items()
            assert told[2][1]["status"] == "failed"
        assert (await wire.call(gateway.root, "GET", path)).status == 404
        assert gateway.app.responder.open == set()


@pytest.mark.parametrize("shown", ["openai", "native"])
@pytest.mark.parametrize("store", ["redis"], indirect=True)
async def test_lost_ahead_of_the_reader_of_a_live_stream(provider, model, store, shown):
    """The relay's next append finds out what is missing. It does not wait for the reader, and the reader is told."""
    await provider.script(model, LARGE)
    async with in_process(provider.url, store=store) as gateway, wire.Client(gateway.root) as first:
        await first.complete(model, headers={"X-On-Disconnect": "continue"})
        _, headers = await first.head()
        async with slow(gateway.root) as client:
            await client.ask("GET", f"/v1/streams/{headers['x-stream-id']}?format={shown}")
            first.leave()
            (live,) = internals.live_streams(gateway.app)
            delivery = await stuck(gateway)
            stream = live.stream

            async def paused():
                return stream.paused and internals.append_under_way(stream) is None

            await wire.until(paused)
            tail, left = stream.log.tail, await forgetful(gateway, stream, delivery.cursor)
            ids, told = await read_on(client)
        ((kind, gap),) = told
        assert kind == (b"gap" if shown == "native" else b"")
        gap = gap.get("error", gap)
        assert (gap["requested"], gap["earliest"]) == (left + 1, tail + 1)
        assert ids[:left] == list(range(1, left + 1))
        assert (ids[left], ids[-1]) == (tail + 1, stream.log.tail)


async def test_a_whole_answer_deleted(provider, model, store):
    """An answer of `stream: false`, and the last id of an ended stream, are 404 once their retention is over."""
    await provider.script(model, {"text": "One."}, {"text": "Two."})
    async with in_process(provider.url, store=store) as gateway:
        whole = await wire.complete(gateway.root, model, stream=False)
        ended = await wire.complete(gateway.root, model)
        asked = [
            (f"/v1/streams/{whole.headers['x-stream-id']}", {}, 200),
            (f"/v1/streams/{ended.headers['x-stream-id']}", {"Last-Event-ID": str(ended.events[-1].id)}, 204),
        ]
        for path, headers, status in asked:
            assert (await wire.call(gateway.root, "GET", path, headers=headers)).status == status
        await expire(gateway)
        for path, headers, _ in asked:
            gone = await wire.call(gateway.root, "GET", path, headers=headers)
            assert (gone.status, gone.error["code"]) == (404, "stream_not_found")


@pytest.mark.parametrize("whole", [True, False])
async def test_deleted_once_it_was_found(provider, model, store, monkeypatch, whole):
    """It is deleted between being found and being read: the client is told, before or after the response opens."""
    await provider.script(model, {"text": "One two three."})
    async with in_process(provider.url, store=store) as gateway:
        stream_id = (await wire.complete(gateway.root, model, stream=not whole)).headers["x-stream-id"]
        found = gateway.app.streams.find

        async def find(*wanted):
            stream = await found(*wanted)
            await expire(gateway)
            return stream

        monkeypatch.setattr(gateway.app.streams, "find", find)
        answer = await wire.call(gateway.root, "GET", f"/v1/streams/{stream_id}?after={0 if whole else 2}")
        if answer.status == 200:
            assert not whole
            ((_, body),) = unnumbered(answer.body)
            assert (body["error"]["code"], body["error"]["requested"]) == ("gap", 3)
        else:
            assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
