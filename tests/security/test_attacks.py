"""Attacks on a running gateway: authentication, streams of other owners, and smuggled requests.

By OWASP's API Security Top 10 (2023): API1 object level: test_foreign_stream; API2 authentication: test_wrong_key,
test_guessing; API3 properties and API9 inventory: test_inventory.py; API4 consumption: test_exhaustion.py and the
limits here; API5 function level: test_the_list_is_the_owners; API6 flows: test_an_idempotency_key_is_the_owners; API7
SSRF: test_no_request_goes_elsewhere, test_redirect; API8 misconfiguration: test_browsers.py, test_no_versions; API10
unsafe consumption of upstreams: test_hostile_upstream.py, test_secrets.py. Malformed HTTP is also in
tests/api/test_bad_input.py.
"""

import asyncio
import hashlib
import hmac
import itertools
import re
import time

import pytest
from gateway import in_process, own_process
from wire import Client, call, complete, completion, request, texts, until

TOKENS = {"alice": "alice-token-0123456789", "bob": "bob-token-0123456789", "root": "root-token-0123456789"}
JSON = {"Accept": "application/json"}


def key(name: str, **limits) -> dict:
    return {"name": name, "sha256": hashlib.sha256(TOKENS[name].encode()).hexdigest(), **limits}


def bearer(name: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[name]}", **headers}


@pytest.fixture
async def guarded(provider):
    """A gateway with two owners and an admin."""
    async with in_process(provider.url, keys=[key("alice"), key("bob"), key("root", admin=True)]) as running:
        yield running


async def stream_of(gateway, model, name, **headers) -> str:
    answer = await complete(gateway.root, model, headers=bearer(name, **headers))
    assert answer.status == 200
    return answer.headers["x-stream-id"]


# --- keys ----------------------------------------------------------------------------------------------------------

WRONG_KEYS = {
    "none": {},
    "empty": {"Authorization": ""},
    "scheme only": {"Authorization": "Bearer"},
    "empty token": {"Authorization": "Bearer  "},
    "another scheme": {"Authorization": f"Basic {TOKENS['alice']}"},
    "no scheme": {"Authorization": TOKENS["alice"]},
    "the hash": {"Authorization": f"Bearer {hashlib.sha256(TOKENS['alice'].encode()).hexdigest()}"},
    "a prefix": {"Authorization": f"Bearer {TOKENS['alice'][:-1]}"},
    "one byte more": {"Authorization": f"Bearer {TOKENS['alice']}x"},
    "the name": {"Authorization": "Bearer alice"},
    "not ASCII": {"Authorization": "Bearer \xff\xfe"},
    "another header": {"X-Key": TOKENS["alice"]},
    "two that differ": {"Authorization": f"Bearer {TOKENS['alice']}", "X-Api-Key": TOKENS["bob"]},
}
GUARDED = [
    ("GET", "/v1/models"), ("GET", "/v1/streams"), ("GET", "/v1/streams/strm_x"), ("DELETE", "/v1/streams/strm_x"),
    ("POST", "/api/stream"), ("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/api/stats"),
    ("GET", "/nope"), ("PUT", "/v1/models"), ("OPTIONS", "/v1/models"), ("TRACE", "/v1/models"),
    ("GET", "//v1/models"), ("GET", "/v1/models?/static/"), ("GET", "/%2fstatic/"), ("GET", "/Static/console.js"),
]  # fmt: skip


@pytest.mark.parametrize("name", WRONG_KEYS)
async def test_wrong_key(guarded, provider, model, name) -> None:
    """Only the token gives access. A request without it reaches no upstream."""
    answer = await complete(guarded.root, model, headers=WRONG_KEYS[name])
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert "x-stream-id" not in answer.headers
    assert not await provider.seen(model)


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_no_path_without_a_key(guarded, method, path) -> None:
    """Every path and method demands the key before it says anything, even that it does not exist."""
    answer = await call(guarded.root, method, path, {} if method in ("POST", "PUT") else None)
    assert answer.status == 401


