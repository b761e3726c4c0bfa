"""The scripted provider, watched from outside: by raw sockets where bytes matter, by OpenAI's SDK where they do not."""

import asyncio
import gzip
import itertools
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import pytest
import pytest_asyncio

sys.path += [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "scripts")]

from lab.processes import SCRIPTS
from provider import Provider
from scripted.request import BadRequestError, take
from scripted.script import Script, ScriptError

MODELS = (f"model-{i:04}" for i in itertools.count())  # one length: each chunk of an answer names its model
TOOLS = [
    {"id": "a", "name": "look", "arguments": {"city": "Zürich", "days": 3}},
    {"id": "b", "name": "add", "arguments": '{"x": 1}'},
]
RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Answer:
    """One response as it came over the wire."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        head, _, rest = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.version, status, *_ = first.split(" ")
        self.status = int(status)
        self.headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        self.pieces = [rest]
        self.ended = False  # by the last HTTP chunk
        if self.headers.get("transfer-encoding") == "chunked":
            self.pieces, self.ended = dechunked(rest)
        self.body = b"".join(self.pieces)

    @property
    def data(self) -> list[str]:
        """The data of every event. Lines are split as bytes: text has more line ends than SSE."""
        return [line[6:].decode() for line in self.body.splitlines() if line.startswith(b"data: ")]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(data) for data in self.data if data != "[DONE]"]

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        return [choice["delta"] for choice in self.choices]

    @property
    def contents(self) -> list[str]:
        """The pieces of text, without the role chunk's empty one."""
        return [delta["content"] for delta in self.deltas if "content" in delta and "role" not in delta]

    @property
    def finish(self) -> list[str]:
        return [choice["finish_reason"] for choice in self.choices if choice["finish_reason"]]


def dechunked(rest: bytes) -> tuple[list[bytes], bool]:
    """The HTTP chunks of a body, and whether it came to its end."""
    pieces = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return pieces, True
        pieces.append(rest[:length])
        rest = rest[length + 2 :]
    return pieces, False


def request(script: dict[str, Any] | None, *fields: str, **asked: Any) -> bytes:
    """A completion request, streaming and for a model of its own unless told otherwise."""
    asked = {"model": next(MODELS), "messages": [{"role": "user", "content": "say it"}], "stream": True} | asked
    body = orjson.dumps(asked if script is None else asked | {"script": script})
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode() + body


def address(provider: Provider) -> tuple[str, int]:
    host, port = provider.root.removeprefix("http://").split(":")
    return host, int(port)


@asynccontextmanager
async def connected(provider: Provider) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address(provider))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(provider: Provider, script: dict[str, Any] | None = None, *fields: str, **asked: Any) -> Answer:
    """Ask once and read until the connection ends."""
    async with connected(provider) as (reader, writer):
        writer.write(request(script, "Connection: close", *fields, **asked))
        return Answer(await reader.read())


async def ask_until_reset(provider: Provider, script: dict[str, Any], **asked: Any) -> bytes:
    """Ask once and read until the connection is reset; any other ending fails the test."""
    received = []
    async with connected(provider) as (reader, writer):
        writer.write(request(script, **asked))
        try:
            while piece := await reader.read(65536):
                received.append(piece)
        except ConnectionResetError:
            return b"".join(received)
    pytest.fail("the connection was closed, not reset")


