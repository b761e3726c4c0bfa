"""The real local model behind the gateway: the same text as without it, streamed, stopped, and whole."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from gateway import in_process
from local_model import NAME, LocalModel

STORY: Any = [{"role": "user", "content": "Tell me a short story about a river."}]
SAMPLING: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "seed": 1, "extra_body": {"cache_prompt": False}}


pytestmark = pytest.mark.asyncio(loop_scope="module")  # of the one model


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[LocalModel]:
    async with LocalModel() as running:
        yield running


async def told(url: str, **fields: Any) -> tuple[str, list[Any]]:
    """Stream one answer by OpenAI's SDK; give its text and its chunks."""
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model=NAME, messages=STORY, stream=True, **SAMPLING, **fields)
        chunks = [chunk async for chunk in stream]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    return "".join(delta.content or "" for delta in deltas), chunks


async def test_the_same_text(served: LocalModel) -> None:
    """At temperature 0 the gateway's answer is the model's own, in as many pieces, and whole as well as streamed."""
    direct, pieces = await told(served.url)
    async with in_process(served.url) as gateway:
        text, chunks = await told(gateway.url)
        assert text == direct
        assert len(text) > 20
        assert len(chunks) == len(pieces)
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(model=NAME, messages=STORY, **SAMPLING)
        assert whole.choices[0].message.content == direct
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 24


async def test_usage(served: LocalModel) -> None:
    """The model's own count comes before `[DONE]` for a client that asks."""
    async with in_process(served.url) as gateway:
        _, chunks = await told(gateway.url, stream_options={"include_usage": True})
        assert chunks[-1].usage.completion_tokens == 24
        assert not chunks[-1].choices


async def test_side_by_side(served: LocalModel) -> None:
    """Four answers at once are four whole answers."""
    async with in_process(served.url) as gateway:
        answers = await asyncio.gather(*(told(gateway.url) for _ in range(4)))
        assert all(len(text) > 20 and chunks[-1].choices[0].finish_reason == "length" for text, chunks in answers)


async def test_stopped(served: LocalModel) -> None:
    """When a client leaves, the model stops and is free for the next one at once."""
    async with in_process(served.url) as gateway:
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=NAME, messages=STORY, stream=True, temperature=0, max_tokens=1500
            )
            async for _ in stream:
                break
            await stream.close()
        await gateway.idle()
        text, _ = await told(gateway.url)
        assert len(text) > 20
