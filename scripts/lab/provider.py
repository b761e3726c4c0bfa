"""The scripted provider (`scripts/scripted_provider.py`), and what an experiment tells it and asks it."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Self

import aiohttp

from .places import provider

CLOSE = 20.0  # seconds in which a close must arrive, on a busy machine


class Provider:
    """A provider in its own process, which can go down and come back. `async with` starts it and ends it.

    It is bound to no event loop, so a fixture of any scope can hold it.
    """

    root: str  # http://127.0.0.1:PORT
    url: str  # the same with /v1: an upstream's base_url

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="provider-")
        self._process = provider(Path(self._folder.name))
        self.root = self._process.root
        self.url = self.root + "/v1"
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._folder:
            await self.down()

    async def up(self) -> None:
        """Start it; it listens on return. Raises RuntimeError."""
        await asyncio.to_thread(self._process.start)

    async def down(self) -> None:
        """Stop it: from now on its port refuses connections, and what it knew is gone."""
        if self._process.started:
            await asyncio.to_thread(self._process.stop)

    async def script(self, model: str, *calls: dict[str, Any]) -> None:
        """Answer the i-th request for the model with the i-th script, and all further ones with the last."""
        await self._call("POST", "/_script", json={"model": model, "calls": list(calls)})

    async def seen(self, model: str | None = None) -> list[dict[str, Any]]:
        """Give every request (for the model) in order, and what became of it until now."""
        seen: list[dict[str, Any]] = await self._call("GET", "/_seen", params={} if model is None else {"model": model})
        return seen

    async def at_gate(self, model: str, count: int = 1) -> None:
        """Wait until so many answers for the model stand still at a gate (`gate_at`). Raises TimeoutError."""
        async with asyncio.timeout(CLOSE):
            while True:
                if sum(seen["at_gate"] for seen in await self.seen(model)) >= count:
                    return
                await asyncio.sleep(0.01)

    async def open(self, model: str) -> None:
        """Let one answer for the model go on: one that stands at a gate, or else the next that comes to one."""
        await self._call("POST", "/_open", json={"model": model})

    async def closed(self, model: str) -> dict[str, Any]:
        """Wait until the client of the only request for the model has closed its connection; return the request.

        The client may be done before this process has had its turn to notice. Raises TimeoutError.
        """
        async with asyncio.timeout(CLOSE):
            while True:
                [seen] = await self.seen(model)
                if seen["closed_by_client_at"] is not None:
                    return seen
                await asyncio.sleep(0.01)

    async def all_over(self, model: str) -> list[dict[str, Any]]:
        """Wait until no answer for the model is under way any more; return the requests. Raises TimeoutError."""
        async with asyncio.timeout(CLOSE):
            while True:
                requests = await self.seen(model)
                if not any(seen["open"] for seen in requests):
                    return requests
                await asyncio.sleep(0.01)

    async def clear(self) -> None:
        """Forget the requests seen so far; scripts and their call counters stay."""
        await self._call("DELETE", "/_seen")

    async def now(self) -> float:
        """Give the time on the clock of all times in `seen`: this machine's `time.monotonic()`."""
        return float((await self._call("GET", "/_now"))["now"])

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        async with aiohttp.request(method, self.root + path, **options) as response:
            answer = await response.json()
            if response.status != 200:
                raise ValueError(answer["error"]["message"])
            return answer
