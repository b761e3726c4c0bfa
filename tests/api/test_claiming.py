"""Readers that come while the log of their stream is being claimed."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
from gateway import in_process, own_process
from provider import Provider


async def test_a_reader_that_comes_during_the_claim_is_served(provider: Provider, model: str, tmp_path: Path) -> None:
    """A reader that asks for an orphaned stream while its adoption is under way reads it to its end."""
    words = [f"w{n} " for n in range(60)]
    await provider.script(model, {"pieces": words, "rate": 30}, {"pieces": words, "rate": 200})
    tables: dict[str, Any] = {
        "store": {"kind": "sqlite", "path": str(tmp_path / "streams.db"), "lease": 1.0},
        "recovery": {"strategy": "auto", "backoff": 0.05},
    }
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    kept = {"X-On-Disconnect": "continue"}
    async with (
        own_process(provider.url, **tables) as first,
        aiohttp.request("POST", first.url + "/chat/completions", json=body, headers=kept) as response,
    ):
        stream_id = response.headers["X-Stream-Id"]
        await response.content.readuntil(b"id: 5\n")
        first.signal(signal.SIGKILL)
        await first.ended()
    async with in_process(provider.url, **tables) as second:
        claiming, go_on = asyncio.Event(), asyncio.Event()
        claim = second.app.store.claim

        async def slow_claim(*arguments: Any, **options: Any) -> bool:
            claiming.set()
            await go_on.wait()
            return await claim(*arguments, **options)

        second.app.store.claim = slow_claim  # type: ignore[method-assign]
        await asyncio.wait_for(claiming.wait(), 10)  # by the adoption: nobody reads yet
        async with aiohttp.request("GET", f"{second.url}/streams/{stream_id}") as response:
            assert response.status == 200
            go_on.set()
            text = await asyncio.wait_for(response.text(), 20)
        await second.idle()
    assert text.endswith("data: [DONE]\n\n")
    assert all(f'"{word}"' in text for word in words)
