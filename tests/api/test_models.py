"""`GET /v1/models`: the names that clients may ask for; a pattern stands for what its upstreams list."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gateway import in_process, settings
from tcp_server import listening
from wire import call, complete, until

from server.upstreams import model_list

TWO = (
    b'{"object": "list", "data": [{"id": "gpt-4o", "created": 7, "owned_by": "o"}, {"id": "llama", "object": "model"}]}'
)
SILENT = b""


class Lister:
    """An upstream that answers every request with one response, byte for byte, and keeps what it was asked.

    An empty response is silence.
    """

    def __init__(self, response: bytes) -> None:
        self.response = response
        self.heads: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self.response)


@asynccontextmanager
async def lister(
    body: bytes = TWO, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json"
) -> AsyncIterator[Lister]:
    upstream = Lister(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body if head else SILENT)
    async with listening(upstream.serve) as port:
        upstream.url = f"http://127.0.0.1:{port}/v1"
        yield upstream


def models(*entries: tuple[str, list[str]]) -> list[dict[str, Any]]:
    return [{"name": name, "targets": targets} for name, targets in entries]


async def listed(root: str, **headers: str) -> list[str]:
    """The names of the list, which has OpenAI's shape."""
    answer = await call(root, "GET", "/v1/models", headers=headers)
    assert answer.status == 200
    assert answer.json.keys() == {"object", "data"}
    assert answer.json["object"] == "list"
    for model in answer.json["data"]:
        assert model.keys() == {"id", "object", "created", "owned_by"}
        assert (model["object"], type(model["created"]), type(model["owned_by"])) == ("model", int, str)
    return [model["id"] for model in answer.json["data"]]


async def test_what_serve_writes_for_a_key(monkeypatch) -> None:
    """With `"*"` on `openai/*` alone the list is that of the upstream, asked as completions are, and never `*`."""
    monkeypatch.setenv("LISTER_KEY", "sk-of-the-upstream")
    async with lister() as upstream:
        extra = {"api_key_env": "LISTER_KEY", "headers": {"X-Title": "a b"}}
        async with in_process(upstream.url, upstream=extra) as gateway:
            assert await listed(gateway.root) == ["gpt-4o", "llama"]
            [one, two] = (await call(gateway.root, "GET", "/v1/models")).json["data"]
    assert one == {"id": "gpt-4o", "object": "model", "created": 7, "owned_by": "o"}
    assert two == {"id": "llama", "object": "model", "created": 0, "owned_by": "local"}
    [head] = upstream.heads
    assert head.startswith("GET /v1/models HTTP/1.1\r\n")
    lines = head.lower().split("\r\n")
    assert "authorization: bearer sk-of-the-upstream" in lines
    assert "x-title: a b" in lines
    assert not any(line.startswith(("content-type", "content-length", "transfer-encoding")) for line in lines)


# Entries of the configuration, and what the list is if `a` lists gpt-4o and llama, and `b` llama and qwen.
CONFIGURED = [
    (models(("small", ["a/x"]), ("*", ["a/*"])), ["small", "gpt-4o", "llama"]),
    (models(("gpt-*", ["a/*"])), ["gpt-4o"]),
    (models(("gpt-*", ["b/*"])), []),
    (models(("*", ["a/*", "b/*"])), ["gpt-4o", "llama", "qwen"]),
    (models(("*", ["b/*"]), ("gpt-*", ["a/*"])), ["llama", "qwen", "gpt-4o"]),
    (models(("gpt-4o", ["b/qwen"]), ("*", ["a/*"])), ["gpt-4o", "llama"]),  # each name once, by the entry that answers
    (models(("gpt-*", ["b/qwen"]), ("*", ["a/*"])), ["llama"]),  # "gpt-4o" is not what would answer
    (models(("*", ["a/fixed"])), ["fixed"]),
    (models(("*", ["a/*", "b/fixed"])), ["gpt-4o", "llama", "fixed"]),
    (models(("gpt-*", ["a/fixed"])), []),
    (models(("fix*", ["a/fixed"])), ["fixed"]),
    (models(("*", ["down/*"])), []),
    (models(("*", ["down/*", "a/*"])), ["gpt-4o", "llama"]),
    (models(("small", ["down/*"]), ("*", ["down/*"])), ["small"]),
]