async def test_open_paths(guarded) -> None:
    """Without a key there are the health checks and the console's files, and nothing else is reached through them."""
    for path in ("/healthz", "/readyz", "/", "/static/console.js"):
        assert (await call(guarded.root, "GET", path)).status == 200
    for path in BESIDE:
        assert (await call(guarded.root, "GET", path)).status in (401, 404)


BESIDE = [
    "/static/..%2fconfig.py", "/static/%2e%2e/config.py", "/static/..", "/static/../../setup.cfg",
    "/static//etc/passwd", "/static/../v1/models", "/static/%2e%2e/v1/models", "/static/%2fetc%2fpasswd",
    "/static/.%00",
]  # fmt: skip


async def test_comparing_takes_the_same_time(guarded, model, monkeypatch) -> None:
    """Every token is compared with every key by hmac.compare_digest, hit or miss, first or last."""
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(len(a) == len(b)) or compare(a, b))
    for headers in (bearer("alice"), bearer("root"), {"Authorization": "Bearer x"}, {}):
        compared.clear()
        await call(guarded.root, "GET", "/v1/models", headers=headers)
        assert compared == [True] * 3


async def test_requests_a_minute(provider) -> None:
    """Above its requests per minute a key gets 429 with Retry-After. Requests with other keys do not count."""
    async with in_process(provider.url, keys=[key("alice", requests_per_minute=3), key("bob")]) as gateway:
        for _ in range(10):
            assert (await call(gateway.root, "GET", "/v1/models")).status == 401
        answers = [await call(gateway.root, "GET", "/v1/models", headers=bearer("alice")) for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[3].error["code"] == "rate_limit_exceeded"
        assert 1 <= int(answers[3].headers["retry-after"]) <= 60
        assert (await call(gateway.root, "GET", "/v1/models", headers=bearer("bob"))).status == 200


async def test_streams_of_a_key(provider, model) -> None:
    """Above its live streams a key gets 429 with Retry-After. Another key does not. A stream that ends makes room."""
    await provider.script(model, {"stall_after": 1}, {})
    async with in_process(provider.url, keys=[key("alice", max_streams=1), key("bob")]) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model, headers=bearer("alice"))
            await client.head()
            answer = await complete(gateway.root, model, headers=bearer("alice"))
            assert (answer.status, answer.error["code"]) == (429, "too_many_streams")
            assert int(answer.headers["retry-after"]) >= 1
            assert (await complete(gateway.root, model, headers=bearer("bob"))).status == 200
        await gateway.idle()
        assert (await complete(gateway.root, model, headers=bearer("alice"))).status == 200


# --- whose is what -------------------------------------------------------------------------------------------------


async def test_foreign_stream(guarded, provider, model) -> None:
    """Another owner's stream is 404 on every path, with the same body as a stream that never existed."""
    await provider.script(model, {"stall_after": 2})
    async with Client(guarded.root) as client:
        await client.complete(model, headers=bearer("alice"))
        _, headers = await client.head()
        stream, nobodys = headers["x-stream-id"], f"strm_{'A' * 24}"
        for method, path, body, more in (
            ("GET", "/v1/streams/{}", None, {}),
            ("GET", "/v1/streams/{}", None, JSON),
            ("GET", "/v1/streams/{}?after=1", None, {}),
            ("GET", "/v1/streams/{}", None, {"Last-Event-ID": "1"}),
            ("DELETE", "/v1/streams/{}", None, {}),
            ("POST", "/api/stream", {"session_id": "{}", "last_event_id": 0}, {}),
        ):
            answers = []
            for target in (stream, nobodys):
                asked = body and {**body, "session_id": target}
                answers.append(
                    await call(guarded.root, method, path.format(target), asked, headers=bearer("bob", **more))
                )
            assert [answer.status for answer in answers] == [404, 404]
            assert answers[0].body == answers[1].body
        state = await call(guarded.root, "GET", f"/v1/streams/{stream}", headers=bearer("alice", **JSON))
        assert state.json["state"] == "streaming"  # bob's DELETE has done nothing


