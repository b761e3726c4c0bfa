"""OpenAI's SDKs for Responses through the resuming clients, in Python and JavaScript, over connections that are cut."""

import asyncio
import json
from typing import Any

import openai
import pytest
import strict_responses
from cutting_proxy import cutting, random_cuts
from gateway import InProcess, in_process
from node import node
from provider import Provider

from server.streams.admission import Owner
from sluiceway import Patience, resuming_http_client, resuming_sync_http_client

WORDS = [f"w{n}é☃ " for n in range(200)]
QUICK = Patience(first_wait=0.01, longest_wait=0.1, give_up_after=10.0)
PACED = {"reasoning": ["Hm. "], "pieces": WORDS, "rate": 400}


def whole(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check that events are those of the whole response, each once; return them."""
    strict_responses.sequence(events)
    assert events[-1]["response"]["output"][1]["content"][0]["text"] == "".join(WORDS)
    return events


async def listed(gateway: InProcess) -> list[str]:
    """Give the states of all streams."""
    return [stream.view()["state"] async for stream in gateway.app.streams.visible(Owner())]


async def test_the_async_sdk_survives_twenty_cuts(provider: Provider, model: str) -> None:
    """Every event comes once, with its number, though the connection is cut 20 times; so it does when read again."""
    await provider.script(model, PACED)
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(40, seed=1, low=900)) as proxy:
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            stream = await client.responses.create(model=model, input="Go.", stream=True)
            events = whole([event.to_dict(mode="json") async for event in stream])
            assert proxy.made >= 20
            again = await client.responses.retrieve(events[0]["response"]["id"], stream=True, starting_after=3)
            assert [event.to_dict(mode="json") async for event in again] == events[4:]
        assert len(await provider.seen(model)) == 1


async def test_the_sync_sdk_survives_twenty_cuts(provider: Provider, model: str) -> None:
    """The sync client, with the SDK's helper on top, which checks the order of events itself."""
    await provider.script(model, PACED)

    def ask(url: str) -> list[dict[str, Any]]:
        with resuming_sync_http_client(base_url=url, patience=QUICK) as http:
            client = openai.OpenAI(api_key="none", http_client=http, max_retries=0)
            with client.responses.stream(model=model, input="Go.") as stream:
                numbers = [event.sequence_number for event in stream]
                final = stream.get_final_response()
            assert numbers == list(range(len(numbers)))
            assert final.output_text == "".join(WORDS)
            again = client.responses.retrieve(final.id, stream=True)
            return [event.to_dict(mode="json") for event in again]

    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(20, seed=2, low=900)) as proxy:
        whole(await asyncio.to_thread(ask, proxy.url))
        assert proxy.made == 20
        assert len(await provider.seen(model)) == 1


@pytest.mark.parametrize("helper", [False, True], ids=["raw", "helper"])
async def test_the_javascript_sdk_survives_cuts(provider: Provider, model: str, *, helper: bool) -> None:
    """The same in JavaScript, for the raw stream and for the helper, which throws at an event that it does not know."""
    await provider.script(model, PACED)
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(40, seed=3, low=900)) as proxy:
        said = await node("responses_resumed.mjs", proxy.url, model, json.dumps({"helper": helper}))
        assert "error" not in said
        assert [event["sequence_number"] for event in said["events"]] == list(range(len(said["events"])))
        assert said["cuts"] >= 20
        events = said["events"] if not helper else [*said["events"][:5], *said["again"]]
        if not helper:
            whole(events)
            assert said["again"] == events[5:]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert len(await provider.seen(model)) == 1


async def test_giving_up_says_why(provider: Provider, model: str) -> None:
    """When the gateway stays away both SDKs raise an error that says where and why."""
    await provider.script(model, {"pieces": WORDS, "rate": 200})
    async with in_process(provider.url) as gateway, cutting(gateway.port, [3000]) as proxy:

        async def stay_away(_made: int) -> None:
            proxy.refusing = True

        proxy.on_cut = stay_away
        patience = Patience(first_wait=0.01, longest_wait=0.1, give_up_after=0.5)
        async with resuming_http_client(base_url=proxy.url, patience=patience) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            with pytest.raises(openai.APIError, match="lost after event") as raised:
                async for _ in await client.responses.create(model=model, input="Go.", stream=True):
                    pass
        assert raised.value.code == "stream_lost"
        proxy.refusing, proxy.cuts = False, [3000]
        said = await node("responses_resumed.mjs", proxy.url, model, json.dumps({"resume": {"giveUpAfter": 500}}))
    assert "lost after event" in said["error"]["message"]


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
async def test_leaving_early(provider: Provider, model: str, *, background: bool) -> None:
    """A program that leaves its stream aborts the generation, unless it runs in the background."""
    await provider.script(model, {"tokens": 40, "rate": 40})
    async with in_process(provider.url, streams={"linger": 600.0}) as gateway:
        async with resuming_http_client(base_url=gateway.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            made = await client.responses.create(model=model, input="Go.", stream=True, background=background)
            async with made as stream:
                async for event in stream:
                    if event.sequence_number == 5:
                        break
        options = json.dumps({"stopAfter": 5, "background": background})
        assert len((await node("responses_resumed.mjs", gateway.url, model, options))["events"]) == 5
        await gateway.idle()
        assert await listed(gateway) == ["complete" if background else "cancelled"] * 2
