"""Whatever a client sends: an OpenAI-shaped error with the right 4xx, one log line, no traceback, nothing left."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from gateway import InProcess, in_process, own_process
from provider import Provider
from structlog.testing import capture_logs
from wire import Answer, Client, call, completion, request

from server.api import connection as protocol
from server.api import requests
from server.telemetry.logs import LineLimit

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture(autouse=True)
async def nothing_left(gateway: InProcess) -> AsyncIterator[None]:
    """After each of these, no stream was made, none is live, and the gateway still answers."""
    yield
    await gateway.idle()
    assert (await call(gateway.root, "GET", "/v1/streams")).json["data"] == []


async def post(gateway: InProcess, body: object, headers: dict[str, str] | None = None) -> Answer:
    return await call(gateway.root, "POST", PATH, body, headers)


def check(answer: Answer, status: int, code: str | None = None) -> None:
    """The answer is this error, in OpenAI's shape, with the id of a request and of no stream."""
    error = answer.error
    assert answer.headers["x-request-id"]
    assert (answer.status, code or error["code"]) == (status, error["code"]), error
    assert error["type"] in ("invalid_request_error", "rate_limit_error")
    assert "x-stream-id" not in answer.headers
    assert "Traceback" not in answer.body.decode()


# --- bodies -----------------------------------------------------------------------------------------------------

NOT_JSON = {
    "empty": b"",
    "cut": b'{"model": "m", "messages": [',
    "words": b"hello",
    "two values": b"{} {}",
    "trailing comma": b'{"a": 1,}',
    "NaN": b'{"temperature": NaN}',
    "invalid UTF-8": b'{"model": "\xff\xfe"}',
    "overlong UTF-8": b'{"model": "\xc0\x80"}',
    "half a surrogate": b'{"model": "\\ud800"}',
    "NUL": b"\0",
    "UTF-16": '{"model": "m"}'.encode("utf-16"),
    "deep array": b"[" * 90_000,
    "deep object": b'{"a":' * 90_000 + b"1" + b"}" * 90_000,
    "deep, but closed": b"[" * 2000 + b"]" * 2000,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
async def test_not_json(gateway, body) -> None:
    """What is no JSON is 400 `invalid_json`."""
    check(await post(gateway, body), 400, "invalid_json")


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"true"])
async def test_not_an_object(gateway, body) -> None:
    """JSON that is no object is 400."""
    check(await post(gateway, body), 400, "invalid_json")


@pytest.mark.parametrize("depth", [250, 300, 500, 1000])
async def test_deep_unknown_field(gateway, model, depth) -> None:
    """JSON that can be read but not written again is 400 as well; what can be written goes upstream."""
    deep = b"[" * depth + b"]" * depth
    check(await post(gateway, b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":0,"deep":%b}' % deep), 400)
    if depth > 254:
        body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"deep":%b}' % deep
        check(await post(gateway, body), 400, "invalid_json")


WRONG = [
    ({"messages": MESSAGES}, "model"),
    ({"model": "", "messages": MESSAGES}, "model"),
    ({"model": 1, "messages": MESSAGES}, "model"),
    ({"model": "m\r\nX-Forged: 1", "messages": MESSAGES}, "model"),
    ({"model": "m\0", "messages": MESSAGES}, "model"),
    ({"model": "m" * 257, "messages": MESSAGES}, "model"),
    ({"model": "m"}, "messages"),
    ({"model": "m", "messages": []}, "messages"),
    ({"model": "m", "messages": {}}, "messages"),
    ({"model": "m", "messages": "x"}, "messages"),
    ({"model": "m", "messages": [1]}, "messages[0]"),
    ({"model": "m", "messages": [*MESSAGES, None]}, "messages[1]"),
    ({"model": "m", "messages": [{}]}, "messages[0].role"),
    ({"model": "m", "messages": [{"role": 1}]}, "messages[0].role"),
    ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"model": "m", "messages": [{"role": "x" * 10, "content": {"a": 1}}]}, "messages[0].content"),
    *(
        ({"model": "m", "messages": MESSAGES, name: value}, name)
        for name, values in {
            "n": [0, -1, 129, 1.5, "2", True, [1], 10**30],
            "stream": [1, "true", [], {}],
            "stream_options": [1, [], "x", True],
            "max_tokens": [0, -5, "1", 1.5, True],
            "max_completion_tokens": [0, "1"],
            "temperature": ["1", True, []],
            "tools": [{}, "x", 1],
            "stop": [1, {}],
            "user": [1],
            "response_format": ["json"],
            "logit_bias": [[]],
        }.items()
        for value in values
    ),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=lambda value: json.dumps(value)[:60])
async def test_wrong_value(gateway, body, param) -> None:
    """A missing or wrong field is 400, and `param` names it."""
    answer = await post(gateway, body)
    check(answer, 400)
    assert answer.error["param"] == param


