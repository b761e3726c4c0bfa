"""Secrets: no key or body gets into an error, no prompt or answer into a log; and which peers the gateway trusts."""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import os
import pty
import subprocess
import sys

import pytest
import structlog
from behind_tls import behind_tls
from certificates import certify
from gateway import ROOT, in_process, own_process
from redis_server import RedisServer
from wire import Client, call, complete, completion, until

from server.core.openai.intake import Intake
from server.dialects.chat import routes
from server.telemetry.logs import unhandled

KEY = "sk-upstream-CANARYKEY-0123456789"  # the gateway's own, at its upstream
ORGANIZATION = "org-CANARYORGANIZATION"
HEADER = "CANARYHEADER-0123456789"
TOKEN = "CANARYTOKEN-0123456789"  # a client's
PROMPT = "CANARYPROMPT"
ANSWER = "CANARYANSWER"
PATH = "/v1/chat/completions"


@pytest.fixture
def secret(monkeypatch) -> dict:
    """Give the settings of an upstream to which secrets are sent."""
    monkeypatch.setenv("TEST_SECRET_KEY", KEY)
    monkeypatch.setenv("TEST_ORGANIZATION", ORGANIZATION)
    return {"api_key_env": "TEST_SECRET_KEY", "organization_env": "TEST_ORGANIZATION", "headers": {"X-Custom": HEADER}}


# --- errors of upstreams -------------------------------------------------------------------------------------------

WORDS = f"Incorrect API key provided: {KEY}. Header: {HEADER}."
BASE64 = base64.b64encode(f"Bearer {KEY}".encode()).decode()
QUOTES = {
    "in the code": {"status": 400, "error": {"message": "no", "code": KEY, "type": KEY, "param": f"headers.{KEY}"}},
    "in the code of a stream": {"error_at": 2, "error": {"message": "no", "code": KEY, "type": KEY, "param": KEY}},
    "in base64": {"status": 400, "error": {"message": f"refused: {BASE64}", "metadata": {"raw": f"{BASE64} {KEY}"}}},
    "in base64, in the stream": {"error_at": 2, "error": {"message": BASE64, "innererror": {"code": KEY, KEY: [KEY]}}},
    "where it is cut": {"status": 400, "error": {"message": "x" * 1980 + KEY}},
    "where it is cut, in the stream": {"error_at": 2, "error": {"message": "x" * 1980 + KEY}},
    "in places": {"status": 400, "error": {"message": "no", "failed_generation": KEY, "details": [{"reason": KEY}]}},
    "401": {"status": 401, "error": {"message": WORDS, "type": "invalid_request_error", "code": "invalid_api_key"}},
    "403": {"status": 403, "error": {"message": WORDS}},
    "400": {"status": 400, "error": {"message": WORDS}},
    "404": {"status": 404, "error": {"message": WORDS}},
    "422": {"status": 422, "error": WORDS},
    "429": {"status": 429, "error": {"message": WORDS}},
    "500": {"status": 500, "error": {"message": WORDS}},
    "a page": {"status": 502, "error": f"<html>{WORDS}</html>"},
    "in the stream": {"error_at": 2, "error": {"message": WORDS}},
    "at once in the stream": {"error_at": 0, "error": {"message": WORDS}},
    "a key error in the stream": {"error_at": 2, "error": {"message": WORDS, "code": "invalid_api_key"}},
    "instead of a stream": {"json_body": {"error": {"message": WORDS}}},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", QUOTES)
async def test_upstream_quotes_the_key(provider, model, secret, name, stream) -> None:
    """If an upstream quotes the key that it was sent, no client gets it, in any form or on any path."""
    await provider.script(model, QUOTES[name])
    async with in_process(provider.url, upstream=secret) as gateway:
        answer = await complete(gateway.root, model, stream=stream)
        shown = [answer.body, str(answer.headers).encode()]
        if "x-stream-id" in answer.headers:
            path = f"/v1/streams/{answer.headers['x-stream-id']}"
            for query, headers in (("", {}), ("?format=native", {}), ("", {"Accept": "application/json"})):
                shown.append((await call(gateway.root, "GET", path + query, headers=headers)).body)
        shown.append((await call(gateway.root, "GET", "/v1/streams")).body)
    [seen] = await provider.seen(model)
    assert KEY in seen["headers"]["authorization"]
    assert not [
        body for body in shown if b"CANARY" in body or BASE64[10:30].encode() in body or KEY[:10].encode() in body
    ]


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials(provider, model, secret, status) -> None:
    """If the gateway's own key is refused, the client gets 502 upstream_auth without the upstream's message."""
    await provider.script(model, {"status": status, "error": {"message": "account 4711 of Jane is locked"}})
    async with in_process(provider.url, upstream=secret) as gateway:
        answer = await complete(gateway.root, model)
    assert (answer.status, answer.error["code"]) == (502, "upstream_auth")
    assert b"4711" not in answer.body


async def test_only_its_own_secrets(provider, model, monkeypatch) -> None:
    """The SDK's variables of the environment go to no upstream unless its settings say so."""
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET"):
        monkeypatch.setenv(name, f"CANARY-{name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Canary: CANARY\nAuthorization: CANARY\nUser-Agent: CANARY")
    async with in_process(provider.url) as gateway:
        assert (await complete(gateway.root, model)).status == 200
    [seen] = await provider.seen(model)
    assert "CANARY" not in str(seen["headers"]).upper()
    assert "authorization" not in seen["headers"]


# --- TLS -----------------------------------------------------------------------------------------------------------


async def test_self_signed(provider, model, tmp_path) -> None:
    """A certificate without a trusted issuer is refused before the key and the prompt are sent."""
    async with behind_tls(provider.url, certify(tmp_path)) as url, in_process(url) as gateway:
        answer = await complete(gateway.root, model)
    assert (answer.status, answer.error["code"]) == (502, "upstream_tls")
    assert not await provider.seen(model)


async def test_own_authority(provider, model, tmp_path) -> None:
    """A certificate of the configured `ca_file` is accepted."""
    certificate = certify(tmp_path)
    trust = {"ca_file": str(certificate.certificate)}
    async with behind_tls(provider.url, certificate) as url, in_process(url, upstream=trust) as gateway:
        assert (await complete(gateway.root, model)).status == 200


async def test_wrong_name(provider, model, tmp_path) -> None:
    """A certificate that is trusted, but for another name, is refused."""
    certificate = certify(tmp_path, "other.example")
    trust = {"ca_file": str(certificate.certificate)}
    async with behind_tls(provider.url, certificate) as url, in_process(url, upstream=trust) as gateway:
        answer = await complete(gateway.root, model)
    assert (answer.status, answer.error["code"]) == (502, "upstream_tls")
    assert not await provider.seen(model)


async def test_no_proxy_from_the_environment(provider, model) -> None:
    """Proxies of the environment are not used: a prompt goes only where the configuration says."""
    hits = []
    server = await asyncio.start_server(lambda _reader, writer: hits.append(1) or writer.close(), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    environ = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), url) | {
        "NO_PROXY": ""
    }
    async with server, own_process(provider.url, environ=environ) as gateway:
        assert (await complete(gateway.root, model)).status == 200
    assert not hits


