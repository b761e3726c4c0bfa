"""`sluiceway tail`, `chat` and `streams` as a user runs them."""

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import internals
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cutting_proxy import cutting, random_cuts
from gateway import ROOT, in_process
from provider import Provider
from terminal import run, running

from sluiceway.commands.streams_table import HEAD, Look, table

ASK: dict[str, Any] = {"stream": True, "messages": [{"role": "user", "content": "Hi"}]}


async def _begin(url: str, model: str) -> str:
    """Begin a stream, read all of it and return its id."""
    async with aiohttp.request("POST", url + "/chat/completions", json={"model": model, **ASK}) as response:
        await response.read()
        return response.headers["X-Stream-Id"]


async def test_tail_prints_a_stream_over_cuts(provider: Provider, model: str) -> None:
    """`tail` prints a stream's text once, although its connection is cut, and says so beside it."""
    words = [f"w{n}é☃ " for n in range(100)]
    await provider.script(model, {"pieces": words})
    async with in_process(provider.url) as gateway, cutting(gateway.port, [*random_cuts(3, seed=1)]) as proxy:
        stream_id = await _begin(gateway.url, model)
        status, out, err = await run("tail", stream_id, "--url", proxy.root)
    assert (status, out) == (0, "".join(words) + "\n"), err
    assert proxy.made == 3
    assert "resuming" in err


async def test_tail_begins_where_it_is_told(provider: Provider, model: str) -> None:
    """`--after` skips what one has; `--raw` prints the events themselves, with their ids."""
    await provider.script(model, {"pieces": ["one ", "two ", "three"]})
    async with in_process(provider.url) as gateway:
        stream_id = await _begin(gateway.url, model)
        assert (await run("tail", stream_id, "--after", "2", "--url", gateway.root))[1] == "two three\n"
        raw = (await run("tail", stream_id, "--raw", "--url", gateway.url))[1]
    assert raw.startswith("id: 1\ndata: {")
    assert raw.endswith("data: [DONE]\n\n")


async def test_tail_says_what_is_wrong(provider: Provider) -> None:
    """A stream that does not exist is one line on standard error and status 1, and so is a missing gateway."""
    async with in_process(provider.url) as gateway:
        status, out, err = await run("tail", "strm_none", "--url", gateway.root)
        assert (status, out) == (1, "")
        assert err == "sluiceway: 404: There is no such stream.\n"
    status, _, err = await run("streams", "--once", "--url", "http://127.0.0.1:1")
    assert status == 1
    assert "cannot be reached" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tail", "strm_1", "--url", "foo"], "'foo' is no address of a gateway: it looks like http://127.0.0.1:8080."),
        (["tail", "strm_1", "--url", "ftp://127.0.0.1"], "is no address of a gateway"),
        (["streams", "--once", "--url", "http://"], "is no address of a gateway"),
        (["chat", "--url", "http://127.0.0.1:x"], "Invalid port"),
        (["tail", "../streams"], "'../streams' is no id of a stream."),
        (["tail", ""], "'' is no id of a stream."),
        (["tail", "a/b?c"], "is no id of a stream."),
        (["chat", "--model", "nope"], "404: "),
        (["streams", "--once", "--url", "ROOT/static/none"], "404: "),
        (["chat", "--model", b"\xff".decode(errors="surrogateescape")], "what was given is not UTF-8."),
    ],
)
async def test_what_makes_no_sense(provider: Provider, arguments: list[str], words: str) -> None:
    """Bad arguments are one line that says what is wrong and status 1, at once."""
    async with in_process(provider.url, models=[{"name": "one", "targets": ["local/x"]}]) as gateway:
        given = [one.replace("ROOT", gateway.root) for one in arguments]
        at = [] if "--url" in given else ["--url", gateway.root]
        status, out, err = await run(*given, *at, typed="Hello\n")
    *notes, line = err.splitlines()
    assert (status, out) == (1, "")
    assert line.startswith("sluiceway: ")
    assert words in line
    assert all(note.startswith("[") for note in notes)


@pytest.mark.parametrize("key", ["ü", "a\nb"])
async def test_a_key_that_cannot_be_one(key: str) -> None:
    """A key that no header takes is said, not sent."""
    status, out, err = await run("streams", "--once", SLUICEWAY_KEY=key)
    assert (status, out, err) == (1, "", "sluiceway: SLUICEWAY_KEY holds characters that no key has.\n")