async def until(provider: Provider, model: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the model's last request looks as it should."""
    async with asyncio.timeout(10):
        while True:
            seen = await provider.seen(model)
            if seen and true(seen[-1]):
                return seen[-1]
            await asyncio.sleep(0.005)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[Provider]:
    """One for all tests here; they keep apart by the names of their models."""
    async with Provider() as running:
        yield running


# What is said.


async def test_default(provider: Provider) -> None:
    """Without a script there are a role, twenty tokens, a finish reason and [DONE], and no usage."""
    answer = await ask(provider)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.deltas[0] == {"role": "assistant", "content": ""}
    assert answer.contents == [f"tok{i} " for i in range(20)]
    assert answer.finish == ["stop"]
    assert answer.data[-1] == "[DONE]"
    assert answer.ended
    assert all("usage" not in chunk for chunk in answer.chunks)


@pytest.mark.parametrize(
    ("script", "contents"),
    [
        ({"tokens": 3}, ["tok0 ", "tok1 ", "tok2 "]),
        ({"tokens": 2, "big": 8}, ["tok0 xxx", "tok1 xxx"]),
        ({"text": "  Wide  is\nthe sea "}, ["  ", "Wide  ", "is\n", "the ", "sea "]),
        ({"pieces": ["a", "", "\u2028 b"]}, ["a", "", "\u2028 b"]),
        ({"tokens": 0}, []),
    ],
)
async def test_texts(provider: Provider, script: dict[str, Any], contents: list[str]) -> None:
    """Tokens, text and pieces become exactly the content chunks they name."""
    assert (await ask(provider, script)).contents == contents


async def test_seeded_text(provider: Provider) -> None:
    """A seed gives the same words each time, and another seed others."""
    one, same, other = [(await ask(provider, {"seed_text": s, "tokens": 40})).contents for s in (7, 7, 8)]
    assert one == same != other
    assert len(one) == 40


async def test_chunks_are_sent_as_they_are(provider: Provider) -> None:
    """Raw chunks go out verbatim and nothing but [DONE] is added."""
    answer = await ask(provider, {"chunks": [{"b": 1, "a": [None]}, '{"spaced" : 1}', ""]})
    assert answer.data == ['{"b":1,"a":[null]}', '{"spaced" : 1}', "", "[DONE]"]


async def test_envelope(provider: Provider) -> None:
    """Role, finish, usage, [DONE], model, fingerprint and logprobs are as the script says."""
    bare = {"tokens": 1, "role_chunk": False, "finish": None, "done": False}
    answer = await ask(provider, bare | {"logprobs": True, "system_fingerprint": "fp", "model_echo": "m-2026"})
    assert [chunk["choices"][0]["delta"] for chunk in answer.chunks] == [{"content": "tok0 "}]
    assert answer.chunks[0]["model"] == "m-2026"
    assert answer.chunks[0]["system_fingerprint"] == "fp"
    assert answer.choices[0]["logprobs"]["content"][0]["token"] == "tok0 "
    assert "[DONE]" not in answer.data


@pytest.mark.parametrize(
    ("forced", "asked", "sent"), [(None, True, 1), (None, False, 0), (True, False, 1), (False, True, 0)]
)
async def test_usage(provider: Provider, forced: bool | None, asked: bool, sent: int) -> None:
    """Usage comes if it was asked for, unless the script forces one or the other."""
    answer = await ask(provider, {"tokens": 3, "usage": forced}, stream_options={"include_usage": asked})
    usages = [chunk["usage"] for chunk in answer.chunks if "usage" in chunk]
    assert usages == [{"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}] * sent


async def test_choices_take_turns(provider: Provider) -> None:
    """With n = 2 the choices are interleaved, told apart by their text, and each one finishes."""
    answer = await ask(provider, {"tokens": 2}, n=2)
    said = [(c["index"], c["delta"]["content"]) for c in answer.choices if "content" in c["delta"]][2:]
    assert said == [(0, "tok0 "), (1, "tok0.1 "), (0, "tok1 "), (1, "tok1.1 ")]
    assert answer.finish == ["stop", "stop"]


async def test_reasoning_comes_first(provider: Provider) -> None:
    """Reasoning is sent before the text and counts as content."""
    model = next(MODELS)
    answer = await ask(provider, {"reasoning": ["hm", "so"], "tokens": 1}, model=model)
    assert answer.deltas[1:4] == [{"reasoning_content": "hm"}, {"reasoning_content": "so"}, {"content": "tok0 "}]
    assert (await provider.seen(model))[0]["content_chunks"] == 3


@pytest.mark.parametrize("interleave", [False, True])
async def test_tool_calls(provider: Provider, interleave: bool) -> None:
    """Tool calls come with id and name once and arguments in pieces, one after the other or taking turns."""
    answer = await ask(provider, {"tool_calls": TOOLS, "tool_piece": 3, "interleave": interleave})
    deltas = [delta["tool_calls"][0] for delta in answer.deltas if "tool_calls" in delta]
    order = [delta["index"] for delta in deltas]
    assert (order == sorted(order)) is not interleave
    assert [(d["id"], d["function"]["name"]) for d in deltas if "id" in d] == [("a", "look"), ("b", "add")]
    arguments = ["".join(d["function"]["arguments"] for d in deltas if d["index"] == i) for i in (0, 1)]
    assert arguments == ['{"city":"Zürich","days":3}', '{"x": 1}']
    assert max(len(d["function"]["arguments"]) for d in deltas) == 3
    assert answer.finish == ["tool_calls"]
    assert answer.contents == []


async def test_openai_sdk(provider: Provider) -> None:
    """OpenAI's own client takes the stream, the whole completion and the list of models."""
    model = next(MODELS)
    await provider.script(model, {"text": "Guten Tag", "tool_calls": TOOLS, "logprobs": True})
    messages: Any = [{"role": "user", "content": "hi"}]
    async with openai.AsyncOpenAI(base_url=provider.url, api_key="any", max_retries=0) as client:
        stream = await client.chat.completions.create(model=model, messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        whole = await client.chat.completions.create(model=model, messages=messages)
        models = [listed.id async for listed in client.models.list()]
    assert text == whole.choices[0].message.content == "Guten Tag"
    assert [call.function.name for call in whole.choices[0].message.tool_calls or ()] == ["look", "add"]
    assert whole.choices[0].finish_reason == "tool_calls"
    assert model in models


# Which script, and what it makes of the request.


async def test_calls_follow_their_scripts(provider: Provider) -> None:
    """The i-th call gets the i-th script, later ones the last, and new scripts begin again."""
    model = next(MODELS)
    await provider.script(model, {"tokens": 1}, {"tokens": 2})
    assert [len((await ask(provider, model=model)).contents) for _ in range(3)] == [1, 2, 2]
    await provider.script(model, {"tokens": 3})
    assert len((await ask(provider, model=model)).contents) == 3
    assert [seen["call"] for seen in await provider.seen(model)] == [0, 1, 2, 0]


async def test_scripts_in_a_request(provider: Provider) -> None:
    """A header scripts one call, and a body field wins over it."""
    model = next(MODELS)
    await provider.script(model, {"tokens": 1})
    header = 'X-Script: {"text": "Grüße"}'
    assert (await ask(provider, None, header, model=model)).contents == ["Grüße"]
    assert (await ask(provider, {"text": "body"}, header, model=model)).contents == ["body"]
    assert (await ask(provider, model=model)).contents == ["tok0 "]


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ({"tokns": 1}, "tokns"),
        ({"tokens": "1"}, "tokens"),
        ({"tokens": True}, "tokens"),
        ({"rate": "fast"}, "rate"),
        ({"done": 1}, "done"),
        ({"split": "bytes"}, "split"),
        ({"split": 0}, "split"),
        ({"split": [3, 0]}, "split"),
        ({"newline": "\n\n"}, "newline"),
        ({"stall_for": 1}, "stall_after"),
        ({"bad_chunk_header_at": 0, "http10": True}, "bad_chunk_header_at"),
        (["tokens"], "object"),
    ],
)
async def test_wrong_scripts(provider: Provider, script: Any, named: str) -> None:
    """A wrong script is refused when it is set and when it is used, naming what is wrong."""
    with pytest.raises(ValueError, match=named):
        await provider.script(next(MODELS), script)
    assert named in (await ask(provider, script)).body.decode()
    with pytest.raises(ScriptError, match=named):
        Script.parse(script)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"messages": []}', 400),
        (b'{"model": "m"}', 400),
        (b'{"model": "m", "messages": ["x"]}', 400),
        (b'{"model": "m", "messages": [], "n": "2"}', 400),
        (b'{"model": "m", "messages": [], "n": 0}', 400),
        (b'{"model": "m", "messages": []}', 200),
    ],
)
async def test_wrong_requests(provider: Provider, body: bytes, status: int) -> None:
    """What OpenAI would refuse is a 400 with its error object; the rest is answered."""
    async with aiohttp.request("POST", provider.url + "/chat/completions", data=body) as response:
        answer = await response.json()
    assert response.status == status
    assert status == 200 or answer["error"]["type"] == "invalid_request_error"


