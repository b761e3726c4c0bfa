"""Records that are lost after they were shown: every client reports them, and none takes the rest for the whole.

Redis is killed in the middle of a stream and comes back with the files of a moment before, as a failover to a replica
that was behind does. The relay writes on; what was lost in between lies ahead of the client, whose connection was cut.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import internals
import openai
import pytest
import wire
from chromium import check, console
from cutting_proxy import CuttingProxy, cutting
from gateway import InProcess, in_process
from langchain_openai import ChatOpenAI
from node import node
from provider import Provider
from redis_server import RedisServer
from terminal import run

from server.core.openai.sse import Decoder
from sluiceway import Patience, resuming_http_client, resuming_sync_http_client

WORDS = [f"w{n} " for n in range(150)]
TEXT = "".join(WORDS)
QUESTION: Any = [{"role": "user", "content": "Tell me."}]
QUICK = Patience(first_wait=0.01, longest_wait=0.1)
CREATING = ("POST /v1/chat/completions", "POST /api/stream")


class ForgetfulRedis:
    """A Redis server that can be set back to an earlier state."""

    def __init__(self, folder: Path) -> None:
        self._kept = folder / "kept"
        self._files = folder / "data"
        self._files.mkdir()
        self.server = RedisServer(self._files)
        self.server.start()

    def remember(self) -> None:
        """Keep the files of now: a prefix of what the append-only file will be."""
        shutil.copytree(self._files, self._kept)

    def forget(self) -> None:
        """Go back to that moment, as after a power loss."""
        self.server.kill()
        shutil.rmtree(self._files)
        self._kept.rename(self._files)
        self.server.start()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[ForgetfulRedis]:
    """A server of the test's own."""
    running = ForgetfulRedis(tmp_path)
    yield running
    running.server.kill()


@asynccontextmanager
async def losing(provider: Provider, model: str, redis: ForgetfulRedis) -> AsyncIterator[CuttingProxy]:
    """Run a gateway behind a proxy that cuts a stream's first connection, and lose 50 records meanwhile."""
    await provider.script(model, {"pieces": WORDS, "rate": 100, "gate_at": [60, 110, 140]})
    tables = {"store": {"kind": "redis", "url": redis.server.url}}
    async with in_process(provider.url, **tables) as gateway, cutting(gateway.port, [3000]) as proxy:
        proxy.cuts_of = CREATING

        async def lose(_made: int) -> None:
            proxy.drop()  # a browser has more connections, and would be back before anything is lost
            await _grown(gateway, 60)
            await asyncio.to_thread(redis.remember)
            await provider.open(model)
            await _grown(gateway, 110)
            await asyncio.to_thread(redis.forget)
            await provider.open(model)
            await _grown(gateway, 140)  # the relay has found out, and written on
            await provider.open(model)

        proxy.on_cut = lose
        yield proxy


async def _grown(gateway: InProcess, records: int) -> None:
    """Wait until the one live stream has so many records."""

    async def there() -> bool:
        (live,) = internals.live_streams(gateway.app)
        return live.stream.log.tail >= records

    await wire.until(there, 60.0)


def check_gap(message: str, code: str | None, said: str) -> None:
    """The error names what is lost, and the text before it is the text's beginning."""
    assert code == "gap"
    assert "of this stream were lost; it goes on from" in message
    assert said
    assert TEXT.startswith(said)
    assert said != TEXT


