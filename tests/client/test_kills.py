"""The resuming clients while the gateway is killed: its log is durable, and a new process takes the stream over."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
from chromium import check, console
from cutting_proxy import CuttingProxy, cutting, random_cuts
from gateway import OwnProcess, own_process
from node import node
from provider import Provider

from server.core.openai.sse import Decoder
from sluiceway import Patience, resuming_http_client, resuming_sync_http_client

WORDS = [f"w{n}é☃ " for n in range(300)]
QUESTION: Any = [{"role": "user", "content": "Tell me."}]
QUICK = Patience(first_wait=0.05, longest_wait=0.5, give_up_after=60.0)


class Restarts:
    """A gateway over one SQLite file that can be killed and started again; `proxy` leads to the present one."""

    def __init__(self, stack: AsyncExitStack, upstream: str, folder: Path) -> None:
        self.kills = 0
        self._stack = stack
        self._upstream = upstream
        self._tables: dict[str, Any] = {
            "store": {"kind": "sqlite", "path": str(folder / "streams.db"), "lease": 1.0},
            "recovery": {"strategy": "auto", "backoff": 0.05},
        }
        self._gateway: OwnProcess

    async def start(self) -> int:
        """Start a gateway and return its port."""
        self._gateway = await self._stack.enter_async_context(own_process(self._upstream, **self._tables))
        return self._gateway.port

    async def kill(self, proxy: CuttingProxy) -> None:
        """SIGKILL, and a new process."""
        self.kills += 1
        self._gateway.signal(signal.SIGKILL)
        await self._gateway.ended()
        proxy.to_port = await self.start()


@asynccontextmanager
async def restarting(provider: Provider, folder: Path, cuts: list[int]) -> AsyncIterator[tuple[Restarts, CuttingProxy]]:
    """Run a gateway behind a proxy that cuts 20 times; the gateway is killed at the 5th and at the 12th cut."""
    async with AsyncExitStack() as stack:
        gateway = Restarts(stack, provider.url, folder)
        proxy = await stack.enter_async_context(cutting(await gateway.start(), cuts))

        async def kill(made: int) -> None:
            if made in (5, 12):
                await gateway.kill(proxy)

        proxy.on_cut = kill
        yield gateway, proxy


async def test_async_sdk_survives_two_kills(provider: Provider, model: str, tmp_path: Path) -> None:
    """AsyncOpenAI gets every chunk once while its connection is cut 20 times and the gateway killed twice."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    async with restarting(provider, tmp_path, random_cuts(20, seed=11)) as (gateway, proxy):
        async with resuming_http_client(base_url=proxy.url, patience=QUICK) as http:
            client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
            stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            texts = [text async for chunk in stream if (text := chunk.choices[0].delta.content)]
        assert "".join(texts) == "".join(WORDS)
        assert (gateway.kills, proxy.made) == (2, 20)


async def test_sync_sdk_survives_two_kills(provider: Provider, model: str, tmp_path: Path) -> None:
    """OpenAI, the sync client, gets every chunk once over 20 cuts and two kills."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})

    def ask(url: str) -> str:
        with resuming_sync_http_client(base_url=url, patience=QUICK) as http:
            client = openai.OpenAI(api_key="none", http_client=http, max_retries=0)
            stream = client.chat.completions.create(model=model, messages=QUESTION, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    async with restarting(provider, tmp_path, random_cuts(20, seed=12)) as (gateway, proxy):
        assert await asyncio.to_thread(ask, proxy.url) == "".join(WORDS)
        assert (gateway.kills, proxy.made) == (2, 20)


async def test_javascript_sdk_survives_two_kills(provider: Provider, model: str, tmp_path: Path) -> None:
    """OpenAI's JavaScript SDK gets every chunk once over 20 cuts and two kills."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    async with restarting(provider, tmp_path, random_cuts(20, seed=13)) as (gateway, proxy):
        options = json.dumps({"resume": {"longestWait": 500}})
        said = await node("openai_sdk.mjs", proxy.url, model, options, seconds=100)
        assert "".join(said["texts"]) == "".join(WORDS), said
        assert (gateway.kills, proxy.made) == (2, 20)


async def test_native_client_survives_two_kills(provider: Provider, model: str, tmp_path: Path) -> None:
    """The Python client reads a native stream over 20 cuts and two kills: every id and every word once, in order."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    async with restarting(provider, tmp_path, random_cuts(20, seed=14, high=1600)) as (gateway, proxy):
        async with resuming_http_client(base_url=proxy.root, patience=QUICK) as http:
            response = await http.post("/api/stream", json={"model": model, "prompt": "Tell me."})
        assert (gateway.kills, proxy.made) == (2, 20)
    events = Decoder().feed(response.content)
    assert [int(event.id or 0) for event in events] == list(range(1, len(events) + 1))
    told = [json.loads(event.data) for event in events]
    assert "".join(one["content"] for one in told if one["type"] == "token") == "".join(WORDS)
    assert told[-1]["status"] == "complete"


async def test_stream_events_survives_two_kills(provider: Provider, model: str, tmp_path: Path) -> None:
    """`StreamEvents` dispatches every event once over 20 cuts and two kills."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    body = json.dumps({"model": model, "prompt": "Tell me."})
    async with restarting(provider, tmp_path, random_cuts(20, seed=15, high=1600)) as (gateway, proxy):
        said = await node("stream_events.mjs", proxy.root + "/api/stream", body, seconds=100)
        assert (gateway.kills, proxy.made) == (2, 20)
    assert "".join(said["texts"]) == "".join(WORDS)
    assert said["ids"] == list(range(1, said["ids"][-1] + 1))
    assert said["status"] == "complete"


async def test_console_survives_two_kills(provider: Provider, model: str, tmp_path: Path) -> None:
    """The console shows an answer once and whole over 20 cuts and two kills, and marks both recoveries."""
    # Each kill, at the 5th and the 12th cut, finds an answer that is not over.
    answer = {"pieces": WORDS, "rate": 100}
    await provider.script(model, {**answer, "stall_after": 100}, {**answer, "stall_after": 200}, answer)
    async with restarting(provider, tmp_path, random_cuts(20, seed=16, high=1600)) as (gateway, proxy):
        proxy.cuts_of = ("POST /api/stream", "GET /v1/streams/strm_")
        said = await console(proxy.root, "cuts", model)
        assert (gateway.kills, proxy.made) == (2, 20)
    check(said)
    assert said["final"] == "".join(WORDS)
    assert said["marks"] == 2


async def test_a_deploy_is_not_noticed(provider: Provider, model: str, tmp_path: Path) -> None:
    """A gateway that is stopped by SIGTERM in the middle of a stream, and replaced, costs the client no chunk."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    tables: dict[str, Any] = {
        "server": {"shutdown_grace": 0.5},
        "store": {"kind": "sqlite", "path": str(tmp_path / "streams.db"), "lease": 1.0},
        "recovery": {"strategy": "auto", "backoff": 0.05},
    }
    async with (
        AsyncExitStack() as later,
        own_process(provider.url, **tables) as first,
        cutting(first.port) as proxy,
        resuming_http_client(base_url=proxy.url, patience=QUICK) as http,
    ):
        client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
        stream = await client.chat.completions.create(model=model, messages=QUESTION, stream=True)
        texts = []
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content or "")
            if len(texts) == 50:
                first.signal(signal.SIGTERM)
                await first.ended()
                second = await later.enter_async_context(own_process(provider.url, **tables))
                proxy.to_port = second.port
    assert "".join(texts) == "".join(WORDS)