# --- logs ----------------------------------------------------------------------------------------------------------

CANARIES = ("CANARY", BASE64[10:30], hashlib.sha256(TOKEN.encode()).hexdigest())
SCRIPTS = [
    {"text": f"{ANSWER} one two"},
    {"text": f"{ANSWER} one two", "cut_after": 2},
    {"text": f"{ANSWER} one two", "reset_after": 2},
    {"text": f"{ANSWER} one two", "garbage_at": 2},
    {"text": f"{ANSWER} one two", "eof_after": 2},
    {"text": f"{ANSWER} one two", "bad_chunk_header_at": 2},
    {"chunks": [f"not json {ANSWER}"]},
    {"chunks": [{"choices": f"nonsense {ANSWER}"}]},
    {"chunks": [{"choices": [{"index": 0, "delta": {"content": {"deep": ANSWER}}}]}]},
    {"tool_calls": [{"index": 0, "id": "a", "name": "fails", "arguments": {"text": ANSWER}}]},
    {"tool_calls": [{"index": 0, "id": "a", "name": "unknown", "arguments": ANSWER}]},
    {"reasoning": [ANSWER], "tokens": 2},
    {"tokens": 2, "finish": KEY},
    {"reset_before_head": True},
    {"json_body": {"error": {"message": f"{PROMPT} {KEY}"}}},
    *(QUOTES[name] for name in QUOTES),
]