async def test_unknown_path(provider: Provider) -> None:
    """Any other path is a JSON 404."""
    async with aiohttp.request("GET", provider.url + "/nothing") as response:
        assert response.status == 404
        assert "/v1/nothing" in (await response.json())["error"]["message"]


async def test_key(provider: Provider) -> None:
    """A required key is a 401 without the right bearer token."""
    script = {"require_key": "sk-1"}
    assert (await ask(provider, script)).status == 401
    assert (await ask(provider, script, "Authorization: Bearer sk-2")).status == 401
    assert (await ask(provider, script, "Authorization: Bearer sk-1")).status == 200


@pytest.mark.parametrize(
    ("limits", "length", "finish"),
    [
        ({"max_tokens": 2}, 2, "length"),
        ({"max_completion_tokens": 3, "max_tokens": 1}, 3, "length"),
        ({"max_tokens": 5}, 5, "stop"),
        ({}, 5, "stop"),
    ],
)
async def test_max_tokens(provider: Provider, limits: dict[str, int], length: int, finish: str) -> None:
    """A script that honours the limit stops at it, and finishes for length only if there was more to say."""
    answer = await ask(provider, {"tokens": 5, "honour_max_tokens": True}, **limits)
    assert (len(answer.contents), answer.finish) == (length, [finish])
    assert len((await ask(provider, {"tokens": 5}, **limits)).contents) == 5


