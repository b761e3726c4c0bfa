"""The surface of attack and what it tells: OWASP's API3 (properties), API5, API8 and API9 (inventory)."""

import hashlib

import internals
import pytest
from gateway import in_process
from wire import call, complete

# Section 3 of the contract; HEAD comes with the health checks and the console.
SERVED = {
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/{id}"),
    ("POST", "/v1/responses"), ("GET", "/v1/responses/{id}"), ("DELETE", "/v1/responses/{id}"),
    ("POST", "/v1/responses/{id}/cancel"), ("GET", "/v1/responses/{id}/input_items"),
    ("POST", "/v1/embeddings"), ("POST", "/v1/completions"), ("POST", "/v1/moderations"), ("POST", "/v1/rerank"),
    ("POST", "/v1/images/{operation}"), ("POST", "/v1/audio/{operation}"),
    ("GET", "/v1/streams"), ("GET", "/v1/streams/{id}"),
    ("DELETE", "/v1/streams/{id}"), ("POST", "/api/stream"), ("GET", "/healthz"), ("GET", "/readyz"),
    ("GET", "/metrics"), ("GET", "/api/stats"), ("GET", "/"),
}  # fmt: skip
LISTED = {
    "id", "object", "model", "target", "state", "paused", "created", "last_activity", "records", "bytes", "lag",
    "readers", "recoveries",
}  # fmt: skip
PROBES = [
    "/v1", "/v1/", "/v2/models", "/api", "/api/", "/api/keys", "/admin", "/debug", "/config", "/config.toml", "/.env",
    "/.git/config", "/docs", "/openapi.json", "/v1/keys", "/v1/embedding", "/v1/files", "/server-status", "/actuator",
    "/v1/audio", "/v1/images/", "/v1/audio/..%2fkeys", "/v1/images/A", "/v1/images/a//b",
    "/static/", "/static/package.json.bak", "/healthz/", "/metrics/", "/v1/streams/../models",
]  # fmt: skip
JSON = {"Accept": "application/json"}


def key(name: str, **more) -> dict:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


async def test_what_is_served(gateway) -> None:
    """There are no routes but those of the contract and of the console's files."""
    app = internals.application(gateway.app)
    routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    assert {route for route in routes if route[0] != "HEAD" and not route[1].startswith("/static")} == SERVED


@pytest.mark.parametrize("path", PROBES)
async def test_nothing_beside(gateway, path) -> None:
    """Paths that scanners try are 404 in OpenAI's shape, which names only what is served."""
    answer = await call(gateway.root, "GET", path)
    code = "unknown_endpoint" if path.startswith("/v1/") else "not_found"
    assert (answer.status, answer.error["code"]) == (404, code)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PUT", "PATCH", "DELETE", "PROPFIND", "POST"])
async def test_methods(gateway, method) -> None:
    """Other methods than those of the path are refused, and TRACE returns nothing of the request."""
    answer = await call(gateway.root, method, "/v1/models", {} if method == "POST" else None, {"X-Canary": "canary"})
    assert answer.status in (400, 404, 405)
    assert b"canary" not in answer.body


async def test_properties_of_a_stream(provider, model) -> None:
    """A stream shows the fields of the contract, to an admin its owner, too, and not its request or its upstream."""
    async with in_process(provider.url, keys=[key("alice"), key("root", admin=True)]) as gateway:
        answer = await complete(gateway.root, model, headers=bearer("alice"))
        stream = answer.headers["x-stream-id"]
        for who, fields in (("alice", LISTED), ("root", LISTED | {"owner"})):
            [listed] = (await call(gateway.root, "GET", "/v1/streams", headers=bearer(who))).json["data"]
            assert listed.keys() == fields
            state = (await call(gateway.root, "GET", f"/v1/streams/{stream}", headers={**bearer(who), **JSON})).json
            assert state.keys() == fields | {"usage", "error"}
            assert "Say it." not in str(state)


async def test_properties_cannot_be_set(provider, model) -> None:
    """In a request, fields that only the gateway sets are like all others: they go upstream and change nothing."""
    mine = {"owner": "bob", "admin": True, "id": "strm_mine", "state": "complete", "target": "other/x",
            "policy": "continue", "created": 0, "records": 9, "key": "bob", "on_disconnect": "continue"}  # fmt: skip
    async with in_process(provider.url, keys=[key("alice"), key("bob")]) as gateway:
        answer = await complete(gateway.root, model, headers=bearer("alice"), **mine)
        stream = answer.headers["x-stream-id"]
        [listed] = (await call(gateway.root, "GET", "/v1/streams", headers=bearer("alice"))).json["data"]
        assert (await call(gateway.root, "GET", "/v1/streams", headers=bearer("bob"))).json["data"] == []
    assert listed["id"] == stream != "strm_mine"
    assert listed["target"] == f"local/{model}"
    assert listed["created"] > 0


async def test_what_an_ordinary_key_learns(provider, model) -> None:
    """Of the others an ordinary key learns nothing: not how many streams they have, which models, or how fast.

    Only an admin key reads the metrics. They name keys in the count of tokens alone, no stream's id and no address.
    """
    keys = [key("alice"), key("bob"), key("root", admin=True)]
    async with in_process(provider.url, keys=keys) as gateway:
        answer = await complete(gateway.root, model, headers=bearer("alice"))
        await gateway.idle()
        told = [(await call(gateway.root, "GET", path, headers=bearer("bob"))).body.decode()
                for path in ("/metrics", "/api/stats", "/v1/models", "/v1/streams")]  # fmt: skip
        stats = {name: (await call(gateway.root, "GET", "/api/stats", headers=bearer(name))).json
                 for name in ("alice", "bob", "root")}  # fmt: skip
        metrics = {
            name: await call(gateway.root, "GET", "/metrics", headers=bearer(name)) for name in ("alice", "root")
        }
    for secret in ("alice", answer.headers["x-stream-id"], provider.root, model):
        assert secret not in "".join(told)
    assert (metrics["alice"].status, metrics["alice"].error["code"]) == (403, "admin_only")
    assert metrics["root"].status == 200
    assert provider.root.encode() not in metrics["root"].body
    naming = [line for line in metrics["root"].body.decode().splitlines() if "alice" in line]
    assert {line.partition("{")[0] for line in naming} == {
        "sluiceway_usage_tokens_total", "sluiceway_usage_tokens_created"
    }  # fmt: skip
    counts = {name: one["windows"]["60m"]["ttft"]["count"] for name, one in stats.items()}
    assert counts == {"alice": 0, "bob": 0, "root": 1}
    assert {name: len(one["recent"]) for name, one in stats.items()} == {"alice": 1, "bob": 0, "root": 1}
    assert {name for name, one in stats.items() if one["breakers"] or one["minutes"]} == {"root"}


async def test_errors_tell_nothing_of_the_inside(gateway, model) -> None:
    """No error has a path of the file system, a traceback, or the name of a class."""
    shown = [
        await call(gateway.root, "POST", "/v1/chat/completions", b"{", {"Content-Type": "application/json"}),
        await call(gateway.root, "POST", "/v1/chat/completions", {"model": model}),
        await call(gateway.root, "GET", "/v1/streams/strm_x"),
        await call(gateway.root, "GET", "/v1/streams/strm_x?after=x"),
        await call(gateway.root, "POST", "/api/stream", {"session_id": 1}),
        await call(gateway.root, "GET", "/%ff%00"),
    ]
    for answer in shown:
        assert 400 <= answer.status < 500
        assert not [word for word in (b"/server", b".py", b"Traceback", b"aiohttp", b"Error(") if word in answer.body]
