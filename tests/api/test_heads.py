"""Heads that HTTP does not allow, or that could be understood in two ways, byte by byte, through a running gateway."""

import hashlib
from contextlib import suppress

import orjson
import pytest
from gateway import in_process
from wire import Client, call, completion, request

PATH = "/v1/chat/completions"
KEY = hashlib.sha256(b"token").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
async def guarded(provider):
    """A gateway with two keys."""
    keys = [{"name": "one", "sha256": KEY}, {"name": "two", "sha256": OTHER}]
    async with in_process(provider.url, keys=keys) as running:
        yield running


async def raw(root: str, head: str, body: bytes = b""):
    """Send a head as it stands."""
    async with Client(root) as client:
        await client.send(head.encode("latin-1") + b"\r\n\r\n" + body)
        return await client.answer()


BAD_HEADS = {
    "two keys": ("Authorization: Bearer token\r\nAuthorization: Bearer token", 400, "duplicate_header"),
    "two x-api-key": ("x-api-key: token\r\nX-API-KEY: other", 400, "duplicate_header"),
    "two origins": ("Authorization: Bearer token\r\nOrigin: http://a\r\nOrigin: http://b", 400, "duplicate_header"),
    "two cursors": ("Authorization: Bearer token\r\nLast-Event-ID: 1\r\nLast-Event-ID: 2", 400, "duplicate_header"),
    "two types": (
        "Authorization: Bearer token\r\nContent-Type: text/plain\r\nContent-Type: application/json",
        400,
        "bad_http",  # aiohttp's parser knows this one itself
    ),
    "a coding before chunked": ("Authorization: Bearer token\r\nTransfer-Encoding: x, chunked", 501, None),
    "gzip before chunked": ("Authorization: Bearer token\r\nTransfer-Encoding: gzip, chunked", 501, None),
    "an unknown coding": ("Authorization: Bearer token\r\nContent-Encoding: x", 415, "unsupported_content_encoding"),
    "two codings": ("Authorization: Bearer token\r\nContent-Encoding: gzip, gzip", 415, "unsupported_content_encoding"),
}


@pytest.mark.parametrize("kind", BAD_HEADS)
async def test_bad_head(guarded, kind) -> None:
    """Each is refused, whatever follows, and never served with one of two meanings."""
    lines, status, code = BAD_HEADS[kind]
    length = "" if "Transfer-Encoding" in lines else "\r\nContent-Length: 2"
    body = b"2\r\n{}\r\n0\r\n\r\n" if "Transfer-Encoding" in lines else b"{}"
    answer = await raw(guarded.root, f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{lines}{length}", body)
    assert answer.status in ((400, status) if status == 501 else (status,))
    if code is not None:
        assert answer.error["code"] == code


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9", "HTTP/1.2"])
async def test_version(guarded, version) -> None:
    """A request of another version than 1.0 and 1.1 is refused."""
    answer = await raw(guarded.root, f"GET /healthz {version}\r\nHost: localhost")
    assert answer.status in (400, 505)


HOSTS = {
    "localhost": 200,
    "localhost:8080": 200,
    "LOCALHOST": 200,
    "127.0.0.1": 200,
    "127.9.9.9:1": 200,
    "[::1]": 200,
    "[::1]:8080": 200,
    "localhost:evil": 403,
    "localhost:": 403,
    "localhost:80:80": 403,
    "a@localhost": 403,
    "a:b@localhost": 403,
    "localhost/": 403,
    "localhost?": 403,
    "localhost#": 403,
    "localhost evil": 403,
    "localhost,evil": 403,
    "evil": 403,
    "localhost.evil": 403,
    "[::1": 403,
    "[evil]": 403,
    "": 403,
}


@pytest.mark.parametrize("host", HOSTS)
async def test_host(gateway, host) -> None:
    """Without keys the Host is a loopback name or address with a port or without, and nothing that only contains it."""
    answer = await raw(gateway.root, f"GET /v1/models HTTP/1.1\r\nHost: {host}")
    assert answer.status in ((400, 403) if HOSTS[host] == 403 else (200,))


SENT = {
    "Bearer": ({"Authorization": "Bearer token"}, 200),
    "x-api-key": ({"x-api-key": "token"}, 200),
    "api-key": ({"api-key": "token"}, 200),
    "all three": ({"Authorization": "bearer token", "x-api-key": "token", "api-key": "token"}, 200),
    "one of two is wrong": ({"Authorization": "Bearer token", "x-api-key": "wrong"}, 401),
    "two valid ones": ({"Authorization": "Bearer token", "api-key": "other"}, 401),
    "one of two is empty": ({"Authorization": "Bearer token", "x-api-key": ""}, 401),
    "another scheme beside it": ({"Authorization": "Basic token", "api-key": "token"}, 401),
    "none": ({}, 401),
}


@pytest.mark.parametrize("how", SENT)
async def test_key(guarded, how) -> None:
    """A key may come in three headers, and all that are sent must be the same."""
    headers, status = SENT[how]
    assert (await call(guarded.root, "GET", "/v1/models", headers=headers)).status == status


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("POST", "/v1/files", b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}),
        ("POST", "/v1/nothing", b"{", {}),
        ("GET", "/v1/nothing", None, {}),
        ("DELETE", "/v1/nothing/at/all", None, {}),
        ("POST", "/v1/responses/compact", b"{", {}),
        ("POST", "/v1/responses/input_tokens", b"{}", {"Content-Type": "application/json"}),
        ("GET", "/v1/responses/compact", None, {}),
    ],
)
async def test_unknown_endpoint(gateway, method, path, body, headers) -> None:
    """A path of `/v1` that is not served is 404, names what is, and looks at no body."""
    answer = await call(gateway.root, method, path, body, headers)
    assert (answer.status, answer.error["code"]) == (404, "unknown_endpoint")
    assert PATH in answer.error["message"]


