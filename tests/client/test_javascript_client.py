"""The JavaScript client in Node: OpenAI's SDK, Vercel's AI SDK and LangChain over connections that are cut."""

import asyncio
import json
import shutil
from typing import Any

import pytest
from cutting_proxy import cutting, random_cuts
from gateway import in_process
from node import JS, NODE, node
from provider import Provider

from server.core.openai.sse import Decoder

WORDS = [f"w{n}é☃ " for n in range(200)]
AWKWARD = (
    "\ufeffid: 1\ndata: a\n\n: hb\nid: 2\r\ndata: b\r\ndata:c\r\n\r\nevent: token\rid: 3\rdata: \u2028é☃😀\r\r"
    "retry: 1500\nid: 4\ndata\n\n: comment\n\nid: x\0y\ndata: no id\n\nid: 9\ndata: cut"
)


@pytest.mark.parametrize("size", [0, 1, 2, 7])
async def test_decodes_as_the_gateway_does(size: int) -> None:
    """The JavaScript decoder gives the same events as the gateway's own, whole and split at every byte."""
    encoded = AWKWARD.encode()
    decoder = Decoder()
    wanted = [
        {"type": one.type.decode(), "data": one.data.decode(), "id": None if one.id is None else one.id.decode()}
        for one in decoder.feed(encoded)
    ]
    assert len(wanted) == 5
    assert await node("decoder.mjs", str(size), encoded.hex()) == {"events": wanted, "retry": 1500}
    assert decoder.retry == 1500


async def test_openai_sdk_survives_twenty_cuts(provider: Provider, model: str) -> None:
    """OpenAI's JavaScript SDK gets every chunk once, although its connection is cut 20 times at random bytes."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(20, seed=1)) as proxy:
        said = await node("openai_sdk.mjs", proxy.url, model)
    assert said["texts"] == WORDS, said
    assert proxy.made == 20
    assert said["cuts"] >= 15  # the others hit a response's head
    assert len(await provider.seen(model)) == 1


async def test_runs_on_the_systems_node(provider: Provider, model: str) -> None:
    """The client needs nothing that Node 20 does not have: it imports and streams there without any SDK."""
    programs = {program for program in (NODE, shutil.which("node")) if program is not None}
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway:
        for program in programs:
            async with cutting(gateway.port, random_cuts(5, seed=9)) as proxy:
                said = await node("plain_fetch.mjs", proxy.url, model, program=program)
                assert said["texts"] == WORDS, said
                assert proxy.made == 5


async def test_a_lost_head_and_a_whole_answer(provider: Provider, model: str) -> None:
    """A POST whose head was cut is repeated, and an answer that is not streamed survives a cut in its body."""
    await provider.script(model, {"text": "all of it"})
    async with in_process(provider.url) as gateway, cutting(gateway.port, [1, 40, 350]) as proxy:
        said = await node("openai_sdk.mjs", proxy.url, model, json.dumps({"whole": True}))
    assert said["texts"][0].split() == ["all", "of", "it"]
    assert proxy.made == 3
    assert len(await provider.seen(model)) == 1


@pytest.mark.parametrize("script", ["vercel_ai.mjs", "langchain.mjs"])
async def test_other_sdks_survive_cuts(provider: Provider, model: str, script: str) -> None:
    """Vercel's AI SDK and LangChain's ChatOpenAI stream every chunk once over 20 cuts."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(20, seed=5)) as proxy:
        said = await node(script, proxy.url, model)
    assert "".join(said["texts"]) == "".join(WORDS), said
    assert proxy.made == 20


async def test_tool_calls_survive_cuts(provider: Provider, model: str) -> None:
    """A tool call whose arguments came in pieces over several connections is whole, in both SDKs."""
    arguments = {"query": "räuber " * 60}
    call = {"index": 0, "id": "call_1", "name": "search", "arguments": json.dumps(arguments)}
    await provider.script(model, {"tool_calls": [call], "rate": 200})
    async with in_process(provider.url) as gateway:
        async with cutting(gateway.port, random_cuts(5, seed=6)) as proxy:
            said = await node("openai_sdk.mjs", proxy.url, model)
            assert json.loads(said["arguments"]) == arguments
            assert proxy.made == 5
        async with cutting(gateway.port, random_cuts(5, seed=7)) as proxy:
            said = await node("vercel_ai.mjs", proxy.url, model)
            assert said["calls"] == [{"name": "search", "input": arguments}]
            assert proxy.made == 5


async def test_a_silent_connection_is_a_cut(provider: Provider, model: str) -> None:
    """A connection that stays open but brings nothing more is given up, and the stream goes on over another one."""
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port, [2000]) as proxy:
        proxy.silent = True
        said = await node("openai_sdk.mjs", proxy.url, model, json.dumps({"resume": {"silence": 500}}))
    assert said["texts"] == WORDS
    assert said["cuts"] >= 1


@pytest.mark.parametrize(
    "options",
    [{"stopAfter": 3}, {"abortAfter": 500}],
    ids=["break", "abort"],
)
async def test_leaving_early_stops_the_generation(provider: Provider, model: str, options: dict[str, Any]) -> None:
    """A program that leaves its stream aborts the generation, though it would outlive a lost connection."""
    await provider.script(model, {"tokens": 1000, "rate": 20})
    async with in_process(provider.url, streams={"linger": 600.0}) as gateway:
        await node("openai_sdk.mjs", gateway.url, model, json.dumps(options))
        await gateway.idle()


async def test_leaving_before_the_first_token_stops_the_generation(provider: Provider, model: str) -> None:
    """A program that leaves while it waits for the first token aborts the stream as soon as it has a name."""
    await provider.script(model, {"ttft": 600})
    async with in_process(provider.url, streams={"linger": 600.0}, flow={"early_open_after": 1.0}) as gateway:
        said = await node("openai_sdk.mjs", gateway.url, model, json.dumps({"abortAfter": 300}))
        assert said["error"]["name"] == "APIUserAbortError"
        await gateway.idle()


async def test_giving_up_says_why(provider: Provider, model: str) -> None:
    """When the gateway stays away the stream ends after a bounded time with an error that says where and why."""
    await provider.script(model, {"pieces": WORDS, "rate": 200})
    async with in_process(provider.url) as gateway, cutting(gateway.port, [3000]) as proxy:

        async def stay_away(_made: int) -> None:
            proxy.refusing = True

        proxy.on_cut = stay_away
        said = await node("openai_sdk.mjs", proxy.url, model, json.dumps({"resume": {"giveUpAfter": 500}}))
    assert said["error"]["code"] == "stream_lost"
    assert "lost after event" in said["error"]["message"]


async def test_a_restart_without_a_durable_store_is_a_clear_error(provider: Provider, model: str) -> None:
    """A gateway that comes back without the stream's log ends the stream with an error that names the cause."""
    await provider.script(model, {"pieces": WORDS, "rate": 100})
    async with (
        in_process(provider.url) as second,
        in_process(provider.url) as first,
        cutting(first.port, [3000]) as proxy,
    ):

        async def move(_made: int) -> None:
            proxy.to_port = second.port

        proxy.on_cut = move
        said = await node("openai_sdk.mjs", proxy.url, model)
    assert "does not know this stream any more" in said["error"]["message"]


async def test_types_are_what_the_comments_say() -> None:
    """The TypeScript compiler finds no error in the JSDoc types of the modules."""
    process = await asyncio.create_subprocess_exec(
        NODE or "node", str(JS / "node_modules/typescript/bin/tsc"), "--project", str(JS / "tsconfig.json"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
