"""Stored responses with two gateways on one durable store, one of which is killed, by OpenAI's own SDK."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import strict_responses
import wire
from gateway import OwnProcess, own_process

WORDS = [f"word{n} " for n in range(40)]
TEXT = "".join(WORDS)
STALLED = {"pieces": WORDS, "stall_after": 10}
QUICK = {"pieces": WORDS}
WAIT = 30.0  # seconds for anything that is expected to happen


@asynccontextmanager
async def two(url: str, store: dict[str, Any], **tables: Any) -> AsyncIterator[tuple[OwnProcess, OwnProcess]]:
    """Run two gateways on one store."""
    tables = {"store": store, "recovery": {"strategy": "auto", "backoff": 0.05}, **tables}
    async with own_process(url, **tables) as one, own_process(url, **tables) as other:
        yield one, other


def sdk(gateway: OwnProcess) -> openai.AsyncOpenAI:
    """Make a client of a gateway."""
    return openai.AsyncOpenAI(api_key="none", base_url=gateway.url, max_retries=0)


async def kill(gateway: OwnProcess) -> None:
    """SIGKILL."""
    gateway.process.kill()
    await gateway.ended()


async def read(stream: Any, most: int = 1000) -> list[dict[str, Any]]:
    """Read events of a stream, to its end or as many as `most`."""
    found: list[Any] = []
    async for event in stream:
        found.append(event)
        if len(found) == most:
            break
    return [event.to_dict(mode="json") for event in found]


async def test_killed_and_resumed_by_number(provider, model, store) -> None:
    """SIGKILL in mid-stream: at the other gateway `starting_after` goes on, and what was said before is the same."""
    await provider.script(model, STALLED, QUICK)
    async with two(provider.url, store) as (one, other), sdk(one) as first, sdk(other) as second:
        stream = await first.responses.create(model=model, input="Go.", stream=True)
        events = await read(stream, 14)  # created, in_progress, two added, ten deltas
        identity = events[0]["response"]["id"]
        await kill(one)
        async with asyncio.timeout(WAIT):
            events += await read(await second.responses.retrieve(identity, stream=True, starting_after=13))
        assert strict_responses.sequence(events)[-1]["response"]["status"] == "completed"
        for number in (0, 5, 13, 14, 30, len(events) - 1):
            stream = await second.responses.retrieve(identity, stream=True, starting_after=number)
            assert await read(stream) == events[number + 1 :]
        assert await read(await second.responses.retrieve(identity, stream=True)) == events
        found = await second.responses.retrieve(identity)
        assert (found.output_text, found.to_dict(mode="json")) == (TEXT, events[-1]["response"])
    assert len(await provider.seen(model)) == 2


async def test_followed_from_the_other(provider, model, store) -> None:
    """A response that one gateway relays is read, followed and cancelled at the other."""
    await provider.script(model, STALLED)
    async with two(provider.url, store) as (one, other), sdk(one) as first, sdk(other) as second:
        stream = await first.responses.create(model=model, input="Go.", stream=True)
        events = await read(stream, 14)
        identity = events[0]["response"]["id"]
        found = await second.responses.retrieve(identity)
        assert (found.status, found.output_text) == ("in_progress", "".join(WORDS[:10]))
        following = await second.responses.retrieve(identity, stream=True, starting_after=4)
        assert await read(following, 9) == events[5:]
        rest = asyncio.create_task(read(following))
        async with asyncio.timeout(WAIT):
            assert (await second.responses.cancel(identity)).status == "cancelled"
            assert [event["type"] for event in await rest] == ["response.failed"]
            assert [event["type"] for event in await read(stream)] == ["response.failed"]
        assert (await first.responses.cancel(identity)).status == "cancelled"


async def test_background_is_taken_over(provider, model, store) -> None:
    """SIGKILL of the gateway that runs it in the background: the other one ends it, though nobody reads it."""
    await provider.script(model, STALLED, QUICK)
    async with two(provider.url, store, streams={"linger": 0.0}) as (one, other), sdk(one) as first:
        made = await first.responses.create(model=model, input="Go.", background=True)
        async with asyncio.timeout(WAIT):
            while (await first.responses.retrieve(made.id)).output_text != "".join(WORDS[:10]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await kill(one)
        async with sdk(other) as second, asyncio.timeout(WAIT):
            while (found := await second.responses.retrieve(made.id)).status != "completed":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            assert found.output_text == TEXT
            assert strict_responses.sequence(await read(await second.responses.retrieve(made.id, stream=True)))


async def test_a_conversation_over_both(provider, model, store) -> None:
    """A turn goes on from one that the other gateway made. A takeover needs nothing of a turn that was deleted."""
    answers = ({"text": "One."}, {"text": "Two."}, STALLED, QUICK)
    await provider.script(model, *answers)
    async with two(provider.url, store) as (one, other), sdk(one) as first, sdk(other) as second:
        made = await first.responses.create(model=model, input="1?")
        made = await second.responses.create(model=model, input="2?", previous_response_id=made.id)
        stream = await first.responses.create(model=model, input="3?", previous_response_id=made.id, stream=True)
        events = await read(stream, 14)
        await second.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await first.responses.retrieve(made.id)
        await kill(one)
        identity = events[0]["response"]["id"]
        async with asyncio.timeout(WAIT):
            events += await read(await second.responses.retrieve(identity, stream=True, starting_after=13))
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
        items = await second.responses.input_items.list(identity, order="asc")
        assert [item.content[0].text for item in items.data] == ["1?", "One.", "2?", "Two.", "3?"]  # type: ignore[union-attr]
    seen = [call["body"]["messages"] for call in await provider.seen(model)]
    assert [message["content"] for message in seen[3]][:5] == ["1?", "One.", "2?", "Two.", "3?"]
    assert seen[2] == seen[3]


async def test_deleted_for_both(provider, model, store) -> None:
    """What one gateway deletes is on no path of either, and in no list, also after a restart."""
    await provider.script(model, QUICK)
    async with two(provider.url, store) as (one, other), sdk(one) as first, sdk(other) as second:
        made = await first.responses.create(model=model, input="Go.")
        assert (await second.responses.retrieve(made.id)).output_text == TEXT
        await second.responses.delete(made.id)
        await kill(other)
        with pytest.raises(openai.NotFoundError):
            await first.responses.retrieve(made.id)
        assert (await wire.call(one.root, "GET", "/v1/streams")).json["data"] == []
    async with own_process(provider.url, store=store) as again:
        assert (await wire.call(again.root, "GET", f"/v1/responses/{made.id}")).status == 404
        assert json.loads((await wire.call(again.root, "GET", "/v1/streams")).body)["data"] == []