@pytest.mark.parametrize(
    ("prefill", "script", "said"),
    [
        ("Wide is", {}, " the sea"),
        ("Wide is ", {}, "the sea"),
        ("Wide is ", {"echo_prefix": True}, "Wide is the sea"),
        ("Wide is the sea", {}, ""),
        ("Narrow", {}, "Wide is the sea"),
        ("Wide is ", {"continue_text": False}, "Wide is the sea"),
    ],
)
async def test_continuation(provider: Provider, prefill: str, script: dict[str, Any], said: str) -> None:
    """A trailing assistant message that begins the text is continued; another one begins anew."""
    messages = [{"role": "user", "content": "go on"}, {"role": "assistant", "content": prefill, "prefix": True}]
    answer = await ask(provider, {"text": "Wide is the sea", "continue_text": True} | script, messages=messages)
    assert "".join(answer.contents) == said


async def test_prefill_can_be_rejected(provider: Provider) -> None:
    """A target without prefill answers 400 to a trailing assistant message, and to no other."""
    messages = [{"role": "assistant", "content": [{"type": "text", "text": "I"}]}]
    refused = await ask(provider, {"reject_prefill": True}, messages=messages)
    assert refused.status == 400
    assert "prefill" in json.loads(refused.body)["error"]["message"]
    assert (await ask(provider, {"reject_prefill": True})).status == 200


# Answers that are not streams.