async def test_the_list_is_the_owners(guarded, model) -> None:
    """An owner's list has its own streams only; the admin's has all, and the admin may read and abort them."""
    mine, other = await stream_of(guarded, model, "alice"), await stream_of(guarded, model, "bob")

    async def listed(name: str) -> set[str]:
        answer = await call(guarded.root, "GET", "/v1/streams", headers=bearer(name))
        return {one["id"] for one in answer.json["data"]}

    assert (await listed("alice"), await listed("bob")) == ({mine}, {other})
    assert {mine, other} <= await listed("root")
    assert (await call(guarded.root, "GET", f"/v1/streams/{mine}", headers=bearer("root"))).status == 200
    assert (await call(guarded.root, "DELETE", f"/v1/streams/{mine}", headers=bearer("root"))).status == 204


async def test_an_idempotency_key_is_the_owners(guarded, provider, model) -> None:
    """With another owner's Idempotency-Key a client begins its own stream, and does not learn of the other one."""
    mine = await stream_of(guarded, model, "alice", **{"Idempotency-Key": "same"})
    other = await stream_of(guarded, model, "bob", **{"Idempotency-Key": "same"})
    assert mine != other
    assert len(await provider.seen(model)) == 2


async def test_guessing(guarded, model) -> None:
    """Ids are 144 random bits: none repeats, and no two share more than their prefix by more than chance."""
    ids = [await stream_of(guarded, model, "alice") for _ in range(40)]
    assert all(re.fullmatch(r"strm_[A-Za-z0-9_-]{24}", one) for one in ids)
    assert len(set(ids)) == 40
    random = sorted(one.removeprefix("strm_") for one in ids)
    assert all(a[:6] != b[:6] for a, b in itertools.pairwise(random))  # 36 bits: one in 10^8


# --- what a request can smuggle in ---------------------------------------------------------------------------------

BODY = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
SMUGGLED = b"GET /v1/streams HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SMUGGLING = {
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + SMUGGLED,
    "a list of lengths": HEAD + b"Content-Length: 2, 60\r\n\r\n{}" + SMUGGLED,
    "signed length": HEAD + b"Content-Length: +2\r\n\r\n{}" + SMUGGLED,
    "chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "disguised chunks": HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "folded": HEAD + b"Content-Length: 2\r\nTransfer-Encoding:\r\n chunked\r\n\r\n{}" + SMUGGLED,
    "bare line feed": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\r\rX: y\n\n{}" + SMUGGLED,
    "chunk size with a sign": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("name", SMUGGLING)
async def test_smuggling(gateway, name) -> None:
    """A request whose end is ambiguous is refused, and nothing after it is read."""
    async with Client(gateway.root) as client:
        await client.send(SMUGGLING[name])
        data = await client.closed()
    assert re.match(rb"HTTP/1\.[01] 400 ", data)
    assert data.count(b"HTTP/1.") == 1


@pytest.mark.parametrize("given", ["a\tb", "a b", "<script>", "x" * 129, "\xe4", "a\x0bb", "a;b", "{}"])
async def test_request_id_is_sane(gateway, model, given) -> None:
    """A request id that could forge a log line or a header is replaced, also on a stream."""
    for answer in (
        await complete(gateway.root, model, headers={"X-Request-Id": given}),
        await call(gateway.root, "GET", "/nope", headers={"X-Request-Id": given}),
    ):
        assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"])
    assert (await call(gateway.root, "GET", "/nope", headers={"X-Request-Id": "ok-1"})).headers[
        "x-request-id"
    ] == "ok-1"


async def test_reason_is_text(gateway, provider, model) -> None:
    """The reason of an abort may say anything: it forges neither an event nor a header."""
    await provider.script(model, {"stall_after": 1})
    async with Client(gateway.root) as client:
        await client.complete(model)
        _, headers = await client.head()
        reason = "x%0d%0aX-Evil:%201%0d%0a%0d%0aid:%209%0adata:%20forged%0a%0a" + "y" * 500
        await call(gateway.root, "DELETE", f"/v1/streams/{headers['x-stream-id']}?reason={reason}")
        events = await client.rest()  # raises at any byte that is no frame of ours
    assert b"forged" in events[-1].data
    assert len(events[-1].data) < 600