async def test_no_canary_in_the_log(provider, model, secret, tmp_path, monkeypatch) -> None:
    """On every path, good and bad, the log of a real process holds no part of a prompt, answer, token or key."""
    (tmp_path / "canary_tools.py").write_text("def fails(text: str) -> str:\n    raise ValueError(text)\n")
    environ = {
        "PYTHONPATH": str(tmp_path), "OPENAI_LOG": "debug", "PYTHONASYNCIODEBUG": "1", "TEST_SECRET_KEY": KEY,
        "TEST_ORGANIZATION": ORGANIZATION,
    }  # fmt: skip
    tables = {
        "keys": [{"name": "web", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "requests_per_minute": 100_000}],
        "tools": {"functions": {"fails": "canary_tools:fails"}},
        "upstream": {**secret, "idle_timeout": 1.0},
        "streams": {"total_timeout": 5.0},  # what hangs is not waited for
        "recovery": {"strategy": "auto", "backoff": 0.0, "breaker_failures": 1000},
        "server": {"max_body_bytes": 100_000},
    }
    key = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "CANARYIDEMPOTENCY"}
    async with own_process(provider.url, environ=environ, fresh=True, **tables) as gateway:
        for index, script in enumerate(SCRIPTS):
            name = f"{model}-{index}"
            await provider.script(name, script)
            for body, path in every_form(name):
                headers = {
                    **key,
                    "Idempotency-Key": f"{key['Idempotency-Key']}-{index}-{path[1:4]}-{body.get('stream')}",
                }
                with contextlib.suppress(Exception):  # what comes of it is tested elsewhere
                    await call(gateway.root, "POST", path, body, headers)
        for raw, headers in refused():
            with contextlib.suppress(Exception):
                await call(gateway.root, "POST", PATH, raw, {**key, **headers})
        await leave_and_abort(gateway.root, provider, model, key)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in gateway.lines)
    assert len(gateway.logged("stream ended")) > 2 * len(SCRIPTS)  # it did log
    assert gateway.logged("tool failed")
    for canary in CANARIES:
        assert canary not in text, next(line for line in text.splitlines() if canary in line)


def every_form(model: str):
    """Give the requests for one model in every form: bodies and their paths."""
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": f"{PROMPT} again"}]
    yield completion(model, messages=messages, user=PROMPT, metadata={"a": PROMPT}), PATH
    yield completion(model, messages=messages, stream=False), PATH
    yield {"model": model, "prompt": PROMPT}, "/api/stream"


def refused():
    """Give bodies that are refused, each with what it has to hide."""
    yield b'{"model": "CANARYPROMPT', {}
    yield b"\xff\xfeCANARYPROMPT", {}
    yield completion("m", messages=PROMPT), {}
    yield completion("m", temperature=PROMPT), {}
    yield completion("m", n=PROMPT), {}
    yield completion("m", messages=[{"role": PROMPT * 10, "content": 5}]), {}
    yield completion("m", padding=PROMPT * 20_000), {}
    yield completion("m"), {"Authorization": f"Bearer wrong-{TOKEN}"}
    yield completion("m"), {"Authorization": f"Basic {TOKEN}"}
    yield completion("m"), {"X-On-Disconnect": PROMPT}
    yield completion("m"), {"Idempotency-Key": f"{PROMPT} with a space"}
    yield completion("m"), {"X-Request-Id": f"<{PROMPT}>"}
    yield completion("m"), {"Content-Type": f"text/{PROMPT}"}
    yield completion("m"), {"X": PROMPT * 3000}
    yield completion("m"), {f"X-{PROMPT} bad": PROMPT}


async def leave_and_abort(root, provider, model, key) -> None:
    """Leave one stream and abort another, which gives a reason."""
    await provider.script(model, {"text": f"{ANSWER} one two three", "stall_after": 2})
    headers = {"Authorization": key["Authorization"]}
    for aborts in (False, True):
        async with Client(root) as client:
            await client.complete(model, headers=headers)
            _, answered = await client.head()
            if aborts:
                path = f"/v1/streams/{answered['x-stream-id']}?reason=CANARYREASON"
                assert (await call(root, "DELETE", path, headers=headers)).status == 204