async def test_status(provider: Provider) -> None:
    """A status comes with its error object and headers, to any kind of request."""
    error = {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    script = {"status": 429, "error": error, "headers": {"Retry-After": "7"}}
    for stream in (True, False):
        answer = await ask(provider, script, stream=stream)
        assert (answer.status, answer.headers["retry-after"]) == (429, "7")
        assert json.loads(answer.body) == {"error": error}
    page = await ask(provider, {"status": 502, "error": "<h1>Bad Gateway</h1>"})
    assert (page.headers["content-type"], page.body) == ("text/html", b"<h1>Bad Gateway</h1>")


async def test_json_body(provider: Provider) -> None:
    """A streaming request can be answered by a JSON completion, or by any JSON."""
    answer = await ask(provider, {"json_body": True, "tokens": 1})
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "tok0 "
    assert json.loads((await ask(provider, {"json_body": {"odd": []}})).body) == {"odd": []}


async def test_whole_completion(provider: Provider) -> None:
    """A request that does not stream gets everything in one object, counted."""
    script = {"tokens": 2, "reasoning": ["h", "m"], "tool_calls": TOOLS}
    answer = json.loads((await ask(provider, script, stream=False, n=2)).body)
    message = answer["choices"][0]["message"]
    assert answer["object"] == "chat.completion"
    assert message["content"] == "tok0 tok1 "
    assert message["reasoning_content"] == "hm"
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [
        '{"city":"Zürich","days":3}',
        '{"x": 1}',
    ]
    assert len(answer["choices"]) == 2
    assert answer["usage"]["completion_tokens"] == 4


async def test_broken_whole_completion(provider: Provider) -> None:
    """A JSON answer can be cut or reset in its middle, and reset before its head."""
    cut = await ask(provider, {"cut_after": 0}, stream=False)
    assert len(cut.body) == int(cut.headers["content-length"]) // 2
    reset = Answer(await ask_until_reset(provider, {"reset_after": 0}, stream=False))
    assert 0 < len(reset.body) < int(reset.headers["content-length"])
    assert await ask_until_reset(provider, {"reset_before_head": True}, stream=False) == b""


# Faults in a stream.


@pytest.mark.parametrize("k", [0, 1, 3])
async def test_cut(provider: Provider, k: int) -> None:
    """A cut closes the connection after k content chunks without ending the body."""
    answer = await ask(provider, {"tokens": 3, "cut_after": k})
    assert (len(answer.contents), answer.ended, answer.finish) == (k, False, [])


@pytest.mark.parametrize("k", [0, 1, 3])
async def test_reset(provider: Provider, k: int) -> None:
    """A reset comes after k content chunks, all of which arrive."""
    answer = Answer(await ask_until_reset(provider, {"tokens": 3, "reset_after": k}))
    assert (len(answer.contents), answer.ended) == (k, False)


async def test_gate(provider: Provider) -> None:
    """A stream stands still at each of its gates until it is told to go on, and sends everything before."""
    model = next(MODELS)
    await provider.script(model, {"tokens": 5, "gate_at": [0, 3]})
    async with connected(provider) as (reader, writer):
        writer.write(request(None, model=model))
        for count in (0, 3):
            await provider.at_gate(model)
            [seen] = await provider.seen(model)
            assert (seen["content_chunks"], seen["finished"], seen["at_gate"]) == (count, False, True)
            if count:
                assert b"tok2 " in await reader.readuntil(b"tok2 ")
            await provider.open(model)
        assert b"[DONE]" in await reader.readuntil(b"0\r\n\r\n")
    [seen] = await provider.seen(model)
    assert (seen["finished"], seen["at_gate"]) == (True, False)


async def test_a_gate_that_was_opened_before(provider: Provider) -> None:
    """It lets one stream through, whichever comes first; the next one stands. A new script closes it again."""
    model = next(MODELS)
    await provider.script(model, {"tokens": 2, "gate_at": 1})
    await provider.open(model)
    assert (await ask(provider, None, model=model)).contents == ["tok0 ", "tok1 "]
    await provider.open(model)
    await provider.script(model, {"tokens": 2, "gate_at": 1})
    async with connected(provider) as (_, writer):
        writer.write(request(None, model=model))
        await provider.at_gate(model)


async def test_reset_before_head(provider: Provider) -> None:
    """A reset before the head sends nothing, and the script counts as played."""
    model = next(MODELS)
    assert await ask_until_reset(provider, {"reset_before_head": True}, model=model) == b""
    seen = await until(provider, model, lambda seen: not seen["open"])
    assert (seen["status"], seen["finished"], seen["closed_by_client_at"]) == (None, True, None)


async def test_reset_inside_a_character(provider: Provider) -> None:
    """The last bytes before the reset are an unfinished character of the chunk that was named."""
    raw = await ask_until_reset(provider, {"pieces": ["plain", "水"], "reset_in_utf8_at": 1})
    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        Answer(raw).body.decode()
    assert b"plain" in raw


async def test_early_end(provider: Provider) -> None:
    """An early end is clean: the body ends, without finish reason or [DONE]."""
    answer = await ask(provider, {"tokens": 3, "eof_after": 2})
    assert (len(answer.contents), answer.ended, answer.finish) == (2, True, [])
    assert "[DONE]" not in answer.data


async def test_garbage(provider: Provider) -> None:
    """Garbage takes its place among the content chunks and the stream goes on."""
    answer = await ask(provider, {"tokens": 2, "garbage_at": 1})
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.data[2])
    assert "tok1 " in answer.data[3]
    assert answer.data[-1] == "[DONE]"
    with pytest.raises(json.JSONDecodeError):
        json.loads((await ask(provider, {"garbage_at": 0})).data[0])


async def test_error_in_the_stream(provider: Provider) -> None:
    """An in-band error is the k-th content event, or the very first event for 0, and the last one."""
    error = {"message": "overloaded", "code": "busy"}
    first = await ask(provider, {"error_at": 0, "error": error})
    assert [json.loads(data) for data in first.data] == [{"error": error}]
    later = await ask(provider, {"error_at": 2})
    assert "tok1 " in later.data[-2]
    assert "error" in json.loads(later.data[-1])
    assert later.ended


