"""OpenAI's Python SDK through the resuming clients, over connections that are cut."""

import asyncio
from typing import Any

import openai
import pytest
from cutting_proxy import cutting, random_cuts
from gateway import in_process
from langchain_openai import ChatOpenAI
from provider import Provider

from sluiceway import Patience, resuming_http_client, resuming_sync_http_client

WORDS = [f"w{n}é☃ " for n in range(200)]
QUESTION: Any = [{"role": "user", "content": "Tell me."}]
QUICK = Patience(first_wait=0.01, longest_wait=0.1, give_up_after=10.0)


async def test_async_sdk_survives_twenty_cuts(provider: Provider, model: str) -> None:
    """AsyncOpenAI gets every chunk once, although its connection is cut 20 times at random bytes."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(20, seed=1)) as proxy:
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert [text for text in texts if text] == WORDS
        assert proxy.made == 20
        assert len(await provider.seen(model)) == 1


async def test_sync_sdk_survives_twenty_cuts(provider: Provider, model: str) -> None:
    """OpenAI, the sync client, gets every chunk once over 20 cuts."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})

    def ask(url: str) -> list[str]:
        with resuming_sync_http_client(base_url=url, patience=QUICK) as http:
            client = openai.OpenAI(api_key="none", http_client=http, max_retries=0)
            stream = client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            return [text for chunk in stream if (text := chunk.choices[0].delta.content)]

    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(20, seed=2)) as proxy:
        assert await asyncio.to_thread(ask, proxy.url) == WORDS
        assert proxy.made == 20
        assert len(await provider.seen(model)) == 1


async def test_a_lost_head_is_asked_for_again(provider: Provider, model: str) -> None:
    """A POST whose response head was cut is repeated, and joins the generation that it had begun."""
    await provider.script(model, {"pieces": WORDS[:20]})
    async with in_process(provider.url) as gateway, cutting(gateway.port, [1, 40, 100]) as proxy:
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            texts = [text async for chunk in stream if (text := chunk.choices[0].delta.content)]
        assert texts == WORDS[:20]
        assert proxy.made == 3
        assert len(await provider.seen(model)) == 1


async def test_a_whole_answer_is_asked_for_again(provider: Provider, model: str) -> None:
    """An answer that is not streamed survives a cut in its body, without a second generation."""
    await provider.script(model, {"text": "all of it"})
    async with in_process(provider.url) as gateway, cutting(gateway.port, [50, 350]) as proxy:
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            answer = await client.chat.completions.create(model=model, messages=QUESTION)
        assert "".join(answer.choices[0].message.content or "").split() == ["all", "of", "it"]
        assert proxy.made == 2
        assert len(await provider.seen(model)) == 1


async def test_a_silent_connection_is_a_cut(provider: Provider, model: str) -> None:
    """A connection that stays open but brings nothing more is given up, and the stream goes on over another one."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    patience = Patience(first_wait=0.01, silence=0.5)
    async with in_process(provider.url) as gateway, cutting(gateway.port, [2000]) as proxy:
        proxy.silent = True
        async with resuming_http_client(base_url=proxy.url, patience=patience) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            texts = [text async for chunk in stream if (text := chunk.choices[0].delta.content)]
        assert texts == WORDS
        assert proxy.connections >= 2


async def test_leaving_early_stops_the_generation(provider: Provider, model: str) -> None:
    """A program that closes its stream aborts it at once, though its stream would outlive a lost connection."""
    await provider.script(model, {"tokens": 1000, "rate": 50})
    async with in_process(provider.url, streams={"linger": 600.0}) as gateway:
        async with resuming_http_client(base_url=gateway.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http)
            async with await client.chat.completions.create(model=model, messages=QUESTION, stream=True) as stream:
                async for _ in stream:
                    break
            await gateway.idle()
            listed = (await http.get("streams")).json()["data"]
        assert [one["state"] for one in listed] == ["cancelled"]


async def test_a_cancelled_task_stops_the_generation(provider: Provider, model: str) -> None:
    """If the task that reads a stream is cancelled, the stream is aborted as well."""
    await provider.script(model, {"tokens": 1000, "rate": 50})
    async with in_process(provider.url, streams={"linger": 600.0}) as gateway:
        reading = asyncio.Event()

        async def read() -> None:
            stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            async for _ in stream:
                reading.set()

        async with resuming_http_client(base_url=gateway.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http)
            task = asyncio.create_task(read())
            await asyncio.wait_for(reading.wait(), 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await gateway.idle()


async def test_a_policy_of_ones_own_is_kept(provider: Provider, model: str) -> None:
    """With `X-On-Disconnect: cancel` a cut ends the stream, and the program learns so from the gateway's own error."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    async with in_process(provider.url) as gateway, cutting(gateway.port, [2000]) as proxy:
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            stream = await client.chat.completions.create(
                model=model, messages=QUESTION, stream=True, extra_headers={"X-On-Disconnect": "cancel"}
            )
            with pytest.raises(openai.APIError) as raised:
                async for _ in stream:
                    pass
        assert raised.value.code == "cancelled"


