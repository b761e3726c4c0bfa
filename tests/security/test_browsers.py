"""Web pages as attackers: other sites, rebound names, and what CORS lets through where it is configured."""

import hashlib

import pytest
from gateway import in_process
from wire import Client, call, complete, completion, request

PATH = "/v1/chat/completions"
PAGE = "https://chat.example"
KEYS = [{"name": "web", "sha256": hashlib.sha256(b"token").hexdigest()}]
BEARER = {"Authorization": "Bearer token"}
ASKED = "authorization,content-type,last-event-id,x-on-disconnect,x-stainless-lang"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ASKED}


def allowed(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("keys", [[], KEYS])
async def test_off_by_default(provider, model, keys) -> None:
    """Without CORS configured no response can be read by another site: no preflight, answer or error."""
    async with in_process(provider.url, keys=keys) as gateway:
        for method, path, body in (
            ("OPTIONS", PATH, None),
            ("POST", PATH, completion(model)),
            ("GET", "/healthz", None),
        ):
            headers = {"Origin": PAGE, **BEARER, **(PREFLIGHT if method == "OPTIONS" else {})}
            answer = await call(gateway.root, method, path, body, headers)
            assert allowed(answer.headers) == {}
        if not keys:
            assert not await provider.seen(model)  # without keys it is not even asked


@pytest.mark.parametrize("keys", [[], KEYS])
async def test_a_configured_origin(provider, model, keys) -> None:
    """A page of a configured origin may ask with every header an SDK sends, and read stream, ids and errors."""
    async with in_process(provider.url, keys=keys, server={"cors_origins": [PAGE]}) as gateway:
        answer = await call(gateway.root, "OPTIONS", PATH, headers={"Origin": PAGE, **PREFLIGHT})
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-allow-headers"] == ASKED
        assert {"GET", "POST", "DELETE"} == set(answer.headers["access-control-allow-methods"].split(", "))
        assert "access-control-allow-credentials" not in answer.headers
        for answer in (
            await complete(gateway.root, model, headers={"Origin": PAGE, **BEARER}),
            await call(gateway.root, "GET", "/nope", headers={"Origin": PAGE, **BEARER}),
            await call(gateway.root, "POST", PATH, {}, headers={"Origin": PAGE, **BEARER}),
        ):
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "Origin" in answer.headers["vary"]
            assert "X-Stream-Id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin",
    ["https://chat.example.evil", "https://evil-chat.example", "http://chat.example", "https://chat.example:444",
     "null", "https://CHAT.example", "https://chat.example/", "https://chat.example, https://evil", ""],
)  # fmt: skip
@pytest.mark.parametrize("keys", [[], KEYS])
async def test_an_origin_is_exact(provider, model, origin, keys) -> None:
    """An origin that only resembles a configured one is refused."""
    async with in_process(provider.url, keys=keys, server={"cors_origins": [PAGE]}) as gateway:
        answer = await call(gateway.root, "OPTIONS", PATH, headers={"Origin": origin, **PREFLIGHT})
        assert (answer.status, allowed(answer.headers)) == (403, {})
        answer = await complete(gateway.root, model, headers={"Origin": origin, **BEARER})
        assert allowed(answer.headers) == {}
        assert answer.status == (200 if keys else 403)
        assert "Origin" in answer.headers["vary"]  # what a cache keeps of this is not for the page


async def test_any_origin(provider, model) -> None:
    """With "*" any page that has a key may ask. Cookies are never allowed."""
    async with in_process(provider.url, keys=KEYS, server={"cors_origins": ["*"]}) as gateway:
        answer = await complete(gateway.root, model, headers={"Origin": "https://any.example", **BEARER})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert (await complete(gateway.root, model, headers={"Origin": "https://any.example"})).status == 401
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_preflight_is_no_way_in(provider) -> None:
    """What looks like a preflight gets its answer and nothing else: no path is run, no header is made up."""
    async with in_process(provider.url, keys=KEYS, server={"cors_origins": [PAGE]}) as gateway:
        for method in ("GET", "POST", "DELETE"):
            answer = await call(gateway.root, method, "/v1/streams/x", headers={"Origin": PAGE, **PREFLIGHT})
            assert answer.status == 401
        headers = {"Origin": PAGE, **PREFLIGHT, "Access-Control-Request-Headers": "a: b"}
        answer = await call(gateway.root, "OPTIONS", PATH, headers=headers)
        assert "access-control-allow-headers" not in answer.headers


REBOUND = [
    "evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", "169.254.1.1",
    "127.0.0.1@evil.example", "[::ffff:8.8.8.8]", "evil.example#localhost", "2130706433.evil", "",
]  # fmt: skip


@pytest.mark.parametrize("host", REBOUND)
async def test_dns_rebinding(gateway, provider, model, host) -> None:
    """A page whose name was rebound to this machine still sends its name: without keys it gets nothing."""
    for headers in ({"Host": host}, {"Host": host, "Origin": f"http://{host}"}):
        answer = await complete(gateway.root, model, headers=headers)
        assert answer.status in (400, 403)
        assert (await call(gateway.root, "GET", "/v1/streams", headers=headers)).status in (400, 403)
    assert not await provider.seen(model)


async def test_two_hosts(gateway) -> None:
    """A second Host header does not get around the check of the first."""
    async with Client(gateway.root) as client:
        await client.send(b"GET /v1/streams HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert (await client.answer()).status == 400


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
async def test_a_form_of_another_site(gateway, provider, model, kind) -> None:
    """A request that a page can send without a preflight is refused, by its origin and by its content type."""
    for origin in ({"Origin": "https://evil.example"}, {}):
        headers = {"Content-Type": kind, **origin}
        answer = await call(gateway.root, "POST", PATH, completion(model), headers)
        assert answer.status in (403, 415)
        answer = await call(gateway.root, "POST", "/api/stream", completion(model), headers)
        assert answer.status in (403, 415)
    assert not await provider.seen(model)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://127.0.0.1:1"])
async def test_a_page_may_not_abort(gateway, provider, model, origin) -> None:
    """Another site's page, also one from another port of this machine, cannot read or stop a stream it has heard of."""
    await provider.script(model, {"stall_after": 1})
    async with Client(gateway.root) as client:
        await client.complete(model)
        _, headers = await client.head()
        path = f"/v1/streams/{headers['x-stream-id']}"
        for method in ("GET", "DELETE"):
            assert (await call(gateway.root, method, path, headers={"Origin": origin})).status == 403
        state = await call(gateway.root, "GET", path, headers={"Accept": "application/json"})
        assert state.json["state"] == "streaming"


async def test_its_own_page(gateway, model) -> None:
    """The console's own requests are let in."""
    answer = await complete(gateway.root, model, headers={"Origin": gateway.root})
    assert answer.status == 200


async def test_the_console_in_a_frame(gateway) -> None:
    """The console can neither be framed nor run a script that slipped into an answer."""
    answer = await call(gateway.root, "GET", "/")
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_pipelining_behind_a_preflight(provider) -> None:
    """A request behind a preflight on the same connection is judged by itself."""
    running = in_process(provider.url, keys=KEYS, server={"cors_origins": [PAGE]})
    async with running as gateway, Client(gateway.root) as client:
        preflight = request("OPTIONS", PATH, headers={"Origin": PAGE, **PREFLIGHT})
        await client.send(preflight + request("GET", "/v1/streams", headers={"Origin": PAGE}))
        assert [(await client.answer()).status for _ in range(2)] == [204, 401]