@pytest.mark.parametrize(
    ("count", "status", "code"), [(10_000, 400, "array_above_max_length"), (100_000, 413, "request_too_large")]
)
async def test_too_many_messages(gateway, count, status, code) -> None:
    """Too many messages are refused, 100,000 of them unparsed: quickly, and nothing of them is in the answer."""
    began = time.monotonic()
    answer = await post(gateway, {"model": "m", "messages": MESSAGES * count})
    check(answer, status, code)
    assert time.monotonic() - began < 5
    assert len(answer.body) < 500


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "x"])
async def test_other_content_type(gateway, kind) -> None:
    """A body that does not call itself JSON is 415."""
    check(await post(gateway, {"model": "m"}, {"Content-Type": kind}), 415)


async def test_json_with_a_charset(gateway, model) -> None:
    """`application/json; charset=utf-8` is JSON."""
    check(await post(gateway, b"{}", {"Content-Type": "application/json; charset=utf-8"}), 400)


async def test_too_large(provider: Provider, gateway) -> None:
    """A body over the bound is 413: by its length before a byte of it is read, or when it has grown past it."""
    async with in_process(provider.url, server={"max_body_bytes": 100_000}) as small:
        check(await call(small.root, "POST", PATH, b"x" * 100_001), 413, "request_too_large")
        async with Client(small.root) as client:
            await client.send(request("POST", PATH, headers={"Content-Type": "application/json",
                                                             "Content-Length": "99999999999"}))  # fmt: skip
            check(await client.answer(), 413, "request_too_large")
        async with Client(small.root) as client:
            await client.send(request("POST", PATH, headers=CHUNKED))
            await client.send((b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 2)
            check(await client.answer(), 413, "request_too_large")


CHUNKED = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}


@pytest.fixture
def hurried(monkeypatch) -> None:
    """The limits of a body's time, as short as a test wants them."""
    monkeypatch.setattr(requests, "BODY_TIMEOUT", 0.3)
    monkeypatch.setattr(requests, "BODY_TOTAL", 1.0)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_half_a_body(gateway, hurried, framing) -> None:
    """A body that stops half way is 408, and the connection is closed."""
    async with Client(gateway.root) as client:
        if framing == "length":
            headers = {"Content-Type": "application/json", "Content-Length": "100"}
            await client.send(request("POST", PATH, headers=headers) + b'{"model": "m"')
        else:
            await client.send(request("POST", PATH, headers=CHUNKED) + b"d\r\n" + b'{"model": "m"' + b"\r\n")
        check(await client.answer(), 408, "request_timeout")
        await client.closed()


async def test_slow_body(gateway, hurried) -> None:
    """A body that trickles is 408 after all: every piece comes in time, but the whole does not."""
    async with Client(gateway.root) as client:
        await client.send(request("POST", PATH, headers={"Content-Type": "application/json", "Content-Length": "100"}))
        reading = asyncio.create_task(client.answer())
        for _ in range(50):
            if reading.done():
                break
            await client.send(b" ")
            await asyncio.sleep(0.05)
        check(await reading, 408, "request_timeout")


@pytest.mark.parametrize("how", ["fin", "rst", "half"])
async def test_gone_in_the_body(gateway, how) -> None:
    """A client that leaves in the middle of its body leaves nothing behind."""
    async with Client(gateway.root) as client:
        await client.send(request("POST", PATH, headers={"Content-Type": "application/json", "Content-Length": "100"}))
        await client.send(b'{"model"')
        await asyncio.sleep(0.05)
        client.leave(how)
        await client.closed()


# --- heads ------------------------------------------------------------------------------------------------------

NOT_HTTP = {
    "words": b"hello there\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a path that is no ASCII": b"GET /\xe9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an unknown method": b"BREW /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in a name": b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "no colon": b"GET /healthz HTTP/1.1\r\nHost localhost\r\n\r\n",
    "NUL in a value": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "a strange method": b"G@T /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a bad length": b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n" % PATH.encode(),
    "a negative length": b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n" % PATH.encode(),
    "two lengths": b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a strange coding": b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a long line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "a long name": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"a" * 20_000 + b": x\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    "bare LF in a name": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA\nB: c\r\n\r\n",
}


