"""A stream that has ended while its relay still tidies up."""

import asyncio

import internals
import wire
from gateway import in_process

from server.relay.attempt import Attempt


async def test_its_upstream_connection_is_kept(provider, model, store, monkeypatch):
    """A reader that comes at that moment does not cost the connection to the upstream."""
    tidying, tidied = asyncio.Event(), asyncio.Event()
    tidy = Attempt.tidy

    async def tidy_late(self):
        tidying.set()
        await tidied.wait()
        await tidy(self)

    monkeypatch.setattr(Attempt, "tidy", tidy_late)
    async with in_process(provider.url, store=store) as gateway:
        answer = await wire.complete(gateway.root, model)
        stream_id = answer.headers["x-stream-id"]
        await tidying.wait()
        live = internals.live_streams(gateway.app).get(stream_id)
        again = await wire.call(gateway.root, "GET", f"/v1/streams/{stream_id}")
        assert again.body == answer.body  # not even a heartbeat: there was something to send at once
        tidied.set()
        await live.over.wait()
        assert not live.task.cancelled()