@pytest.mark.parametrize(("configured", "names"), CONFIGURED)
async def test_entries_and_patterns(configured, names) -> None:
    """A name stands for itself. A pattern stands for what its targets have, if they can be asked and it answers."""
    async with lister() as a, lister(b'{"data": [{"id": "llama"}, {"id": "qwen"}]}') as b:
        urls = {"a": a.url, "b": b.url, "down": "http://127.0.0.1:1/v1"}
        upstreams = [{"name": name, "base_url": url} for name, url in urls.items()]
        async with in_process("", upstreams=upstreams, models=configured) as gateway:
            assert await listed(gateway.root) == names


BODIES = [
    (b'{"data": []}', []),
    (b'[{"id": "a"}, {"id": "b"}]', ["a", "b"]),  # Together
    (b'{"object": "list", "data": [{"id": "a"}], "models": [{"name": "a"}]}', ["a"]),  # llama.cpp
    (b'{"data": [{"id": "a"}, {"id": "a"}, {"id": "b", "created": 1e99, "owned_by": null}]}', ["a", "b"]),
    (b'{"data": [{"id": "*"}, {"id": "openai/*"}, {"id": "org/a:free"}]}', ["org/a:free"]),  # another gateway
    (b'{"data": [{"id": ""}, {"id": 5}, {"id": null}, {}, 7, null, "a", [], {"id": "a\\nb"}, {"id": "ok"}]}', ["ok"]),
    (b'{"data": [{"id": "' + b"x" * 257 + b'"}, {"id": "models/gemini-2.5-flash"}]}', ["models/gemini-2.5-flash"]),
    (b'{"data": null}', []),  # Ollama without a model
    (b'{"error": {"message": "no"}}', []),
    (b'{"data": {"id": "a"}}', []),
    (b"null", []),
    (b'"data"', []),
    (b"<html>Sign in</html>", []),
    (b"", []),
    (b'{"data": [{"id": "a"}', []),
    (b'{"data": [{"id": "\xff"}]}', []),
    (b"[" * 100_000, []),
    (b'{"data": [{"id": "a"}], "x": "' + b" " * model_list.MAX_BYTES + b'"}', []),
]


@pytest.mark.parametrize(("body", "names"), BODIES, ids=range(len(BODIES)))
async def test_what_upstreams_answer(body, names) -> None:
    """Every model of a list that is one is taken, once. Whatever else an upstream answers is an empty list."""
    async with lister(body) as upstream, in_process(upstream.url) as gateway:
        assert await listed(gateway.root) == names


HEADS = [
    b"HTTP/1.1 401 Unauthorized",
    b"HTTP/1.1 404 Not Found",
    b"HTTP/1.1 500 Oops",
    b"HTTP/1.1 302 Found\r\nLocation: /v1/elsewhere",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip",
    b"not HTTP at all",
]


@pytest.mark.parametrize("head", HEADS)
async def test_upstreams_that_cannot_be_asked(head) -> None:
    """A status that is not 200, a redirect and what is no HTTP are an empty list, and 200."""
    async with lister(TWO, head) as upstream, in_process(upstream.url) as gateway:
        assert await listed(gateway.root) == []


async def test_a_silent_upstream(monkeypatch) -> None:
    """A silent upstream delays the list for a bounded time, also for those who come meanwhile, and hides no other."""
    monkeypatch.setattr(model_list, "PATIENCE", 0.3)
    async with lister(head=SILENT) as silent, lister() as upstream:
        upstreams = [{"name": "silent", "base_url": silent.url}, {"name": "up", "base_url": upstream.url}]
        tables = {"upstreams": upstreams, "models": models(("*", ["silent/*", "up/*"]))}
        async with in_process("", **tables) as gateway:
            answers = await asyncio.gather(*(listed(gateway.root) for _ in range(20)))
    assert answers == [["gpt-4o", "llama"]] * 20
    assert (len(silent.heads), len(upstream.heads)) == (1, 1)


