"""MCP servers that go away, come back, change or misbehave, each with a conversation through a running gateway."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import native
import pytest
import structlog
import wire
from gateway import InProcess, in_process, own_process
from mcp_fake import McpFake

from server.tools import mcp as mcp_module
from server.tools import mcp_stdio, toolbox

SERVER = str(Path(__file__).parents[1] / "support" / "mcp_server.py")
LEVEL = {"name": "level", "arguments": {}}
# What servers say of a session that they do not know, as status and body.
REFUSALS = {
    "the specification": (404, None),
    "Go": (404, "session not found"),
    "Python": (
        404,
        {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "Session not found"}},
    ),
    "TypeScript": (404, {"jsonrpc": "2.0", "error": {"code": -32001, "message": "Session not found"}, "id": None}),
    "TypeScript, older": (
        400,
        {
            "jsonrpc": "2.0",
            "error": {"code": -32000, "message": "Bad Request: No valid session ID provided"},
            "id": None,
        },
    ),
    "TypeScript, not initialized": (
        400,
        {"jsonrpc": "2.0", "error": {"code": -32000, "message": "Bad Request: Server not initialized"}, "id": None},
    ),
    "a proxy": (410, "gone"),
    "a text": (400, "missing session"),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon."""
    monkeypatch.setattr(mcp_module, "RETRY", 0.02)
    monkeypatch.setattr(mcp_module, "SETTLE", 0.01)
    monkeypatch.setattr(mcp_stdio, "EXIT_GRACE", 0.2)


def entry(url: str, **more: Any) -> list[dict[str, Any]]:
    """Give the `[[mcp]]` of a server at a URL."""
    return [{"name": "weir", "url": url, **more}]


def script(folder: Path, code: str, **more: Any) -> list[dict[str, Any]]:
    """Give the `[[mcp]]` of a command that runs this code."""
    file = folder / "server.py"
    file.write_text(code, encoding="utf-8")
    return [{"name": "weir", "command": [sys.executable, str(file)], **more}]


async def offered(gateway: InProcess, *names: str) -> None:
    """Wait until exactly these tools are offered."""

    async def are() -> bool:
        return gateway.app.toolbox.tools().keys() == set(names)

    await wire.until(are, 60.0)


async def call(gateway: InProcess, provider: Any, model: str, count: int = 1) -> list[dict[str, Any]]:
    """Let the model call `level` so many times in one turn; return the results."""
    await provider.script(model, {"tool_calls": [{**LEVEL, "id": f"c{i}"} for i in range(count)]}, {"text": "I see."})
    found = await native.events(gateway.root, model)
    assert native.text(found) == "I see."
    return native.of(found, "tool_result")


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_server_that_was_restarted(provider, model, refusal: tuple[int, Any]) -> None:
    """It does not know the session any more: another one is begun at once, and the call is made there, once."""
    fake = McpFake()
    fake.refusal = refusal
    async with fake.running() as url, in_process(provider.url, mcp=entry(url)) as gateway:
        await offered(gateway, "level")
        fake.restart()
        results = await call(gateway, provider, model, 3)
        assert sorted(result["content"] for result in results) == ["call 1", "call 2", "call 3"]
        assert (fake.initialized, fake.calls) == (2, 3)
        await offered(gateway, "level")


async def test_a_call_that_the_server_refuses_always(provider, model) -> None:
    """A server that refuses every session gives an error, and is not asked without end."""
    fake = McpFake()
    async with fake.running() as url, in_process(provider.url, mcp=entry(url)) as gateway:
        await offered(gateway, "level")
        fake.forgetful = True
        (result,) = await call(gateway, provider, model)
        assert "error" in result
        assert (fake.initialized, fake.calls) == (2, 0)


