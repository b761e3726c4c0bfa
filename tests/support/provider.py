"""The scripted provider as a fixture: a real process that does on the wire what its scripts say."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import aiohttp

CLOSE = 20.0  # seconds in which a close must arrive, on a busy machine
SCRIPT = Path(__file__).parents[2] / "scripts" / "scripted_provider.py"


class Provider:
    """A running provider; `async with Provider() as provider` starts and stops the process.

    It is bound to no event loop, so a fixture of any scope can hold it.
    """

    root: str  # http://127.0.0.1:PORT
    url: str  # the same with /v1: an upstream's base_url

    async def __aenter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: ASYNC220  # a fork takes a millisecond, and no loop owns the process
            [sys.executable, str(SCRIPT), "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line.startswith("listening on "):
            self._stop()
            raise RuntimeError(f"the scripted provider did not start; its exit code is {self._process.returncode}")
        self.root = "http://" + line.split()[-1]
        self.url = self.root + "/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._stop)

    async def script(self, model: str, *calls: dict[str, Any]) -> None:
        """Answer the i-th request for the model with the i-th script, and all further ones with the last."""
        await self._call("POST", "/_script", json={"model": model, "calls": list(calls)})

    async def seen(self, model: str | None = None) -> list[dict[str, Any]]:
        """Every request (for the model) in order, and what became of it until now."""
        seen: list[dict[str, Any]] = await self._call("GET", "/_seen", params={} if model is None else {"model": model})
        return seen

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

    async def clear(self) -> None:
        """Forget the requests seen so far; scripts and their call counters stay."""
        await self._call("DELETE", "/_seen")

    async def now(self) -> float:
        """The clock of all times in `seen`: this machine's `time.monotonic()`."""
        return float((await self._call("GET", "/_now"))["now"])

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        async with aiohttp.request(method, self.root + path, **options) as response:
            answer = await response.json()
            if response.status != 200:
                raise ValueError(answer["error"]["message"])
            return answer

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