async def test_giving_up_says_why(provider: Provider, model: str) -> None:
    """When the gateway stays away the stream ends after a bounded time with an APIError that says where and why."""
    await provider.script(model, {"pieces": WORDS, "rate": 200})
    patience = Patience(first_wait=0.01, longest_wait=0.1, give_up_after=0.5)
    async with in_process(provider.url) as gateway, cutting(gateway.port, [3000]) as proxy:

        async def stay_away(_made: int) -> None:
            proxy.refusing = True

        proxy.on_cut = stay_away
        async with resuming_http_client(base_url=proxy.url, patience=patience) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            with pytest.raises(openai.APIError, match=r"lost after event \d+") as raised:
                async for _ in stream:
                    pass
        assert raised.value.code == "stream_lost"


async def test_nobody_there_is_an_error_in_bounded_time(model: str) -> None:
    """If no gateway listens, the SDK raises its connection error when the client's patience is over."""
    patience = Patience(first_wait=0.01, longest_wait=0.05, give_up_after=0.3)
    async with cutting(1) as proxy, resuming_http_client(base_url=proxy.url, patience=patience) as http:
        client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
        assert proxy.connections > 1


async def test_a_restart_without_a_durable_store_is_a_clear_error(provider: Provider, model: str) -> None:
    """A gateway that comes back without the stream's log ends the stream at once with an error that names the cause."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    async with (
        in_process(provider.url) as second,
        in_process(provider.url) as first,
        cutting(first.port) as proxy,
        resuming_http_client(base_url=proxy.url, patience=QUICK) as http,
    ):
        client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
        stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
        await anext(aiter(stream))
        proxy.to_port = second.port
        proxy.drop()
        with pytest.raises(openai.APIError, match="does not know this stream any more"):
            async for _ in stream:
                pass


async def test_upstream_errors_and_plain_requests_go_through(provider: Provider, model: str) -> None:
    """A response that is no stream is passed on unchanged: an HTTP error before the first token, the list of models."""
    await provider.script(model, {"status": 400, "error": {"message": "no", "code": "bad_thing", "type": "x"}})
    async with in_process(provider.url) as gateway, resuming_http_client(base_url=gateway.url) as http:
        client = openai.AsyncOpenAI(api_key="none", http_client=http)
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
        assert raised.value.code == "bad_thing"
        assert model in [one.id async for one in client.models.list()]


async def test_an_error_in_the_stream_is_its_end(provider: Provider, model: str) -> None:
    """The gateway's error event reaches the program once, and nothing is asked for again."""
    await provider.script(model, {"tokens": 20, "cut_after": 10})
    async with in_process(provider.url) as gateway, cutting(gateway.port) as proxy:
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http)
            stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            with pytest.raises(openai.APIError) as raised:
                async for _ in stream:
                    pass
        assert raised.value.code == "upstream_cut"
        assert proxy.connections == 1


async def test_tool_calls_survive_cuts(provider: Provider, model: str) -> None:
    """A tool call whose arguments came in pieces over several connections is whole."""
    arguments = '{"query": "' + "räuber " * 60 + '"}'
    call = {"index": 0, "id": "call_1", "name": "search", "arguments": arguments}
    await provider.script(model, {"tool_calls": [call], "rate": 200})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(5, seed=3)) as proxy:
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            async with client.chat.completions.stream(model=model, messages=QUESTION) as stream:
                message = (await stream.get_final_completion()).choices[0].message
        assert message.tool_calls is not None
        assert message.tool_calls[0].function.arguments == arguments
        assert proxy.made == 5


async def test_a_read_of_a_stream_is_resumed_too(provider: Provider, model: str) -> None:
    """GET /v1/streams/{id} survives cuts like the request that created the stream, from the cursor it was given."""
    await provider.script(model, {"pieces": WORDS})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(3, seed=4)) as proxy:
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            body = {"model": model, "messages": QUESTION, "stream": True}
            async with http.stream("POST", gateway.url + "/chat/completions", json=body) as created:
                whole = (await created.aread()).decode().split("\n\n")
            path = f"streams/{created.headers['x-stream-id']}?after=7"
            async with http.stream("GET", path, headers={"Accept": "text/event-stream"}) as again:
                assert (await again.aread()).decode().split("\n\n") == whole[7:]
        assert proxy.made == 3


async def test_langchain_survives_twenty_cuts(provider: Provider, model: str) -> None:
    """LangChain's ChatOpenAI over the resuming client streams every chunk once over 20 cuts."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(20, seed=8)) as proxy:
        async with resuming_http_client(patience=QUICK) as http:
            with resuming_sync_http_client() as sync:
                chat = ChatOpenAI(
                    model=model,
                    base_url=proxy.url,
                    api_key="none",
                    http_async_client=http,
                    http_client=sync,
                    max_retries=0,
                )
                texts = [text async for chunk in chat.astream("Tell me.") if (text := chunk.content)]
        assert texts == WORDS
        assert proxy.made == 20