async def test_a_server_that_is_silent(provider, model) -> None:
    """It does not hold the start up. It is logged, and tried again until it answers; then its tools are offered."""
    fake = McpFake()
    fake.answering.clear()
    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs() as lines:
        patch.setattr(mcp_module, "URL_HANDSHAKE", 0.2)
        patch.setattr(toolbox, "START", 0.1)
        async with fake.running() as url:
            started = time.monotonic()
            async with in_process(provider.url, mcp=entry(url)) as gateway:
                assert time.monotonic() - started < 10  # the limit of the first try was never waited for
                assert gateway.app.toolbox.tools() == {}

                async def said() -> bool:
                    return any(line["event"] == "mcp server away" for line in lines)

                await wire.until(said, 30.0)
                fake.answering.set()
                await offered(gateway, "level")
                assert (await call(gateway, provider, model))[0]["content"] == "call 1"
    events = [line["event"] for line in lines if line["event"].startswith("mcp")]
    assert events[0] == "mcp server not there yet"
    assert next(line for line in lines if line["event"] == "mcp server away")["error"].startswith(
        "TimeoutError: no answer"
    )


async def test_a_server_that_cannot_be_reached_for_a_while(provider, model) -> None:
    """A call meanwhile is an error, and the tools are not offered. When the server is back, they are."""
    fake = McpFake()
    async with contextlib.AsyncExitStack() as stack:
        async with fake.running() as url:
            gateway = await stack.enter_async_context(in_process(provider.url, mcp=entry(url)))
            await offered(gateway, "level")
        (result,) = await call(gateway, provider, model)
        assert "error" in result
        await offered(gateway)
        fake.restart()
        await stack.enter_async_context(fake.running())
        await offered(gateway, "level")
        assert "content" in (await call(gateway, provider, f"{model}-2"))[0]


async def test_another_protocol_version(provider) -> None:
    """A server that speaks no version of ours is logged, and tried again until it does."""
    fake = McpFake()
    fake.version = "1999-01-01"
    with structlog.testing.capture_logs() as lines:
        async with fake.running() as url, in_process(provider.url, mcp=entry(url)) as gateway:

            async def said() -> bool:
                return any("1999-01-01" in line.get("error", "") for line in lines)

            await wire.until(said, 30.0)
            fake.version = None
            await offered(gateway, "level")


async def test_a_list_of_tools_that_changes(provider) -> None:
    """After the server's notice the new tools are offered, and the old ones are not."""
    fake = McpFake()
    async with fake.running() as url, in_process(provider.url, mcp=entry(url)) as gateway:
        await offered(gateway, "level")
        fake.tools = ["flow", "gate.count"]

        async def noticed() -> bool:
            await fake.notify("notifications/tools/list_changed")
            return gateway.app.toolbox.tools().keys() == {"flow", "gate_count"}

        await wire.until(noticed, 30.0)


