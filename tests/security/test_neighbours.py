"""One owner's request, or what its upstream says, costs another owner of the same store nothing."""

import asyncio
import hashlib
import json
from contextlib import asynccontextmanager

import pytest
from gateway import in_process
from redis_server import running
from tcp_server import listening
from wire import Client, call, completion, texts, until

from server.dialects.chat.writer import ChatWriter

PIECES = 40
VICTIMS = 10
PACE = 0.02  # seconds between two tokens of a victim: their appends share batches with the attacker's
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
STOP = (
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
)
TOKENS = {"alice": "alice-token-0123456789", "mallory": "mallory-token-0123456789"}
KEYS = [{"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest()} for name, token in TOKENS.items()]


def as_owner(name):
    """Give the headers of an owner."""
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def token(text):
    """Give one frame with a piece of content."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@asynccontextmanager
async def upstream(hostile=b"data: [DONE]\n\n"):
    """An upstream that gives `victim` its words slowly, and any other model one word, a finish and `hostile`."""

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        asked = json.loads(await reader.readexactly(size))
        writer.write(HEAD)
        if asked["model"] == "victim":
            for n in range(PIECES):
                writer.write(token(f"word{n} "))
                await asyncio.sleep(PACE)
            writer.write(STOP + b"data: [DONE]\n\n")
        else:
            writer.write(token("x") + STOP + hostile)
        await writer.drain()

    async with listening(serve) as port:
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for all."""
    with running(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture(params=["sqlite", "redis", "memory"])
def store(request, tmp_path):
    """The table of each store."""
    if request.param == "redis":
        server = request.getfixturevalue("server")
        server.call("FLUSHALL")
        return {"kind": "redis", "url": server.url}
    return {"kind": request.param, "path": str(tmp_path / "streams.db")}


async def victim(root):
    """Read one stream of the victim; return its texts, and its last event."""
    answer = await call(root, "POST", "/v1/chat/completions", completion("victim"), as_owner("alice"))
    assert answer.status == 200
    return texts(answer.events), answer.events[-1].data


async def check_victims(gateway, attack):
    """Attack again and again while the victim's streams run, and check that these lose nothing."""
    victims = asyncio.gather(*(victim(gateway.root) for _ in range(VICTIMS)))
    while not victims.done():
        await attack()
    for words, last in await victims:
        assert words == [f"word{n} " for n in range(PIECES)]
        assert last == b"[DONE]"


MODELS = {
    "space": "a b",
    "the rest of a head": "a 1 1 1 1 x 0",
    "no-break space": "a\xa0b",
    "0xFF": "a\xffb",
    "line separator": "a\u2028b",
    "long and wide": "\U0001f642" * 256,
    "format": "%s%d ${x} {}",
    "quotes": "\"'\\",
}


@pytest.mark.parametrize("name", MODELS)
async def test_model(store, name):
    """A model of any name that is taken is answered, and listed; the streams beside it are whole."""
    async with upstream() as url, in_process(url, store=store, keys=KEYS) as gateway:

        async def attack():
            body = completion(MODELS[name])
            answer = await call(gateway.root, "POST", "/v1/chat/completions", body, as_owner("mallory"))
            assert answer.status == 200
            assert [event.data for event in answer.events][-1] == b"[DONE]"

        await check_victims(gateway, attack)
        listed = (await call(gateway.root, "GET", "/v1/streams", headers=as_owner("mallory"))).json["data"]
        assert {(one["model"], one["target"]) for one in listed} == {(MODELS[name], f"local/{MODELS[name]}")}


def nested(depth):
    """Give arrays in arrays, as JSON."""
    return b"[" * depth + b"]" * depth


USAGES = {
    "2^64-1": (b'{"prompt_tokens":18446744073709551615,"completion_tokens":18446744073709551615}', (1 << 53) - 1),
    "2^63": (b'{"prompt_tokens":9223372036854775808,"completion_tokens":1,"total_tokens":1}', (1 << 53) - 1),
    "below zero": (b'{"prompt_tokens":-5,"completion_tokens":1}', 0),
    "254 deep": (b'{"prompt_tokens":1,"completion_tokens":1,"x":' + nested(254) + b"}", 1),
    "deep in the details": (
        b'{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":' + nested(250) + b"}}",
        1,
    ),
    "thousands of fields": (b'{"prompt_tokens":1,"completion_tokens":1,"x":[' + b"1," * 20_000 + b"1]}", 1),
    # So large a frame is not read: the tokens are estimated.
    "a million fields": (b'{"prompt_tokens":7,"completion_tokens":7,"x":[' + b"1," * 500_000 + b"1]}", None),
}


@pytest.mark.parametrize("dialect", ["chat", "native"])
@pytest.mark.parametrize("name", USAGES)
async def test_usage(store, name, dialect):
    """A usage of any kind ends the stream at once, with the known counts in their bounds; the others are whole."""
    usage, prompt = USAGES[name]
    hostile = b'data: {"id":"c","choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % usage
    path, body = ("/v1/chat/completions", completion("m")) if dialect == "chat" else ("/api/stream", {"prompt": "x"})
    async with upstream(hostile) as url, in_process(url, store=store, keys=KEYS) as gateway:
        ids = []

        async def attack():
            async with Client(gateway.root) as client:
                await client.ask("POST", path, {**body, "model": "m"}, as_owner("mallory"))
                answer = await client.answer()
            assert answer.status == 200
            assert answer.events[-1].data == b"[DONE]" or b'"status":"complete"' in answer.events[-1].data
            ids.append(answer.headers["x-stream-id"])

        await check_victims(gateway, attack)
        headers = {"Accept": "application/json", **as_owner("mallory")}
        state = (await call(gateway.root, "GET", f"/v1/streams/{ids[-1]}", headers=headers)).json
        assert state["state"] == "complete"
        assert prompt is None or state["usage"]["prompt_tokens"] == prompt
        assert state["usage"].get("measured", True) == (prompt is not None)
        assert state["usage"].keys() <= {"prompt_tokens", "completion_tokens", "total_tokens", "measured"}

        async def over():
            return gateway.app.streams.live == 0

        await until(over)


@pytest.mark.parametrize("field", ["id", "model", "created"])
async def test_identity(store, field):
    """The extra usage chunk repeats the identity of the first one. However deeply that is nested, the stream ends."""
    first = b'data: {"%b":%b,"choices":[{"index":0,"delta":{"content":"y"}}]}\n\n' % (field.encode(), nested(260))

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + first + STOP + b"data: [DONE]\n\n")
        await writer.drain()

    async with listening(serve) as port, in_process(f"http://127.0.0.1:{port}/v1", store=store, keys=KEYS) as gateway:
        body = completion("m", stream_options={"include_usage": True})
        answer = await call(gateway.root, "POST", "/v1/chat/completions", body, as_owner("mallory"))
        assert answer.events[-1].data == b"[DONE]"
        headers = {"Accept": "application/json", **as_owner("mallory")}
        state = (await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}", headers=headers)).json
        assert (state["state"], state["usage"]["measured"]) == ("complete", False)


ERRORS = {
    "param": b'{"error":{"message":"no","param":%b}}' % nested(260),
    "code": b'{"error":{"message":"no","code":%b}}' % nested(260),
    "type": b'{"error":{"message":"no","type":%b}}' % nested(260),
    "message": b'{"error":{"message":%b}}' % nested(260),
    "a number": b'{"error":{"message":"no","param":18446744073709551616,"code":1e400}}',
    "half a surrogate pair": b'{"error":{"message":"\\ud800","code":"\\ud800"}}',
}


@pytest.mark.parametrize("name", ERRORS)
async def test_error(store, name):
    """An error of the upstream that cannot be written still ends the stream, at once, as an error."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + token("x") + b"data: " + ERRORS[name] + b"\n\n")
        await writer.drain()

    async with listening(serve) as port, in_process(f"http://127.0.0.1:{port}/v1", store=store, keys=KEYS) as gateway:
        path = "/v1/chat/completions"
        answer = await call(gateway.root, "POST", path, completion("m"), as_owner("mallory"))
        assert answer.status == 200
        assert json.loads(answer.events[-1].data)["error"]["message"]
        headers = {"Accept": "application/json", **as_owner("mallory")}
        state = (await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}", headers=headers)).json
        assert state["state"] == "failed"
        assert state["error"] == json.loads(answer.events[-1].data)["error"]


@pytest.mark.parametrize("tries", [1, 2])
async def test_a_dialect_that_cannot_write_an_error(store, monkeypatch, tries):
    """The ending then says fixed words. If not even these can be written, the client is told so without an id."""
    written, left = ChatWriter.ending, [None] * tries

    def ending(self, facts, transcript):
        if left and facts.error is not None:
            left.pop()
            raise ValueError("\ud800")
        return written(self, facts, transcript)

    monkeypatch.setattr(ChatWriter, "ending", ending)

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + token("x") + b'data: {"error":{"message":"no"}}\n\n')
        await writer.drain()

    async with listening(serve) as port, in_process(f"http://127.0.0.1:{port}/v1", store=store, keys=KEYS) as gateway:
        path = "/v1/chat/completions"
        answer = await call(gateway.root, "POST", path, completion("m"), as_owner("mallory"))
        error = json.loads(answer.body.rstrip().rpartition(b"data: ")[2])["error"]
        assert error["code"] == ("upstream_garbage" if tries == 1 else "internal_error")
        assert (b"id: 2\n" in answer.body) == (tries == 1)