async def test_async_sdk(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """AsyncOpenAI raises an APIError of code `gap` that names the lost records."""
    said = ""
    async with (
        losing(provider, model, redis) as proxy,
        resuming_http_client(base_url=proxy.url, patience=QUICK) as http,
    ):
        client = openai.AsyncOpenAI(api_key="none", http_client=http)
        stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
        try:
            async for chunk in stream:
                said += chunk.choices[0].delta.content or ""
        except openai.APIError as error:
            raised = error
    check_gap(raised.message, raised.code, said)


async def test_sync_sdk(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """OpenAI, the sync client, raises the same error."""
    said: list[str] = []

    def ask(url: str) -> None:
        with resuming_sync_http_client(base_url=url, patience=QUICK) as http:
            client = openai.OpenAI(api_key="none", http_client=http)
            stream = client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            said.extend(chunk.choices[0].delta.content or "" for chunk in stream)

    async with losing(provider, model, redis) as proxy:
        with pytest.raises(openai.APIError) as raised:
            await asyncio.to_thread(ask, proxy.url)
    check_gap(raised.value.message, raised.value.code, "".join(said))


async def test_langchain(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """LangChain's ChatOpenAI passes the SDK's error on."""
    said = ""
    async with losing(provider, model, redis) as proxy, resuming_http_client(patience=QUICK) as http:
        chat = ChatOpenAI(model=model, base_url=proxy.url, api_key="none", http_async_client=http, max_retries=0)
        try:
            async for chunk in chat.astream("Tell me."):
                said += str(chunk.content)
        except openai.APIError as error:
            raised = error
    check_gap(raised.message, raised.code, said)


async def test_javascript_sdk(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """OpenAI's JavaScript SDK throws the same error over `resumingFetch`."""
    async with losing(provider, model, redis) as proxy:
        said = await node("openai_sdk.mjs", proxy.url, model)
    check_gap(said["error"]["message"], said["error"]["code"], "".join(said["texts"]))


async def test_vercel(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """Vercel's AI SDK gives it as an error part of its stream."""
    async with losing(provider, model, redis) as proxy:
        said = await node("vercel_ai.mjs", proxy.url, model)
    check_gap(said["errors"][0], "gap", "".join(said["texts"]))


async def test_tail(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """`sluiceway tail` prints what there is up to the gap, says what is lost, and fails."""
    body = {"model": model, "messages": QUESTION, "stream": True}
    async with losing(provider, model, redis) as proxy:
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.request(
                "POST", proxy.url + "/chat/completions", json=body, headers={"X-On-Disconnect": "continue"}
            ) as response:
                await response.read()
        status, out, err = await run("tail", response.headers["X-Stream-Id"], "--url", proxy.root)
    assert status == 1
    check_gap(err, "gap" if "(gap)" in err else None, out.removesuffix("\n"))


async def test_native(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """In the native form the `gap` is an event between those before and those after it, and the stream goes on."""
    async with (
        losing(provider, model, redis) as proxy,
        resuming_http_client(base_url=proxy.root, patience=QUICK) as http,
    ):
        response = await http.post("/api/stream", json={"model": model, "prompt": "Tell me."})
        events = Decoder().feed(response.content)
    at = [event.type for event in events].index(b"gap")
    gap = json.loads(events[at].data)
    assert events[at].id is None
    assert gap["requested"] == int(events[at - 1].id or 0) + 1
    assert gap["earliest"] == int(events[at + 1].id or 0)
    assert gap["earliest"] - gap["requested"] >= 30
    assert gap["latest"] >= gap["earliest"]
    words = [json.loads(event.data)["content"] for event in events if event.type == b"token"]
    lost = gap["earliest"] - gap["requested"]  # the start is one event, so a token's id is one more than its place
    assert words == WORDS[: gap["requested"] - 2] + WORDS[gap["requested"] - 2 + lost :]
    assert [event.type for event in events[-1:]] == [b"done"]


async def test_stream_events(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """`StreamEvents` dispatches the `gap` and what follows it."""
    async with losing(provider, model, redis) as proxy:
        said = await node(
            "stream_events.mjs", proxy.root + "/api/stream", json.dumps({"model": model, "prompt": "Tell me."})
        )
    assert said["names"] == ["start", "token", "gap", "token", "done"]
    (gap,) = said["gaps"]
    assert gap["earliest"] - gap["requested"] == len(WORDS) - len(said["texts"])


async def test_console(provider: Provider, model: str, redis: ForgetfulRedis) -> None:
    """The console marks where events are missing, and shows what comes after."""
    async with losing(provider, model, redis) as proxy:
        said = await console(proxy.root, "gap", model)
    check(said)
    before, after = said["around"]
    assert TEXT.startswith(before)
    assert TEXT.endswith(after)
    assert len(before) + len(after) < len(TEXT)
    assert said["mark"].startswith("Lost: events ")