async def test_bad_chunk_header(provider: Provider) -> None:
    """The HTTP chunk of the event that was named has a size that is no number."""
    async with connected(provider) as (reader, writer):
        writer.write(request({"tokens": 2, "bad_chunk_header_at": 1}, "Connection: close"))
        raw = await reader.read()
    before, after = raw.split(b"\r\nnot-hex\r\n")
    assert b"tok0 " in before
    assert b"tok1 " in after


async def test_stall(provider: Provider) -> None:
    """A stalled stream sends nothing more and stays open; its script is not finished."""
    model = next(MODELS)
    async with connected(provider) as (reader, writer):
        writer.write(request({"tokens": 3, "stall_after": 2}, model=model))
        await reader.readuntil(b"tok1 ")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.readuntil(b"tok2 ")
        seen = (await provider.seen(model))[0]
    assert (seen["content_chunks"], seen["open"], seen["finished"]) == (2, True, False)


async def test_stall_that_passes(provider: Provider) -> None:
    """A stall for a time takes that time, and then the rest comes."""
    started = time.monotonic()
    answer = await ask(provider, {"tokens": 3, "stall_after": 2, "stall_for": 0.05, "rate": 1000})
    assert time.monotonic() - started >= 0.05
    assert len(answer.contents) == 3


async def test_comments(provider: Provider) -> None:
    """Comments go on while the stream is stalled."""
    async with connected(provider) as (reader, writer):
        writer.write(request({"stall_after": 0, "comments": 0.01}))
        for _ in range(3):
            await reader.readuntil(b": keep-alive\n\n")


async def test_hang_after_the_end(provider: Provider) -> None:
    """After [DONE] the body can stay open for ever; the script is finished then."""
    model = next(MODELS)
    async with connected(provider) as (reader, writer):
        writer.write(request({"after_finish": "hang"}, model=model))
        await reader.readuntil(b"[DONE]")
        seen = await until(provider, model, lambda seen: seen["finished"])
    assert seen["open"]


# The bytes.


@pytest.mark.parametrize("split", ["byte", "random", 7, [1, 200, 3]])
async def test_split(provider: Provider, split: Any) -> None:
    """However the body is cut, it is the same body, in HTTP chunks of the sizes asked for."""
    script = {"text": "Zürich 水 🌊", "split": split, "seed": 5}
    answer, again = await ask(provider, script), await ask(provider, script)
    sizes = [len(piece) for piece in answer.pieces]
    assert answer.contents == ["Zürich ", "水 ", "🌊"]
    assert sizes == [len(piece) for piece in again.pieces]
    match split:
        case "byte":
            assert set(sizes) == {1}
        case 7:
            assert set(sizes[:-1]) == {7}
        case list():
            assert sizes[:3] == split
        case _:
            assert len(set(sizes)) > 5


async def test_split_writes_leave_alone(provider: Provider) -> None:
    """Each piece is sent before the delay that follows it, also when it ends inside a character."""
    async with connected(provider) as (reader, writer):
        writer.write(request({"chunks": ["ß"], "split": [7], "split_delay": 3600}))
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(12) == b"7\r\ndata: \xc3\r\n"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.readexactly(1)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
async def test_newlines(provider: Provider, newline: str) -> None:
    """Events end with the line ends asked for, comments too."""
    script = {"tokens": 1, "newline": newline, "finish": None, "role_chunk": False, "rate": 1000, "comments": 0.001}
    body = (await ask(provider, script | {"ttft": 0.02})).body.decode()
    assert body.endswith("data: [DONE]" + newline * 2)
    assert ": keep-alive" + newline * 2 in body
    assert set(body) & {"\n", "\r"} == set(newline)


async def test_wrong_content_length(provider: Provider) -> None:
    """A Content-Length can be too short or too long; the body is there in full and the connection closes."""
    for lie, right in (("lie_short", int.__lt__), ("lie_long", int.__gt__)):
        async with connected(provider) as (reader, writer):
            writer.write(request({"content_length": lie}))
            answer = Answer(await reader.read())
        assert right(int(answer.headers["content-length"]), len(answer.body))
        assert answer.data[-1] == "[DONE]"