@pytest.mark.parametrize("interval", ["x", "nan", "-1", "0", "inf"])
async def test_an_interval_that_is_none(interval: str) -> None:
    """`--interval` takes seconds above 0."""
    status, _, err = await run("streams", "--interval", interval)
    assert status == 2
    assert "--interval" in err


@pytest.mark.parametrize("raw", [[], ["--raw"]], ids=["text", "raw"])
async def test_tail_of_what_has_no_events(provider: Provider, model: str, raw: list[str]) -> None:
    """The record of an answer that was not streamed, and a cursor at the end, are said to be so."""
    async with in_process(provider.url) as gateway:
        body = {"model": model, **ASK, "stream": False}
        async with aiohttp.request("POST", gateway.url + "/chat/completions", json=body) as response:
            single = response.headers["X-Stream-Id"]
        status, out, err = await run("tail", single, *raw, "--url", gateway.root)
        assert (status, out, err) == (1, "", "sluiceway: That stream is a single answer, without events.\n")
        ended = await _begin(gateway.url, model)
        last = (await run("tail", ended, "--raw", "--url", gateway.root))[1].count("id: ")
        status, out, err = await run("tail", ended, *raw, "--after", str(last), "--url", gateway.root)
    assert (status, out, err) == (0, "", "[the stream has ended]\n")


async def test_what_is_no_gateway(provider: Provider) -> None:
    """Something else that answers is called so, also where its answer is JSON."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"hello": "world"})

    async with TestServer(_anything(answer)) as server:
        for command in (["streams", "--once"], ["chat"], ["tail", "strm_1"]):
            status, out, err = await run(*command, "--url", str(server.make_url("/")), typed="Hello\n")
            assert (status, out) == (1, "")
            assert "gateway" in err


def _anything(answer: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


async def test_a_reader_that_has_enough(provider: Provider, model: str) -> None:
    """Where the output is closed, as by `head`, the command ends without a word."""
    await provider.script(model, {"tokens": 2000, "big": 200})
    async with in_process(provider.url) as gateway:
        stream_id = await _begin(gateway.url, model)
        async with running("tail", stream_id, "--url", gateway.root) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            await process.stdout.readexactly(5)
            internals.close_stdout(process)
            assert await process.wait() == 1
            assert await process.stderr.read() == b""


async def test_bytes_that_are_no_text(provider: Provider, model: str) -> None:
    """What is typed in another encoding than UTF-8 is one line, too."""
    async with in_process(provider.url) as gateway, running("chat", "--model", model, "--url", gateway.root) as process:
        _, err = await process.communicate(b"\xff\xfe\n")
    assert process.returncode == 1
    assert err.decode().splitlines()[-1] == "sluiceway: what was given is not UTF-8."


async def test_output_cannot_drive_the_terminal(provider: Provider, model: str) -> None:
    """Escape sequences in a model's text do not reach the terminal."""
    await provider.script(model, {"pieces": ["a\x1b]0;title\x07b\x9b2J", "\tc\nd"]})
    async with in_process(provider.url) as gateway:
        stream_id = await _begin(gateway.url, model)
        _, out, _ = await run("tail", stream_id, "--url", gateway.root)
    assert out == "a]0;titleb2J\tc\nd\n"


async def test_chat_remembers_and_survives_cuts(provider: Provider, model: str) -> None:
    """A chat sends what was said before with every question, and its answers come whole over cut connections."""
    words = [f"w{n} " for n in range(100)]
    await provider.script(model, {"pieces": words})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(4, seed=2)) as proxy:
        typed = "first question\nsecond question\n"
        status, out, err = await run(
            "chat", "--model", model, "--system", "Be brief.", "--url", proxy.root, typed=typed
        )
        seen = await provider.seen(model)
    assert (status, out) == (0, ("".join(words) + "\n") * 2), err
    assert proxy.made == 4
    assert [message["role"] for message in seen[-1]["body"]["messages"]] == ["system", "user", "assistant", "user"]


