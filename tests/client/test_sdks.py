"""The clients that people use, unchanged, at the gateway and through nginx: text, tool calls and errors."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from cutting_proxy import cutting, random_cuts
from gateway import in_process
from langchain_openai import ChatOpenAI
from nginx import nginx
from node import node
from openai.types.chat import ChatCompletionChunk
from provider import Provider

from server.core.openai.sse import Decoder
from sluiceway import Patience, resuming_http_client

WORDS = [f"w{n}é☃ " for n in range(50)]
ARGUMENTS = [{"query": "räuber " * 20}, {"query": "lock " * 20}]  # of two calls, whose pieces come in turns
CALLS = [
    {"index": index, "id": f"call_{index}", "name": "search", "arguments": json.dumps(given)}
    for index, given in enumerate(ARGUMENTS)
]
REFUSAL = {"status": 400, "error": {"message": "That is too long.", "code": "context_length_exceeded", "type": "x"}}
QUESTION: Any = [{"role": "user", "content": "Tell me."}]


@dataclass
class Said:
    """What a client got from a stream: its text, the arguments of its tool calls, or its error."""

    text: str = ""
    arguments: list[Any] = field(default_factory=list)
    error: str = ""


class Pieces:
    """Join the arguments of calls as a program does."""

    def __init__(self) -> None:
        self._calls: dict[int, str] = {}

    def add(self, index: int, text: str | None) -> None:
        """Take what came for one call."""
        self._calls[index] = self._calls.get(index, "") + (text or "")

    def parsed(self) -> list[Any]:
        """Give the arguments of each call."""
        return [json.loads(text) for _, text in sorted(self._calls.items())]


async def _openai_async(url: str, model: str) -> Said:
    async with openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0) as client:
        return await _collect(client, model)


async def _collect(client: openai.AsyncOpenAI, model: str) -> Said:
    said, pieces = Said(), Pieces()
    try:
        async for chunk in await client.chat.completions.create(model=model, messages=QUESTION, stream=True):
            _take(chunk, said, pieces)
    except openai.APIError as error:
        said.error = error.message
    said.arguments = pieces.parsed()
    return said


def _take(chunk: ChatCompletionChunk, said: Said, pieces: Pieces) -> None:
    delta = chunk.choices[0].delta
    said.text += delta.content or ""
    for call in delta.tool_calls or ():
        pieces.add(call.index, call.function.arguments if call.function else "")


async def _openai_sync(url: str, model: str) -> Said:
    def ask() -> Said:
        said, pieces = Said(), Pieces()
        with openai.OpenAI(api_key="none", base_url=url, max_retries=0) as client:
            try:
                for chunk in client.chat.completions.create(model=model, messages=QUESTION, stream=True):
                    _take(chunk, said, pieces)
            except openai.APIError as error:
                said.error = error.message
        said.arguments = pieces.parsed()
        return said

    return await asyncio.to_thread(ask)


async def _openai_js(url: str, model: str) -> Said:
    said = await node("openai_sdk.mjs", url, model, '{"plain": true}')
    arguments = [json.loads(text) for text in said["calls"]]
    return Said("".join(said["texts"]), arguments, said.get("error", {}).get("message", ""))


async def _vercel(url: str, model: str) -> Said:
    said = await node("vercel_ai.mjs", url, model, "plain")
    return Said("".join(said["texts"]), [call["input"] for call in said["calls"]], "".join(said["errors"]))


async def _langchain(url: str, model: str) -> Said:
    chat = ChatOpenAI(model=model, base_url=url, api_key="none", max_retries=0)
    said, whole = Said(), None
    try:
        async for chunk in chat.astream("Tell me."):
            said.text += chunk.content
            whole = chunk if whole is None else whole + chunk
    except openai.APIError as error:
        said.error = error.message
    said.arguments = [call["args"] for call in whole.tool_calls] if whole is not None else []
    return said


async def _curl(url: str, model: str) -> Said:
    body = json.dumps({"model": model, "messages": QUESTION, "stream": True})
    program = shutil.which("curl")
    assert program, "there is no curl"
    process = await asyncio.create_subprocess_exec(
        program, "-sN", "-m", "30", url + "/chat/completions", "-H", "Content-Type: application/json", "-d", body,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    said, pieces = Said(), Pieces()
    for payload in _payloads(out):
        if "error" in payload:
            said.error = payload["error"]["message"]
            continue
        delta = payload["choices"][0]["delta"]
        said.text += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            pieces.add(call["index"], call["function"].get("arguments"))
    said.arguments = pieces.parsed()
    return said


def _payloads(out: bytes) -> list[dict[str, Any]]:
    if out.startswith(b"{"):
        return [json.loads(out)]
    return [json.loads(event.data) for event in Decoder().feed(out) if event.data != b"[DONE]"]


CLIENTS = {
    "openai_async": _openai_async,
    "openai_sync": _openai_sync,
    "openai_js": _openai_js,
    "vercel": _vercel,
    "langchain": _langchain,
    "curl": _curl,
}


@pytest.fixture(params=["gateway", "nginx"])
async def url(provider: Provider, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The base URL of a gateway, its own or that of an nginx before it."""
    async with in_process(provider.url) as gateway:
        if request.param == "gateway":
            yield gateway.url
        else:
            async with nginx(gateway.port) as front:
                yield front.url


@pytest.mark.parametrize("ask", CLIENTS.values(), ids=CLIENTS)
async def test_text_tool_calls_and_errors(
    url: str, provider: Provider, model: str, ask: Callable[[str, str], Awaitable[Said]]
) -> None:
    """Each client streams text and parallel tool calls whole, and raises errors, in a stream and before one."""
    calls, cut = {"tool_calls": CALLS, "interleave": True}, {"tokens": 20, "cut_after": 10, "rate": 400}
    await provider.script(model, {"pieces": WORDS, "rate": 400}, calls, cut, REFUSAL)
    assert await ask(url, model) == Said("".join(WORDS))
    assert await ask(url, model) == Said(arguments=ARGUMENTS)
    failed = await ask(url, model)
    assert failed.text
    assert "upstream" in failed.error
    refused = await ask(url, model)
    assert not refused.text
    assert "That is too long." in refused.error


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_resumes_through_nginx(provider: Provider, model: str, version: str) -> None:
    """The resuming client survives cuts between nginx and the gateway, also where nginx ends the stream politely."""
    await provider.script(model, {"pieces": WORDS * 4, "rate": 400})
    patience = Patience(first_wait=0.01, longest_wait=0.1)
    async with (
        in_process(provider.url) as gateway,
        cutting(gateway.port, random_cuts(10, seed=1, low=700)) as proxy,
        nginx(proxy.port, version=version) as front,
        resuming_http_client(base_url=front.url, patience=patience) as http,
    ):
        client = openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0)
        said = await _collect(client, model)
        assert proxy.made == 10
    assert said == Said("".join(WORDS * 4))
    assert len(await provider.seen(model)) == 1