@pytest.mark.parametrize("head", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_not_http(gateway, head, monkeypatch) -> None:
    """What aiohttp's parser refuses is a 400 in OpenAI's shape, one log line, and the connection is closed."""
    monkeypatch.setattr(protocol, "BAD_REQUESTS", LineLimit(10))  # the other tests' lines do not count here
    async with Client(gateway.root) as client:
        with capture_logs() as logs:
            await client.send(head)
            answer = await client.answer()
            await client.closed()
        check(answer, 400, "bad_http")
        assert len(logs) == 1
        assert len(answer.body) < 500


async def flood(client: Client) -> None:
    """Send 200 MB of headers."""
    for number in range(200_000):
        await client.send(b"X-%d: %b\r\n" % (number, b"a" * 1000))


async def test_header_flood(gateway) -> None:
    """A head that never ends is refused when it is too long, not kept."""
    async with Client(gateway.root) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(ConnectionError):
            await flood(client)


async def test_bad_chunks(gateway) -> None:
    """A chunked body that is none is 400."""
    async with Client(gateway.root) as client:
        await client.send(request("POST", PATH, headers=CHUNKED) + b"zz\r\nhello\r\n")
        answer = await client.answer()
        assert answer.status == 400
        assert answer.error["code"] in ("bad_http", "invalid_body")


async def test_slow_head(gateway, monkeypatch) -> None:
    """A connection that sends no whole request in time is closed, whether it is silent or trickles."""
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT", 0.4)
    async with Client(gateway.root) as silent, Client(gateway.root) as trickling:
        await trickling.send(b"GET /healthz HTTP/1.1\r\nX: ")
        assert await silent.closed() == b""
        assert await trickling.closed() == b""


async def test_answer_before_the_body(gateway, monkeypatch) -> None:
    """Pipelined requests are answered one after the other, errors too."""
    async with Client(gateway.root) as client:
        await client.send(request("GET", "/v1/nope") + request("POST", PATH, b"x") + request("GET", "/healthz"))
        assert [(await client.answer()).status for _ in range(3)] == [404, 400, 200]


# --- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/completion", "/v1/batches", "/v1/", "/v1/chat/completions/", "/nope", "//",
                                  "/v1/streams/", "/v1/%2e%2e/etc", "/%00", "/v1/chat%2fcompletions"])  # fmt: skip
async def test_unknown_path(gateway, path) -> None:
    """Another path is 404, and it names what is served."""
    async with Client(gateway.root) as client:
        await client.ask("GET", path)
        answer = await client.answer()
    check(answer, 404)
    if path != "/v1/streams/":
        assert PATH in answer.error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", PATH), ("PUT", PATH), ("DELETE", PATH), ("POST", "/v1/models"), ("POST", "/v1/streams/x"),
     ("DELETE", "/healthz"), ("HEAD", PATH), ("PATCH", "/v1/streams")],
)  # fmt: skip
async def test_unknown_method(gateway, method, path) -> None:
    """Another method on a path that is served is 405 with `Allow`."""
    async with Client(gateway.root) as client:
        await client.ask(method, path, b"{}" if method != "HEAD" else None)
        status, headers = await client.head()
        assert (status, bool(headers["allow"])) == (405, True)


# --- nothing in the log but one line ----------------------------------------------------------------------------


def bad_requests() -> Iterator[bytes]:
    """One of everything."""
    yield from NOT_HTTP.values()
    yield from (request("POST", PATH, body) for body in NOT_JSON.values() if len(body) < 10_000)
    yield from (request("POST", PATH, body) for body, _ in WRONG)
    yield request("POST", PATH, b"x" * 9_000_000)
    yield request("GET", "/nope")
    yield request("PUT", PATH)
    yield request("GET", "/v1/models", headers={"Host": "evil.example"})
    yield request("GET", "/v1/streams/x?after=x")


async def test_log_of_bad_input(provider: Provider, model) -> None:
    """In the process that users run: no traceback, no library's own words, at most one line for each request."""
    async with own_process(provider.url) as gateway:
        count = 0
        for raw in bad_requests():
            count += 1
            async with Client(gateway.root) as client:
                await client.send(raw)
                status, _ = await client.head()
                assert 400 <= status < 500, raw[:80]
        answer = await call(gateway.root, "POST", PATH, completion(model))
        assert answer.status == 200
    assert not [line for line in gateway.lines if isinstance(line, str)], "not JSON"
    assert all("exception" not in line and line["level"] in ("info", "warning") for line in gateway.lines)
    assert len(gateway.lines) <= count + 4


async def test_open_and_silent(provider: Provider) -> None:
    """A thousand connections that say nothing do not keep others out."""
    async with in_process(provider.url) as gateway:
        opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(1000)))
        assert (await call(gateway.root, "GET", "/healthz")).status == 200
        for _, writer in opened:
            writer.close()


async def test_host_and_origin(gateway) -> None:
    """A keyless gateway is for this machine: a foreign Host or Origin is 403."""
    for headers in ({"Host": "evil.example"}, {"Host": "evil.example:8080"}, {"Host": ""}, {"Host": "["},
                    {"Origin": "https://evil.example"}, {"Origin": "null"}):  # fmt: skip
        answer = await call(gateway.root, "GET", "/v1/models", headers=headers)
        assert answer.status in (400, 403), headers
        assert answer.error["code"] in ("forbidden_host", "forbidden_origin", "bad_http")
    for host in ("localhost", "127.0.0.1:1", "[::1]:8080"):
        assert (await call(gateway.root, "GET", "/v1/models", headers={"Host": host})).status == 200