async def test_interrupting_an_answer_stops_it(provider: Provider, model: str) -> None:
    """Ctrl-C stops the answer, and with it the generation; the chat goes on."""
    await provider.script(model, {"tokens": 1000, "rate": 20}, {"text": "second"})
    async with (
        in_process(provider.url, streams={"linger": 600.0}) as gateway,
        running("chat", "--model", model, "--url", gateway.root) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one\n")
        await process.stdout.readexactly(5)
        process.send_signal(signal.SIGINT)
        await gateway.idle()
        process.stdin.write(b"two\n")
        process.stdin.close()
        rest = await process.stdout.read()
        assert await process.wait() == 0
    assert rest.decode().endswith("second\n")


async def test_streams_shows_who_is_stalling(provider: Provider, model: str) -> None:
    """`streams --once` prints one table with the live streams, from a gateway that wants a key."""
    await provider.script(model, {"tokens": 1000, "rate": 20})
    digest = "6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090"  # of abc123
    key = {"Authorization": "Bearer abc123"}
    async with in_process(provider.url, keys=[{"name": "web", "sha256": digest}]) as gateway:
        body = {"model": model, **ASK}
        async with aiohttp.request("POST", gateway.url + "/chat/completions", json=body, headers=key) as response:
            await response.content.readline()
            status, out, _ = await run("streams", "--once", "--url", gateway.root, SLUICEWAY_KEY="abc123")
            refused, _, err = await run("streams", "--once", "--url", gateway.root)
    assert status == 0
    head, row = out.splitlines()
    assert head.split()[:4] == ["STREAM", "MODEL", "STATE", "AGE"]
    assert row.split()[:3] == [response.headers["X-Stream-Id"], model, "streaming"]
    assert refused == 1
    assert "SLUICEWAY_KEY" in err


def test_table_names_the_staller() -> None:
    """The note says whether the client, the upstream or nobody holds a stream up, and rates come from two looks."""
    calm = {
        "id": "a", "model": "m", "state": "streaming", "paused": False, "created": 0.0, "last_activity": 99.9,
        "records": 100, "lag": 0, "readers": 1, "recoveries": 0,
    }  # fmt: skip
    streams = [
        calm,
        {**calm, "id": "b", "paused": True, "lag": 65536},
        {**calm, "id": "c", "last_activity": 90.0},
        {**calm, "id": "d", "readers": 0},
        {**calm, "id": "e", "state": "complete"},
    ]
    before = Look(98.0, [{**calm, "records": 80}])
    lines = table(Look(100.0, streams), before)
    assert len(lines) == 5
    assert "10.0" in lines[1]
    assert lines[2].endswith("client stalls: upstream held back")
    assert "64.0 KB" in lines[2]
    assert lines[3].endswith("upstream quiet for 10.0 s")
    assert lines[4].endswith("no reader")


LISTED = {
    "id": "strm_0123456789012345678901", "model": "an-organization/a-model-with-a-long-name", "state": "recovering",
    "paused": True, "created": 0.0, "last_activity": 99.9, "records": 100, "lag": 65536, "readers": 1, "recoveries": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("room", "columns"),
    [
        (40, ["STREAM", "STATE", "TOKENS/S", "NOTE"]),
        (80, ["STREAM", "STATE", "AGE", "TOKENS/S", "NOTE"]),
        (110, ["STREAM", "MODEL", "STATE", "AGE", "TOKENS/S", "LAG", "READERS", "NOTE"]),
        (200, [*HEAD]),
        (None, [*HEAD]),
    ],
)
def test_table_fits(room: int | None, columns: list[str]) -> None:
    """A line is no longer than the terminal; ids stay whole, and in a pipe everything does."""
    head, row = table(Look(100.0, [LISTED]), room=room)
    assert head.split() == columns
    assert row.startswith(LISTED["id"] + "  ")
    if room is None or room == 200:
        assert LISTED["model"] in row
        assert row.endswith("client stalls: upstream held back")
    else:
        assert "  client stalls:" in row
        assert "…" in row
    if room is not None and room >= 80:
        assert max(map(len, (head, row))) <= room


@pytest.mark.parametrize("columns", [80, 200])
async def test_streams_fits_the_terminal(provider: Provider, model: str, columns: int) -> None:
    """In a terminal no line of `streams` wraps, and the id is there to be copied."""
    name = f"{model}-{'a' * 60}"
    await provider.script(name, {"tokens": 1000, "rate": 20})
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    async with in_process(provider.url) as gateway:
        body = {"model": name, **ASK}
        async with aiohttp.request("POST", gateway.url + "/chat/completions", json=body) as response:
            await response.content.readline()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "server", "streams", "--once", "--url", gateway.root,
                cwd=ROOT, stdout=theirs, env=environ,
            )  # fmt: skip
            assert await process.wait() == 0
    head, row = os.read(ours, 65_536).decode().splitlines()
    os.close(ours)
    os.close(theirs)
    assert max(len(head), len(row)) <= columns
    assert row.split()[0] == response.headers["X-Stream-Id"]
    assert (name in row) == (columns == 200)
