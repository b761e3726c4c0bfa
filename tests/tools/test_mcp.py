"""Real MCP servers, over stdio and streamable HTTP, whose tools a conversation uses."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import native
import pytest
import wire
from gateway import InProcess, OwnProcess, in_process, own_process

from server.tools import bounded

SERVER = str(Path(__file__).parents[1] / "support" / "mcp_server.py")
STDIO = {"name": "weir", "command": [sys.executable, SERVER]}


@asynccontextmanager
async def entry(kind: str) -> AsyncIterator[dict[str, Any]]:
    """Give the `[[mcp]]` entry of a server that the gateway starts, or of one that runs and is reached by HTTP."""
    if kind == "stdio":
        yield STDIO
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable, SERVER, "--http", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield {"name": "weir", "url": f"http://127.0.0.1:{port}/mcp"}
    finally:
        process.kill()
        await process.wait()


class OverWhenTheOtherIsDone:
    """In place of `asyncio.wait`: the time of one tool is over when another has its result, on any machine.

    `given` are the limits in seconds that the waits were given.
    """

    def __init__(self, hanging: str, other: str) -> None:
        self._hanging, self._other = f"tool {hanging}", f"tool {other}"
        self._is_done = asyncio.Event()
        self.given: list[float | None] = []

    async def wait(self, tasks: set[asyncio.Task[Any]], *, timeout: float | None = None) -> Any:
        """Wait for a call."""
        self.given.append(timeout)
        [task] = tasks
        if task.get_name() == self._hanging:
            await self._is_done.wait()
            timeout = 0.1
        done = await asyncio.wait(tasks, timeout=timeout)
        if task.get_name() == self._other:
            self._is_done.set()
        return done


async def connected(gateway: InProcess | OwnProcess, servers: int = 1) -> None:
    """Wait until so many servers are connected: the start of the gateway does not wait for them."""

    async def are() -> bool:
        if isinstance(gateway, OwnProcess):
            return len(gateway.logged("mcp server connected")) >= servers
        return "level" in gateway.app.toolbox.tools()

    await wire.until(are, 60.0)


async def converse(
    gateway: InProcess | OwnProcess, provider: Any, model: str, *calls: dict[str, Any]
) -> list[dict[str, Any]]:
    """Let the model make calls in one turn, when the server is there; return their results in order."""
    await connected(gateway)
    await provider.script(model, {"tool_calls": list(calls)}, {"text": "I see."})
    found = await native.events(gateway.root, model)
    assert native.text(found) == "I see."
    results = {event["id"]: event for event in native.of(found, "tool_result")}
    return [results[event["id"]] for event in native.of(found, "tool_call")]


LEVEL = {"name": "level", "arguments": {"gate": "north", "metres": 2}}


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_a_conversation(provider, model, kind: str) -> None:
    """Its tools are offered with their schemas and run. The model gets results and errors as from functions."""
    calls = [
        LEVEL,
        {"name": "gate_count", "arguments": {}},
        {"name": "flood", "arguments": {}},
        {"name": "level", "arguments": {"metres": "deep"}},
    ]
    functions = {"now": "server.tools.examples:now"}
    async with (
        entry(kind) as server,
        in_process(provider.url, mcp=[server], tools={"functions": functions}) as gateway,
    ):
        level, count, flood, misfit = await converse(gateway, provider, model, *calls)
    assert level["content"] == "north: 3.5 m"
    assert '"gates": 3' in count["content"]
    assert "the gates are closed" in flood["error"]
    assert "gate" in misfit["error"]
    offered = {tool["function"]["name"]: tool["function"] for tool in (await provider.seen(model))[0]["body"]["tools"]}
    assert offered.keys() == {"now", "level", "gate_count", "flood", "stall", "huge", "die", "secret"}
    assert offered["level"]["description"] == "Tell the water level at a gate."
    assert offered["level"]["parameters"]["required"] == ["gate"]


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_bounds(provider, model, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs ends after the timeout, and a huge result beside it is cut. The connection stays usable."""
    limits = OverWhenTheOtherIsDone("stall", "huge")
    monkeypatch.setattr(bounded, "asyncio", SimpleNamespace(**{**vars(asyncio), "wait": limits.wait}))
    calls = [{"name": name, "arguments": {}} for name in ("stall", "huge")]
    tools = {"timeout": 50.0, "max_result_bytes": 1000}
    async with entry(kind) as server, in_process(provider.url, mcp=[server], tools=tools) as gateway:
        stalled, huge = await converse(gateway, provider, model, *calls)
        (level,) = await converse(gateway, provider, model, LEVEL)
        assert limits.given == [50.0] * 3
    assert stalled["error"] == "The tool gave no result within 50 seconds."
    assert len(huge["content"].encode()) <= 1000
    assert huge["content"].endswith("[cut: 1000000 bytes in all]")
    assert level["content"] == "north: 3.5 m"


async def test_a_server_that_dies(provider, model) -> None:
    """The result of a call in which the server dies is an error. The server is started again."""
    async with in_process(provider.url, mcp=[STDIO]) as gateway:
        (died,) = await converse(gateway, provider, model, {"name": "die", "arguments": {}})
        assert "error" in died

        (level,) = await converse(gateway, provider, model, LEVEL)
    assert level["content"] == "north: 3.5 m"


async def test_a_server_that_is_away(provider, model) -> None:
    """A server that is away keeps neither the gateway from starting nor other tools from running."""
    away = [{"name": "none", "command": ["/no/such/program"]}, {"name": "gone", "url": "http://127.0.0.1:9/mcp"}]
    async with in_process(provider.url, mcp=[*away, STDIO]) as gateway:
        (level,) = await converse(gateway, provider, model, LEVEL)
    assert level["content"] == "north: 3.5 m"


async def test_nothing_secret_is_inherited(provider, model) -> None:
    """A server that the gateway starts gets no key from the gateway's environment, and ends with the gateway."""
    environ = {"LOCAL_API_KEY": "sk-very-secret"}
    async with own_process(provider.url, environ=environ, mcp=[STDIO]) as gateway:
        (secret,) = await converse(gateway, provider, model, {"name": "secret", "arguments": {}})
        children = children_of(gateway.pid)
        assert children
    assert secret["content"] == "nothing"
    assert not [pid for pid in children if is_alive(pid)]


def children_of(pid: int) -> list[str]:
    """Return the processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()


def is_alive(pid: str) -> bool:
    """Whether a process exists."""
    return Path("/proc", pid).exists()
