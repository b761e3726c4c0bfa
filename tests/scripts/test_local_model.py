"""The local model is a real upstream: it streams, continues, dies and comes back."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import aiohttp
import local_model
import pytest
import pytest_asyncio
from local_model import NAME, LocalModel
from openai import APIConnectionError, AsyncOpenAI
from processes import until_ended

SCRIPT = Path(local_model.__file__)
STORY = [{"role": "user", "content": "Tell me a short story about a river."}]


pytestmark = pytest.mark.asyncio(loop_scope="module")  # of the one model


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model():
    async with LocalModel() as model:
        yield model


@pytest_asyncio.fixture(loop_scope="module")
async def client(model):
    # It closes the connection after each stream without announcing it: a second request on it would race with that.
    headers = {"Connection": "close"}
    async with AsyncOpenAI(base_url=model.url, api_key="none", max_retries=0, default_headers=headers) as client:
        yield client


async def tell(client, *, after="", tokens, cached=False):
    """Return the pieces of an answer at temperature 0, going on after what the model is told it already said.

    Only with what it said still `cached` does it round the same way and go on as if it had never stopped.
    """
    said = [{"role": "assistant", "content": after}] if after else []
    async with await client.chat.completions.create(
        model=NAME,
        messages=STORY + said,
        stream=True,
        temperature=0,
        max_tokens=tokens,
        extra_body={"cache_prompt": cached},
    ) as stream:
        return [chunk.choices[0].delta.content async for chunk in stream if chunk.choices[0].delta.content]


async def test_stream_has_role_content_finish_and_usage(client):
    """OpenAI's SDK reads its stream: a role, content in several pieces, a finish reason, and usage when asked for."""
    async with await client.chat.completions.create(
        model=NAME, messages=STORY, stream=True, max_tokens=8, stream_options={"include_usage": True}
    ) as stream:
        first, *middle, finish, usage = [chunk async for chunk in stream]
    assert first.choices[0].delta.role == "assistant"
    assert len([chunk for chunk in middle if chunk.choices[0].delta.content]) >= 4
    assert finish.choices[0].finish_reason == "length"
    assert usage.choices == []
    assert usage.usage.completion_tokens == 8


async def test_temperature_zero_is_deterministic(client):
    """The same request gives the same answer, alone and beside others: tests can compare whole texts."""
    alone = await tell(client, tokens=60)
    assert await asyncio.gather(*[tell(client, tokens=60) for _ in range(3)]) == [alone] * 3


async def test_continues_a_trailing_assistant_message(client):
    """Given the first half of its answer it goes on with exactly the second half."""
    whole = await tell(client, tokens=60, cached=True)
    assert await tell(client, after="".join(whole[:30]), tokens=30, cached=True) == whole[30:]


async def test_leaving_stops_the_generation(client, model):
    """A client that goes away frees its slot at once, so that cancelling upstream really saves work."""

    async def is_busy():
        async with session.get(f"http://{local_model.HOST}:{model.port}/slots") as response:
            return any(slot["is_processing"] for slot in await response.json())

    async with aiohttp.ClientSession() as session:
        stream = await client.chat.completions.create(
            model=NAME, messages=STORY, stream=True, max_tokens=1500, extra_body={"ignore_eos": True}
        )
        await anext(stream)
        assert await is_busy()
        await stream.close()
        async with asyncio.timeout(2):
            while await is_busy():  # noqa: ASYNC110  # another process sets no event
                await asyncio.sleep(0.02)


async def test_comes_back_on_the_same_port_after_sigkill(client, model):
    """Killed in the middle of a stream, it cuts the stream and answers again at the same address."""
    url, pid = model.url, model.pid
    stream = await client.chat.completions.create(model=NAME, messages=STORY, stream=True, max_tokens=500)
    await anext(stream)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(APIConnectionError):
        [chunk async for chunk in stream]
    assert await model.restarted(pid) == model.pid != pid
    assert model.url == url
    assert await tell(client, tokens=3)


async def test_crash_loop_is_slowed_down(model):
    """Killed again and again as soon as it is back, it waits longer each time instead of burning the processor."""
    away = []
    for _ in range(3):
        pid, killed = model.pid, time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await model.restarted(pid)
        away.append(time.monotonic() - killed)
    assert away[-1] >= 4 * local_model.FIRST_BACKOFF
    assert len(set(away)) == 3


async def test_nothing_is_left_running():
    """The end of the context is the end of the process."""
    async with LocalModel() as model:
        pid = model.pid
    assert model.pid is None
    await until_ended(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_command_takes_the_model_with_it(number):
    """However the command ends, also by SIGKILL, no model is orphaned."""
    command = await asyncio.create_subprocess_exec(
        sys.executable, SCRIPT, "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    ready = (await command.stdout.readline()).decode()
    command.send_signal(number)
    code = await command.wait()
    await until_ended(re.search(r"\(pid (\d+)\)", ready)[1])
    assert code == (-number if number == signal.SIGKILL else 0)


async def test_taken_port_is_one_sentence():
    """A port in use is said in one line, not in a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = await asyncio.create_subprocess_exec(
            sys.executable, SCRIPT, "--port", str(port), stderr=asyncio.subprocess.PIPE
        )
        _, stderr = await command.communicate()
    assert command.returncode == 1
    assert stderr.decode() == f"error: port {port} cannot be used for the local model: Address already in use\n"