async def test_headers_with_a_key(provider, model, monkeypatch) -> None:
    """The headers of the configuration and of the environment go to the server, and to no proxy of the environment."""
    fake, proxy_asked = McpFake(), asyncio.Event()

    async def proxy(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy_asked.set()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("WEIR_TOKEN", "Bearer very-secret")
    more = {"headers": {"X-Site": "north"}, "header_env": {"Authorization": "WEIR_TOKEN"}}
    async with server, fake.running() as url, in_process(provider.url, mcp=entry(url, **more)) as gateway:
        await offered(gateway, "level")
        await call(gateway, provider, model)
    assert {headers.get("Authorization") for headers in fake.headers} == {"Bearer very-secret"}
    assert {headers.get("X-Site") for headers in fake.headers} == {"north"}
    assert not proxy_asked.is_set()


async def test_names_that_collide(provider) -> None:
    """A tool that is hidden by another one of its name is named in the log, once, with its server."""
    one, two = McpFake(), McpFake()
    one.tools, two.tools = ["now", "a.b", "a_b"], ["a_b", "flow"]
    with structlog.testing.capture_logs() as lines:
        async with one.running() as first, two.running() as second:
            servers = [{"name": "one", "url": first}, {"name": "two", "url": second}]
            tools = {"functions": {"now": "server.tools.examples:now"}}
            async with in_process(provider.url, mcp=servers, tools=tools) as gateway:
                await offered(gateway, "now", "a_b", "flow")
    hidden = [(line["tool"], line["of"]) for line in lines if line["event"].startswith("tool hidden")]
    assert sorted(hidden) == [("a_b", "mcp server one"), ("a_b", "mcp server two"), ("now", "mcp server one")]


PIPE = "import sys; write = sys.stdout.write\n"
GARBAGE = {
    "a line that never ends": "while True: write('x' * 65536)",
    "lines that are no message": "while True: write('y\\n')",
    "an empty line for ever": "while True: write('\\n')",
}


@pytest.mark.parametrize("code", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_process_that_writes_without_end(provider, tmp_path: Path, code: str) -> None:
    """It is bounded: the event loop stays free, and the process is ended, logged and tried again."""
    with structlog.testing.capture_logs() as lines:
        async with in_process(provider.url, mcp=script(tmp_path, PIPE + code)) as gateway:

            async def said() -> bool:
                return any(line["event"] == "mcp server wrote garbage" for line in lines)

            assert (await wire.call(gateway.root, "GET", "/healthz")).status == 200
            await wire.until(said, 60.0)

            async def again() -> bool:
                return sum(line["event"] == "mcp server away" for line in lines) >= 2

            await wire.until(again, 60.0)


def running(script: str) -> list[int]:
    """Give the children of this process that run a script."""
    pids = Path("/proc/self/task", str(os.getpid()), "children").read_text(encoding="utf-8").split()
    return [int(pid) for pid in pids if script.encode() in Path("/proc", pid, "cmdline").read_bytes()]


async def test_a_process_that_dies_while_nobody_calls(provider, model) -> None:
    """Its tools are not offered any more, at once, and it is started again."""
    gateway_of = in_process(provider.url, mcp=[{"name": "weir", "command": [sys.executable, SERVER]}])
    with structlog.testing.capture_logs() as lines:
        async with gateway_of as gateway:

            async def connected() -> int:
                return sum(line["event"] == "mcp server connected" for line in lines)

            await wire.until(connected, 60.0)
            for pid in running(SERVER):
                os.kill(pid, signal.SIGKILL)

            async def again() -> bool:
                return await connected() >= 2

            await wire.until(again, 60.0)
            assert "level" in gateway.app.toolbox.tools()


async def test_what_a_process_says(provider, tmp_path: Path) -> None:
    """Its standard error becomes log lines: bounded in length and number, without control characters and secrets."""
    code = (
        "import os, sys, time\n"
        "sys.stderr.buffer.write(b'\\x1b[2Jstarted with ' + os.environ['WEIR_KEY'].encode() + b'\\xff\\r\\n')\n"
        "sys.stderr.buffer.write(b'x' * 100_000 + b'\\n' + b'again\\n' * 100)\n"
        "sys.stderr.flush(); time.sleep(1.2); sys.stderr.write(os.environ['SITE'] + ' last words'); sys.stderr.flush()"
    )
    entries = script(tmp_path, code, env={"SITE": "north"}, env_from=["WEIR_KEY"])
    async with own_process(provider.url, environ={"WEIR_KEY": "sk-very-secret"}, mcp=entries) as gateway:

        async def last() -> bool:
            return any("last words" in line["text"] for line in gateway.logged("mcp server said"))

        await wire.until(last, 60.0)
    said = [line["text"] for line in gateway.logged("mcp server said")]
    assert said[0] == "[2Jstarted with …\ufffd"
    assert any(text == "north last words" for text in said)
    assert max(map(len, said)) <= mcp_stdio.MAX_SAID
    assert gateway.logged("mcp server said more")
    assert all(isinstance(line, dict) for line in gateway.lines)
