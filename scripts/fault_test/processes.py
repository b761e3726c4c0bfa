"""The processes of the experiments, on free ports: scripted providers, and a gateway as its users run it."""

import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 30.0  # seconds, on a busy machine


class Provider:
    """A scripted provider (`scripts/scripted_provider.py`) that can go down and come back on its port."""

    def __init__(self) -> None:
        # It is bound but never listens. So nobody else is given the port while the provider is down.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind(("127.0.0.1", 0))
        self._process: asyncio.subprocess.Process | None = None
        self.root = f"http://127.0.0.1:{self._reservation.getsockname()[1]}"

    async def up(self) -> None:
        """Start it; it listens on return."""
        script, port = str(ROOT / "scripts" / "scripted_provider.py"), self.root.rpartition(":")[2]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, script, "--port", port, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None  # it is a pipe
        async with asyncio.timeout(START_TIMEOUT):
            if not await self._process.stdout.readline():
                raise RuntimeError("the scripted provider did not start")

    async def down(self) -> None:
        """Stop it: from now on its port refuses connections."""
        if self._process is not None:
            self._process.terminate()
            await self._process.wait()
            self._process = None

    async def close(self) -> None:
        """Stop it for good."""
        await self.down()
        self._reservation.close()

    async def script(self, model: str, *calls: dict[str, Any]) -> None:
        """Answer the i-th request for a model with the i-th script, and all further ones with the last."""
        await self._call("POST", "/_script", json={"model": model, "calls": list(calls)})

    async def seen(self, model: str) -> list[dict[str, Any]]:
        """Return every request for a model, in order, and how its answer ended."""
        requests: list[dict[str, Any]] = await self._call("GET", "/_seen", params={"model": model})
        return requests

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        async with aiohttp.request(method, self.root + path, **options) as response:
            response.raise_for_status()
            return await response.json()


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Run a scripted provider until the end of the block."""
    running = Provider()
    try:
        await running.up()
        yield running
    finally:
        await running.close()


@asynccontextmanager
async def gateway(config: str) -> AsyncIterator[str]:
    """Run `python -m server serve` with this TOML (port 0) until the end of the block; yield its root URL."""
    with tempfile.TemporaryDirectory() as folder:
        file = _written(folder, config)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "serve", "--config", str(file), "--port", "0"),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        log = asyncio.create_task(_port(process))
        try:
            async with asyncio.timeout(START_TIMEOUT):
                port = await asyncio.shield(log)
            assert process.stderr is not None  # it is a pipe
            drain = asyncio.create_task(process.stderr.read())  # a full pipe would stop the gateway
            yield f"http://127.0.0.1:{port}"
            process.terminate()
            await drain
        finally:
            log.cancel()
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _written(folder: str, config: str) -> Path:
    file = Path(folder, "config.toml")
    file.write_text(config)
    return file


async def _port(process: asyncio.subprocess.Process) -> int:
    """Return the port that the gateway's log names. Raises RuntimeError with the output if it names none."""
    assert process.stderr is not None  # it is a pipe
    output = b""
    while line := await process.stderr.readline():
        output += line
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "listening":
            port: int = event["port"]
            return port
    raise RuntimeError(f"the gateway did not start: {output.decode()}")
