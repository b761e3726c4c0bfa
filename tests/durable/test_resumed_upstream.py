"""A gateway dies while its upstream runs a response in the background: another one reads it there. OpenAI's SDK."""

import asyncio
from typing import Any

import openai
import strict_responses
import wire
from background_upstream import EVERYTHING, PLAIN, TEXT, WHOLE, BackgroundUpstream, Reading
from gateway import own_process

TABLES: dict[str, Any] = {"recovery": {"strategy": "auto", "backoff": 0.01}, "upstream": {"api": "responses"}}
WAIT = 30.0  # seconds for anything that is expected to happen


def sdk(url: str) -> openai.AsyncOpenAI:
    """Make a client of a gateway."""
    return openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0)


async def test_killed_in_the_middle(store) -> None:
    """SIGKILL of the gateway: the other one asks the upstream for the answer, which is paid once; one text, once."""
    async with (
        BackgroundUpstream(PLAIN, Reading(9, silent=True), WHOLE) as upstream,
        own_process(upstream.url, store=store, **TABLES) as one,
        own_process(upstream.url, store=store, **TABLES) as other,
        sdk(one.url) as first,
        sdk(other.url) as second,
        asyncio.timeout(WAIT),
    ):
        found: list[Any] = []
        stream = await first.responses.create(model="m", input="Go.", stream=True, background=True)
        async for event in stream:
            found.append(event)
            if len(found) == 7:  # created, in_progress, two added, three deltas
                break
        one.process.kill()
        await one.ended()
        identity, after = found[0].response.id, found[-1].sequence_number
        rest = await second.responses.retrieve(identity, stream=True, starting_after=after)
        found += [event async for event in rest]
    events = strict_responses.sequence([event.to_dict(mode="json") for event in found])
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
    assert (upstream.paid, upstream.resumed) == (1, ["/v1/responses/resp_1?stream=true"])
    assert not upstream.cancelled.is_set()


async def test_cancelled_at_another_gateway(store) -> None:
    """A gateway that has not begun the response cancels it at the upstream as well, before its first token or after."""
    for count in (3, 9):
        async with (
            BackgroundUpstream(PLAIN, Reading(count, silent=True)) as upstream,
            own_process(upstream.url, store=store, **TABLES) as one,
            own_process(upstream.url, store=store, **TABLES) as other,
            sdk(one.url) as first,
            sdk(other.url) as second,
            asyncio.timeout(WAIT),
        ):
            response = await first.responses.create(model="m", input="Go.", background=True)
            await upstream.silent.wait()
            if count == 9:  # its id is in the log with the first token
                await wire.until(lambda: told(second, response.id))  # noqa: B023  # it is called in this round only
            assert (await second.responses.cancel(response.id)).status == "cancelled"
            await upstream.cancelled.wait()


async def told(client: openai.AsyncOpenAI, identity: str) -> bool:
    """Whether a response has an output."""
    return bool((await client.responses.retrieve(identity)).output)


async def test_the_sdk_sees_no_cut() -> None:
    """OpenAI's own helper, over an upstream that breaks off seven times."""
    cuts = [Reading(5), *[Reading(4, part=True)] * 6]
    tables = {**TABLES, "recovery": {**TABLES["recovery"], "max_recoveries": 10}}
    async with (
        BackgroundUpstream(EVERYTHING, *cuts, WHOLE) as upstream,
        own_process(upstream.url, **tables) as gateway,
        sdk(gateway.url) as client,
        client.responses.stream(model="m", input="Go.", background=True) as stream,
    ):
        numbers = [event.sequence_number async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == TEXT
    assert numbers == sorted(set(numbers))
    assert (upstream.paid, len(upstream.resumed)) == (1, 7)
