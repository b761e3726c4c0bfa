"""A thousand streams at once, every token of each checked."""

import asyncio
import json
import time

import pytest
from gateway import own_process
from wire import Client, call, texts

STREAMS = 1000
TOKENS = 20


@pytest.mark.alone
@pytest.mark.timeout(300)
async def test_a_thousand_streams(provider, model) -> None:
    """Of 1,000 streams open at the same time each gets its own whole text in order, and nothing is left behind."""
    for stall in (8.0, 12.0, 16.0):  # seconds in which all have to be opened: others may use the machine, too
        if await together(provider, f"{model}-{stall:.0f}", stall) == STREAMS:
            return
    pytest.fail("they were never all open at the same time")


async def together(provider, model, stall: float) -> int:
    """Run the streams, each of which stands still after its first token; return how many were open at once."""
    script = {"tokens": TOKENS, "stall_after": 1, "stall_for": stall}
    opened = 0

    async def one(number: int) -> None:
        nonlocal opened
        async with Client(gateway.root) as client:
            said = [f"{number}/{token} " for token in range(TOKENS)]
            await client.complete(model, script={**script, "pieces": said})
            assert (await client.head())[0] == 200
            await client.events(2)
            opened += 1
            events = await client.rest()
        assert texts(events) == said
        assert [event.id for event in events] == list(range(1, TOKENS + 4))
        assert events[-1].data == b"[DONE]"

    async with own_process(provider.url) as gateway:
        tasks = [asyncio.create_task(one(number)) for number in range(STREAMS)]
        live, began = 0, time.monotonic()
        while opened < STREAMS and time.monotonic() - began < 60:
            await asyncio.sleep(0.2)
            metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
            [active] = [line for line in metrics.splitlines() if line.startswith("sluiceway_streams_active ")]
            live = max(live, round(float(active.split()[1])))
        await asyncio.gather(*tasks)
        listed = json.loads((await call(gateway.root, "GET", "/v1/streams")).body)["data"]
        assert {one["state"] for one in listed} == {"complete"}
        assert len(listed) == STREAMS
    assert len(await provider.all_over(model)) == STREAMS
    return live