@pytest.mark.parametrize("where", ["handler", "relay", "callback"])
async def test_our_own_bugs_quote_nothing(provider, model, monkeypatch, where) -> None:
    """An exception of ours whose message has the prompt in it is logged by its type and place."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"cannot read {PROMPT}")

    with structlog.testing.capture_logs() as lines:
        async with in_process(provider.url) as gateway:
            if where == "handler":
                monkeypatch.setattr(routes, "completion", fail)
            elif where == "relay":
                monkeypatch.setattr(Intake, "feed", fail)
            else:
                loop = asyncio.get_running_loop()
                loop.set_exception_handler(unhandled)
                loop.call_soon(fail, PROMPT)
            answer = await complete(gateway.root, model)
            await gateway.idle()
    if where != "callback":
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert PROMPT.encode() not in answer.body
    bad = [line for line in lines if line["log_level"] == "error"]
    assert [line["error"] for line in bad] == ["ValueError"]
    assert bad[0]["at"][-1].endswith(" fail")
    assert PROMPT not in str(lines)


FORGED = 'a\r\n{"event": "forged"}\x1b[2J\x9b31m\u2028b'
LOGGING = "import sys, structlog; from server.telemetry.logs import configure; configure(); "
LOGGING += "structlog.get_logger().info('listening', model=sys.argv[1])"


def test_forged_lines() -> None:
    """A value with line ends and terminal controls is one line of JSON."""
    done = subprocess.run([sys.executable, "-c", LOGGING, FORGED], cwd=ROOT, capture_output=True, check=True)
    [line] = done.stderr.splitlines()
    assert json.loads(line)["model"] == FORGED


def test_forged_terminal() -> None:
    """In a terminal the value can neither begin a line nor move the cursor."""
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", LOGGING, FORGED], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 65_536)
    os.close(ours)
    assert shown.count(b"\n") == 1
    assert b"\x1b[2J" not in shown
    assert b"\xc2\x9b" not in shown
    assert b"\xe2\x80\xa8" not in shown


def test_libraries_are_silent() -> None:
    """A library's log line about a failure, with its data, is dropped, whatever its level was before."""
    code = "import logging; import openai; from server.telemetry.logs import configure; configure(); "
    code += "[logging.getLogger(n).error('CANARY') for n in ('openai', 'openai._base_client', 'httpx2', 'mcp.client', "
    code += "'asyncio', 'aiohttp.server')]"
    environ = {**os.environ, "OPENAI_LOG": "debug"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, env=environ)
    assert done.stderr == b""
    assert logging.getLogger("sluiceway").level == logging.NOTSET


# --- the store -----------------------------------------------------------------------------------------------------

PASSWORD = "CANARYPASSWORD"


@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:{}/0", "redis://127.0.0.1:{1}/0?password={0}"])
async def test_password_of_redis(provider, model, tmp_path, url) -> None:
    """The password of Redis comes from the environment, and goes nowhere else, whatever happens to the server."""
    server = RedisServer(tmp_path, "--requirepass", PASSWORD)
    await asyncio.to_thread(server.start, b"-NOAUTH")
    environ = {"CANARY_URL": url.format(PASSWORD, server.port)}
    store = {"kind": "redis", "url_env": "CANARY_URL"}
    try:
        async with own_process(provider.url, store=store, environ=environ) as gateway:
            assert (await complete(gateway.root, model)).status == 200
            await asyncio.to_thread(server.kill)
            for _ in range(2):
                ready = await call(gateway.root, "GET", "/readyz")
                assert (ready.status, ready.json) == (503, {"status": "store unavailable"})
            refused = await complete(gateway.root, model)
        said = [line["error"] for line in gateway.logged("store unavailable")]
        assert said
        assert all(text.startswith(f"Redis at 127.0.0.1:{server.port}/0 cannot be used: ") for text in said)
        with pytest.raises(RuntimeError, match=rf"sluiceway: Redis at 127.0.0.1:{server.port}/0") as start:
            async with own_process(provider.url, store=store, environ=environ):
                pass
    finally:
        server.kill()
    shown = json.dumps([gateway.lines, str(start.value), refused.body.decode(), dict(refused.headers)])
    assert "CANARY" not in shown.replace("CANARY_URL", "")


async def test_path_of_the_database(provider, tmp_path) -> None:
    """A database that cannot be used is named in the log, and to nobody else."""
    path = tmp_path / "CANARY.db"
    async with own_process(provider.url, store={"kind": "sqlite", "path": str(path)}) as gateway:
        path.unlink()

        async def unready() -> bool:
            ready = await call(gateway.root, "GET", "/readyz")
            assert b"CANARY" not in ready.body
            return ready.status == 503

        await until(unready)
        refused = await complete(gateway.root, "any")
    assert refused.status == 503
    assert b"CANARY" not in refused.body
    assert "CANARY.db" in gateway.logged("store unavailable")[0]["error"]
