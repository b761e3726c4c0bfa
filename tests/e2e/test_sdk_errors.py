"""OpenAI's SDKs with nothing but `base_url`: whole answers, usage, and every error as the class that programs catch."""

import asyncio
import time
from typing import Any

import openai
import pytest
from gateway import InProcess, in_process
from node import node
from provider import Provider
from timing import until_fast

MESSAGES: Any = [{"role": "user", "content": "Tell me."}]
SOME = {"message": "So sorry.", "type": "t", "code": "c"}
ERRORS = [  # script, Python's class (and JavaScript's), status, code
    ({"status": 400, "error": SOME}, "BadRequestError", 400, "c"),
    ({"status": 404, "error": SOME}, "NotFoundError", 404, "c"),
    ({"status": 409, "error": SOME}, "ConflictError", 409, "c"),
    ({"status": 422, "error": SOME}, "UnprocessableEntityError", 422, "c"),
    ({"status": 429, "error": SOME, "headers": {"Retry-After": "30"}}, "RateLimitError", 429, "c"),
    ({"status": 500, "error": SOME}, "InternalServerError", 500, "c"),
    ({"status": 401}, "InternalServerError", 502, "upstream_auth"),
    ({"reset_before_head": True}, "InternalServerError", 502, "upstream_reset"),
    ({"stall_after": 0}, "InternalServerError", 504, "upstream_ttft_timeout"),
]


@pytest.fixture
async def impatient(provider: Provider):
    """A gateway whose upstream has a second for its first token."""
    async with in_process(provider.url, upstream={"ttft_timeout": 1.0}) as running:
        yield running


@pytest.fixture
async def gateway(provider: Provider):
    async with in_process(provider.url) as running:
        yield running


def ask(url: str, model: str, **fields: Any) -> Any:
    """Make one request as a synchronous program does, with the SDK's own retries on."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=2) as client:
        return client.chat.completions.create(model=model, messages=MESSAGES, **fields)


@pytest.mark.parametrize(
    ("script", "name", "status", "code", "stream"),
    # A whole answer has no timeout of its first token.
    [(*error, stream) for error in ERRORS for stream in (True, False) if stream or "stall_after" not in error[0]],
)
async def test_python_errors(impatient, provider, model, script, name, status, code, stream) -> None:
    """An error before the opening is the SDK's class for its status, with the code; the SDK does not retry it."""
    await provider.script(model, script)
    async with openai.AsyncOpenAI(base_url=impatient.url, api_key="none", max_retries=2) as client:
        with pytest.raises(getattr(openai, name)) as raised:
            await client.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert raised.value.request_id.startswith("req_")
    assert len(await provider.seen(model)) == 1


async def test_python_sync(gateway: InProcess, provider, model) -> None:
    """The synchronous SDK: a whole answer, a stream with usage, and an error in the middle of one."""
    await provider.script(model, {}, {}, {"cut_after": 3})
    whole = await asyncio.to_thread(ask, gateway.url, model)
    assert whole.choices[0].message.content == "".join(f"tok{i} " for i in range(20))
    assert whole.usage.completion_tokens == 20

    def streamed(**fields: Any) -> list[Any]:
        with openai.OpenAI(base_url=gateway.url, api_key="none") as client:
            return list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **fields))

    chunks = await asyncio.to_thread(streamed, stream_options={"include_usage": True})
    assert chunks[-1].usage.completion_tokens == 20
    with pytest.raises(openai.APIError) as raised:
        await asyncio.to_thread(streamed)
    assert raised.value.code == "upstream_cut"


async def test_python_async_whole_and_models(gateway: InProcess, provider, model) -> None:
    """The asynchronous SDK: a whole answer and the list of models."""
    await provider.script(model, {"text": "One."})
    async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none") as client:
        whole = await client.chat.completions.create(model=model, messages=MESSAGES)
        assert whole.choices[0].finish_reason == "stop"
        assert model in [one.id async for one in client.models.list()]


async def test_python_leaves_a_stream(gateway: InProcess, provider, model) -> None:
    """If a program closes its stream in the middle, the upstream is cancelled."""

    async def leave(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(name, {"tokens": 1000, "rate": 50})
        async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none") as client:
            stream = await client.chat.completions.create(model=name, messages=MESSAGES, stream=True)
            async for chunk in stream:
                if chunk.choices[0].delta.content == "tok3 ":
                    break
            await stream.close()
            left = time.monotonic()
            await gateway.idle()
        return (await provider.closed(name))["closed_by_client_at"] - left

    await until_fast(leave, 0.1)


async def test_python_rejections(gateway: InProcess, model) -> None:
    """A refusal of the gateway itself is the SDK's class as well."""
    async with openai.AsyncOpenAI(base_url=gateway.url, api_key="none") as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(model=model, messages=[])
        assert (raised.value.param, raised.value.code) == ("messages", "invalid_value")
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model=model, input="x")


async def test_javascript(impatient: InProcess, provider, model) -> None:
    """The JavaScript SDK: a whole answer, usage, each error as its class, none of them retried, and a left stream."""
    scripts = [script for script, *_ in ERRORS]
    await provider.script(model, {}, {}, *scripts, {"cut_after": 3}, {"tokens": 1000, "rate": 50})
    said = await node("openai_errors.mjs", impatient.url, model, str(len(scripts)))
    assert said["whole"] == "".join(f"tok{i} " for i in range(20))
    assert said["usage"] == 20
    assert said["errors"] == [[name, status, code] for _, name, status, code in ERRORS]
    assert said["middle"] == ["tok0 tok1 tok2 ", "APIError", "upstream_cut"]
    assert said["left"] == "tok0 tok1 tok2 tok3 "
    await impatient.idle()
    assert len(await provider.all_over(model)) == len(scripts) + 4