async def test_no_request_goes_elsewhere(gateway, provider, model) -> None:
    """Nothing in a request decides where the gateway connects to: no field, header, absolute URL or model name."""
    server = await asyncio.start_server(lambda _reader, writer: hits.append(1) or writer.close(), "127.0.0.1", 0)
    hits: list[int] = []
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        fields = dict.fromkeys(("base_url", "api_base", "proxy", "url", "endpoint", "webhook", "callback_url"), url)
        headers = dict.fromkeys(("X-Upstream", "X-Forwarded-Host", "Forwarded", "X-Original-URL", "X-Base-Url"), url)
        content = [{"type": "image_url", "image_url": {"url": url}}]
        messages = [{"role": "user", "content": content}]
        body = completion(model, **{"messages": messages, **fields})
        assert (await call(gateway.root, "POST", "/v1/chat/completions", body, headers)).status == 200
        for name in (url, f"{url}/{model}", f"//{url[7:]}/x", "../../admin", "local/../x"):
            assert (await complete(gateway.root, name)).status == 200  # a name like any other, for the one upstream
        async with Client(gateway.root) as client:
            await client.send(request("GET", f"{url}/v1/models", headers={"Host": "127.0.0.1"}))
            await client.answer()
    assert not hits
    [seen] = await provider.seen(model)
    assert "x-forwarded-host" not in seen["headers"]


async def test_redirect(gateway, provider, model) -> None:
    """An upstream that redirects is a failed upstream: its Location is not followed."""
    await provider.script(f"{model}-2", {})
    await provider.script(model, {"status": 307, "headers": {"Location": f"{provider.url}/chat/completions"}})
    answer = await complete(gateway.root, model)
    assert answer.status == 502
    assert len(await provider.seen(model)) == 1


async def test_client_headers_stay_here(provider, model) -> None:
    """Of a client's headers only the trace goes upstream: no key, cookie or address."""
    async with in_process(provider.url, keys=[key("alice")]) as gateway:
        sent = {"Cookie": "a=canary", "X-Api-Key": TOKENS["alice"], "Referer": "http://canary",
                "X-Forwarded-For": "canary", "Proxy-Authorization": "canary", "OpenAI-Organization": "canary",
                "traceparent": "00-ab-cd-01"}  # fmt: skip
        await complete(gateway.root, model, headers=bearer("alice", **sent))
    [seen] = await provider.seen(model)
    assert "canary" not in str(seen["headers"])
    assert TOKENS["alice"] not in str(seen["headers"])
    assert seen["headers"]["traceparent"] == "00-ab-cd-01"


async def test_no_versions(gateway, model) -> None:
    """No response names the software that made it."""
    async with Client(gateway.root) as client:
        await client.send(b"NONSENSE\r\n\r\n")
        answers = [await client.answer()]
    answers += [await complete(gateway.root, model), await call(gateway.root, "GET", "/nope")]
    answers += [await call(gateway.root, "GET", path) for path in ("/", "/healthz", "/metrics")]
    for answer in answers:
        said = " ".join(answer.headers.values()).lower()
        assert "aiohttp" not in said
        assert "python" not in said
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_others_are_not_slowed(provider, model) -> None:
    """While one key sends requests above its limit as fast as it can, another key's stream gets every token in time."""
    await provider.script(model, {"tokens": 40, "rate": 40})
    async with own_process(provider.url, keys=[key("alice", requests_per_minute=1), key("bob")]) as gateway:
        reading = asyncio.create_task(complete(gateway.root, model, headers=bearer("bob")))
        started = time.monotonic()
        refused = 0
        while not reading.done():
            answer = await call(gateway.root, "GET", "/v1/models", headers=bearer("alice"))
            refused += answer.status == 429
        assert len(texts((await reading).events)) == 40
        assert refused > 10
        assert time.monotonic() - started < 10
        await until(lambda: asyncio.sleep(0, gateway.logged("stream ended")))
