"""The programs and commands of the pages work as they stand there."""

import asyncio
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import wire
from gateway import in_process, own_process
from ports import free_port
from provider import Provider
from snippets import BIN, blocks, run

from server.config.plugins import TOOLS

SEA = "The sea is wide."
MODELS = ("small", "SmolLM2-135M-Instruct")  # that the pages ask for


def models(model: str) -> dict[str, Any]:
    """Give the configuration of the pages' models."""
    return {"models": [{"name": name, "targets": [f"local/{model}"]} for name in MODELS]}


def cases() -> Iterator[Any]:
    """Give every program of the pages."""
    for page in ("README.md", "docs/clients.md"):
        for language in ("python", "js"):
            for number, code in enumerate(blocks(page, language)):
                if ".create(" not in code and page == "README.md":
                    continue  # a fragment of the program before it
                yield pytest.param(language, code, id=f"{page}-{language}-{number}")


FIRST_CURL = next(code for code in blocks("README.md", "sh") if code.startswith("curl"))
[COMMANDS] = blocks("docs/clients.md", "sh")
# What is run here, and need not be run by test_documentation.py as well: what it prints is compared whole.
RUN_HERE = {FIRST_CURL, COMMANDS, *(case.values[1] for case in cases())}


@pytest.mark.parametrize(("language", "code"), [*cases()])
async def test_programs(provider: Provider, model: str, tmp_path: Path, language: str, code: str) -> None:
    """Every program prints the answer."""
    await provider.script(model, {"text": SEA})
    async with in_process(provider.url, **models(model)) as gateway:
        out = await run(language, code, gateway.root, tmp_path)
    if "/api/stream" in code and language == "python":
        assert out.count("event: token") == len(SEA.split())
        assert "event: done" in out
    else:
        assert out.strip() == SEA


async def test_commands(provider: Provider, model: str, tmp_path: Path) -> None:
    """The commands print the answer, the table and the stream."""
    await provider.script(model, {"text": SEA})
    body = {"model": "small", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    async with in_process(provider.url, **models(model)) as gateway:
        async with aiohttp.request("POST", gateway.url + "/chat/completions", json=body) as response:
            await response.read()
        out = await run("sh", COMMANDS, gateway.root, tmp_path, "Hello\n", ID=response.headers["X-Stream-Id"])
    answer, head, none, tailed = out.splitlines()
    assert (answer, none, tailed) == (SEA, "no live streams", SEA)
    assert head.startswith("STREAM")


async def test_first_curl(provider: Provider, model: str, tmp_path: Path) -> None:
    """README's first request streams an answer."""
    await provider.script(model, {"text": SEA})
    async with in_process(provider.url, **models(model)) as gateway:
        out = await run("sh", FIRST_CURL, gateway.root, tmp_path)
    assert "".join(wire.texts(wire.events_of(out.encode()))) == SEA
    assert out.endswith("data: [DONE]\n\n")


async def test_a_tool_of_ones_own(provider: Provider, model: str, tmp_path: Path) -> None:
    """docs/tools.md: the module, its configuration and the request give the events that the page shows."""
    configured = tomllib.loads(blocks("docs/tools.md", "toml")[0])
    (tmp_path / "weir.py").write_text(blocks("docs/tools.md", "python")[0])
    call = {"name": "level", "arguments": {"gate": "north"}}
    await provider.script(model, {"tool_calls": [call]}, {"text": "3.5 m."})
    async with own_process(
        provider.url, environ={"PYTHONPATH": str(tmp_path)}, **configured, **models(model)
    ) as gateway:
        out = await run("sh", blocks("docs/tools.md", "sh")[0], gateway.root, tmp_path)
    (shown,) = blocks("docs/tools.md", "")
    told = re.sub(r'"duration_ms":[\d.]+', '"duration_ms":…', out)
    assert shown.strip() in told
    offered = {tool["function"]["name"]: tool["function"] for tool in (await provider.seen(model))[0]["body"]["tools"]}
    assert offered.keys() == {"level", "gates"}
    assert offered["level"]["parameters"]["properties"]["gate"]["description"] == "north or south"
    assert offered["level"]["parameters"]["required"] == ["gate"]


def test_an_entry_point() -> None:
    """docs/tools.md names the group that the gateway looks for, and a function of the page."""
    points = tomllib.loads(blocks("docs/tools.md", "toml")[1])["project"]["entry-points"]
    assert points == {TOOLS: {"level": "weir:level"}}


async def test_mcp_servers(provider: Provider, model: str, tmp_path: Path) -> None:
    """docs/tools.md: the server of the page works by both entries, over stdio and streamable HTTP."""
    configured = tomllib.loads(blocks("docs/tools.md", "toml")[2])["mcp"]
    program = blocks("docs/tools.md", "python")[1]
    script = tmp_path / "weir_server.py"
    script.write_text(program)
    port = free_port()
    over_http = tmp_path / "over_http.py"
    over_http.write_text(
        program.replace('"weir")', '"elsewhere")')
        .replace("flow(", "depth(")
        .replace("server.run()", f'server.run("streamable-http", port={port})')
    )
    stdio, http = configured
    stdio["command"] = [f"{BIN}/{stdio['command'][0]}", str(script)]
    http["url"] = http["url"].replace("9000", str(port))
    calls = [{"name": name, "arguments": {"gate": "north"}} for name in ("flow", "depth")]
    await provider.script(model, {"tool_calls": calls}, {"text": "I see."})
    process = await asyncio.create_subprocess_exec(sys.executable, str(over_http), stderr=asyncio.subprocess.DEVNULL)
    try:
        async with in_process(provider.url, mcp=configured, **models(model)) as gateway:

            async def offered() -> bool:
                return {"flow", "depth"} <= gateway.app.toolbox.tools().keys()

            await wire.until(offered, 30.0)
            out = await run("sh", blocks("docs/tools.md", "sh")[0], gateway.root, tmp_path)
    finally:
        process.terminate()
        await process.wait()
    assert out.count('"content":"north: 12 m³/s"') == 2