async def test_close_delimited(provider: Provider) -> None:
    """HTTP/1.0 answers end with the connection, whether the script or the client wants them."""
    async with connected(provider) as (reader, writer):
        writer.write(request({"http10": True, "tokens": 1}))
        old = Answer(await reader.read())
    assert (old.version, old.data[-1]) == ("HTTP/1.0", "[DONE]")
    async with connected(provider) as (reader, writer):
        writer.write(request({"tokens": 1}).replace(b"HTTP/1.1", b"HTTP/1.0"))
        asked = Answer(await reader.read())
    assert "transfer-encoding" not in old.headers | asked.headers
    assert asked.data[-1] == "[DONE]"


async def test_gzip(provider: Provider) -> None:
    """Compression is for clients that accept it, and each event can be read at once."""
    script = {"gzip_if_accepted": True, "tokens": 2}
    packed = await ask(provider, script, "Accept-Encoding: br, gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert b"tok1 " in gzip.decompress(packed.body)
    assert len(packed.pieces) == 1 + 2 + 1 + 1 + 1  # role, tokens, finish, [DONE], and gzip's own end
    assert "content-encoding" not in (await ask(provider, script)).headers


# Time, backpressure and clients that leave.


async def test_pace(provider: Provider) -> None:
    """Tokens keep the first token's delay and the rate, and never come early."""
    model = next(MODELS)
    started = time.monotonic()
    await ask(provider, {"tokens": 6, "rate": 100, "ttft": 0.05, "headers_after": 0.05}, model=model)
    took = time.monotonic() - started
    seen = (await provider.seen(model))[0]
    rounding = 0.002  # the loop's timers have milliseconds
    assert seen["first_token_at"] - seen["started_at"] >= 0.1 - rounding
    assert took >= 0.1 + 5 / 100 - rounding


async def test_whole_completion_takes_its_time(provider: Provider) -> None:
    """A completion that is not streamed takes as long as its stream would."""
    started = time.monotonic()
    await ask(provider, {"tokens": 5, "rate": 100, "ttft": 0.02}, stream=False)
    assert time.monotonic() - started >= 0.06


async def test_head_comes_before_the_first_token(provider: Provider) -> None:
    """While the first token is awaited the head and the role are there already."""
    async with connected(provider) as (reader, writer):
        writer.write(request({"ttft": 3600}))
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b'"role":"assistant"')


WAYS_TO_LEAVE = {
    "fin": lambda sock: sock.close(),
    "rst": lambda sock: (sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE), sock.close()),
    "shutdown": lambda sock: sock.shutdown(socket.SHUT_WR),
}
SITUATIONS = {
    "unanswered": {"never_answer": True},
    "before the head": {"headers_after": 3600},
    "before the first token": {"ttft": 3600},
    "stalled": {"stall_after": 3},
    "paced": {"tokens": 100_000, "rate": 50},
    "hanging": {"after_finish": "hang"},
    "blocked": {"tokens": 10_000_000},
}


@pytest.mark.parametrize("way", WAYS_TO_LEAVE)
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_client_leaves(provider: Provider, situation: str, way: str) -> None:
    """A client that leaves is noticed in every situation, also while nothing can be written to it."""
    model = next(MODELS)
    with socket.create_connection(address(provider)) as sock:
        sock.sendall(request(SITUATIONS[situation], model=model))
        if situation == "blocked":
            await blocked(provider, model)
        else:
            await until(provider, model, lambda seen: seen["open"])
        before = await provider.now()
        WAYS_TO_LEAVE[way](sock)
        seen = await until(provider, model, lambda seen: not seen["open"])
        assert before <= seen["closed_by_client_at"] <= await provider.now()


async def blocked(provider: Provider, model: str) -> dict[str, Any]:
    """Wait until nothing moves any more: two looks, longer than a delayed ACK apart, that show the same."""
    before: tuple[int, int] | None = None
    while True:
        seen = await until(provider, model, lambda seen: seen["bytes_written"] > 0)
        now = seen["bytes_written"], seen["bytes_acked"]
        if now == before:
            return seen
        before = now
        await asyncio.sleep(0.1)