async def test_keyless(gateway, model) -> None:
    """Without keys a POST that is not JSON is refused, and so is one of another site's page."""
    answer = await call(gateway.root, "POST", PATH, b"{}", {"Content-Type": "text/plain"})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_media_type")
    answer = await call(gateway.root, "POST", PATH, completion(model), {"Origin": "https://evil.example"})
    assert (answer.status, answer.error["code"]) == (403, "forbidden_origin")


async def test_nothing_is_cached(gateway, model) -> None:
    """No cache keeps a JSON answer, be it a list, an answer of a model, or an error."""
    whole = completion(model, stream=False)
    for method, path, body in (
        ("GET", "/v1/streams", None),
        ("GET", "/v1/models", None),
        ("POST", PATH, whole),
        ("POST", PATH, {}),
        ("GET", "/v1/nothing", None),
    ):
        answer = await call(gateway.root, method, path, body)
        assert answer.headers["cache-control"] == "no-store", path
    answer = await raw(gateway.root, "GET / HTTP/1.1\r\nHost: a\r\n: no name")
    assert (answer.status, answer.headers["cache-control"]) == (400, "no-store")


async def test_deep_arguments(provider, gateway, model) -> None:
    """A model's call with arguments nested 300 deep has an error instead of arguments, and its stream ends as usual."""
    deep = "[" * 300 + "]" * 300
    for arguments in (deep, '{"x":' + deep + "}"):
        name = f"{model}-{len(arguments)}"
        script = {"tool_calls": [{"index": 0, "id": "c1", "name": "f", "arguments": arguments}], "tool_piece": 1000}
        await provider.script(name, script)
        answer = await call(gateway.root, "POST", "/api/stream", completion(name))
        events = {event.event: orjson.loads(event.data) for event in answer.events}
        assert "nested too deeply" in events["tool_call"]["error"]
        assert events["done"]["status"] == "complete"


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_pipelined_behind_a_stream(provider, gateway, model, when) -> None:
    """Requests behind a stream, so many that the client could not be seen to leave: its connection is closed."""
    await provider.script(model, {"stall_after": 1})
    flood = request("GET", "/v1/models") * 8000  # 400 KB
    async with Client(gateway.root) as client:
        if when == "at once":
            await client.send(request("POST", PATH, completion(model)) + flood)
        else:
            await client.complete(model)
            await client.head()
            await client.events(1)
            with suppress(ConnectionError):
                await client.send(flood)
        await client.closed()
    await gateway.idle()
    [listed] = (await call(gateway.root, "GET", "/v1/streams")).json["data"]
    assert listed["state"] == "cancelled"


async def test_a_few_pipelined_requests(provider, gateway, model) -> None:
    """A few requests behind a stream are answered after it, in order."""
    await provider.script(model, {"tokens": 3})
    async with Client(gateway.root) as client:
        await client.send(request("POST", PATH, completion(model)) + request("GET", "/v1/models") * 5)
        await client.head()
        assert (await client.rest())[-1].data == b"[DONE]"
        assert [(await client.answer()).status for _ in range(5)] == [200] * 5