async def test_kept_for_a_minute(monkeypatch) -> None:
    """An upstream is asked once in a minute, however many clients look, and again at once after it has failed."""
    async with lister(head=b"HTTP/1.1 500 Oops") as upstream, in_process(upstream.url) as gateway:
        assert await listed(gateway.root) == []
        upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(TWO) + TWO
        for _ in range(3):
            assert await listed(gateway.root) == ["gpt-4o", "llama"]
        assert len(upstream.heads) == 2
    monkeypatch.setattr(model_list, "KEPT", 0.0)
    async with lister() as upstream, in_process(upstream.url) as gateway:
        assert await listed(gateway.root) == ["gpt-4o", "llama"]
        upstream.response = upstream.response.replace(b"llama", b"qwens")
        assert await listed(gateway.root) == ["gpt-4o", "qwens"]


async def test_the_one_who_asks_leaves() -> None:
    """If the client for whom an upstream is asked leaves, another one that waits asks for itself."""
    async with lister(head=SILENT) as upstream, in_process(upstream.url) as gateway:
        first = asyncio.create_task(listed(gateway.root))
        await until(lambda: asyncio.sleep(0, len(upstream.heads) == 1))
        second = asyncio.create_task(listed(gateway.root))
        upstream.response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(TWO) + TWO
        first.cancel()
        assert await second == ["gpt-4o", "llama"]


async def test_a_reload_changes_the_list() -> None:
    """After a reload the list is that of the new upstream, and the old one's connections are closed."""
    async with lister() as old, lister(b'{"data": [{"id": "qwen"}]}') as new, in_process(old.url) as gateway:
        assert await listed(gateway.root) == ["gpt-4o", "llama"]
        await gateway.app.reload(settings(new.url), {})
        assert await listed(gateway.root) == ["qwen"]


ONE = models(("small", ["local/x"]), ("fix-*", ["local/x"]), ("org/*", ["local/*"]), ("gpt-*", ["local/*"]))
RETRIEVED = [
    ("small", True),
    ("gpt-4o", True),
    ("gpt-5", False),
    ("fix-anything", True),  # the target answers, whatever the client calls it
    ("org/model:free", True),
    ("org%2Fmodel:free", True),
    ("org/none", False),
    ("llama", False),
    ("x", False),
    ("gpt-*", False),
    ("*", False),
    ("%00", False),
]


@pytest.mark.parametrize(("name", "known"), RETRIEVED)
async def test_one_model(name, known) -> None:
    """`GET /v1/models/{id}` is the entry of the list, or 404 in OpenAI's shape, for ids with slashes, too."""
    body = json.dumps({"data": [{"id": "gpt-4o"}, {"id": "llama"}, {"id": "org/model:free"}]}).encode()
    async with lister(body) as upstream, in_process(upstream.url, models=ONE) as gateway:
        answer = await call(gateway.root, "GET", f"/v1/models/{name}")
        if known:
            plain = name.replace("%2F", "/")
            assert (answer.status, answer.json["id"], answer.json["object"]) == (200, plain, "model")
        else:
            assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")


async def test_keys() -> None:
    """With keys both paths need one."""
    keys = [{"name": "web", "sha256": hashlib.sha256(b"token").hexdigest()}]
    async with lister() as upstream, in_process(upstream.url, keys=keys) as gateway:
        for path in ("/v1/models", "/v1/models/llama"):
            assert (await call(gateway.root, "GET", path)).status == 401
            assert (await call(gateway.root, "GET", path, headers={"Authorization": "Bearer token"})).status == 200
    assert len(upstream.heads) == 1


async def test_requests_go_by_the_longest_match(provider, model) -> None:
    """A request is sent to the target of the pattern that gives the most of its name, which `upstream/*` keeps."""
    configured = models(
        ("*", [f"local/{model}-any"]), (f"{model}-*", ["local/*"]), (f"{model}-b*", [f"local/{model}-b"])
    )
    async with in_process(provider.url, models=configured) as gateway:
        for name in ("other", f"{model}-a", f"{model}-big"):
            assert (await complete(gateway.root, name)).status == 200
    for target in (f"{model}-any", f"{model}-a", f"{model}-b"):
        assert len(await provider.seen(target)) == 1