async def test_bytes_acknowledged(provider: Provider) -> None:
    """Written and acknowledged bytes differ for a client that does not read, before and after it resets."""
    model = next(MODELS)
    with socket.create_connection(address(provider)) as sock:
        sock.sendall(request({"tokens": 10_000_000}, model=model))
        stuck = await blocked(provider, model)
        assert 0 < stuck["bytes_acked"] < stuck["bytes_written"] < 4_000_000
        WAYS_TO_LEAVE["rst"](sock)
    gone = await until(provider, model, lambda seen: not seen["open"])
    assert gone["bytes_acked"] == stuck["bytes_acked"]
    complete = next(MODELS)
    raw = (await ask(provider, model=complete)).raw
    seen = await until(provider, complete, lambda seen: seen["bytes_acked"] == len(raw))
    assert seen["bytes_written"] == len(raw)


async def test_connections_are_kept(provider: Provider) -> None:
    """Requests one after the other, or in one piece, are answered on one connection and counted apart."""
    model = next(MODELS)
    async with aiohttp.ClientSession() as session:
        for stream in (True, False, True):
            asked = {"model": model, "messages": [], "stream": stream}
            async with session.post(provider.url + "/chat/completions", json=asked) as response:
                await response.read()
    async with connected(provider) as (reader, writer):
        writer.write(request({"tokens": 1}, model=model) + request({"tokens": 1}, "Connection: close", model=model))
        assert (await reader.read()).count(b"[DONE]") == 2
    first, plain, third, fourth, fifth = await provider.seen(model)
    assert first["connection"] == plain["connection"] == third["connection"]
    assert fourth["connection"] == fifth["connection"] != first["connection"]
    assert first["bytes_written"] == third["bytes_written"]
    assert all(seen["finished"] and seen["closed_by_client_at"] is None for seen in (first, plain, third))


async def test_seen(provider: Provider) -> None:
    """What was asked is there to look at, in order, until it is cleared."""
    model = next(MODELS)
    before = await provider.now()
    assert before <= time.monotonic()
    await ask(provider, None, "X-Test: Yes", model=model, temperature=0.5)
    [seen] = await provider.seen(model)
    assert seen["headers"]["x-test"] == "Yes"
    assert seen["body"]["temperature"] == 0.5
    assert (seen["status"], seen["call"], seen["content_chunks"]) == (200, 0, 20)
    assert before <= seen["started_at"] <= seen["first_token_at"] <= time.monotonic()
    assert (await provider.seen())[-1] == seen
    await provider.clear()
    assert await provider.seen() == []


# The process and its parser.


def test_process() -> None:
    """It says where it listens, and leaves with 0 on SIGTERM also while a stream is open."""
    with subprocess.Popen(
        [sys.executable, SCRIPTS / "scripted_provider.py", "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:2] == ["listening", "on"]
        host, port = words[2].split(":")
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(request({"stall_after": 1}))
            sock.recv(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert process.stdout.read() == ""


REQUEST = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-Name:  v:1 \r\n"
COUNTED = REQUEST + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = REQUEST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"


@pytest.mark.parametrize("raw", [COUNTED, CHUNKED])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_requests_are_parsed_in_any_pieces(raw: bytes, step: int) -> None:
    """A request comes out whole from bytes in any pieces, and leaves what follows it alone."""
    buffer, found = bytearray(), []
    stream = raw + raw + b"GET /rest"
    for start in range(0, len(stream), step):
        buffer += stream[start : start + step]
        while (one := take(buffer)) is not None:
            found.append(one)
    assert [(r.method, r.path, r.query, r.headers["x-name"], r.body) for r in found] == [
        ("POST", "/a", "b=c", "v:1", b"hello")
    ] * 2
    assert bytes(buffer) == b"GET /rest"


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"])
def test_what_is_no_request(raw: bytes) -> None:
    """Bytes that are no HTTP are told apart from a request that is not whole yet."""
    with pytest.raises(BadRequestError):
        take(bytearray(raw))


async def test_expect_continue(provider: Provider) -> None:
    """A client that waits before it sends its body is told to go on."""
    head, _, body = request({"tokens": 1}, "Expect: 100-continue", "Connection: close").partition(b"\r\n\r\n")
    async with connected(provider) as (reader, writer):
        writer.write(head + b"\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(body)
        assert b"[DONE]" in await reader.read()
