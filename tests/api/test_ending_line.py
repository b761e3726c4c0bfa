"""The one log line of a stream's ending: everything that billing and debugging need."""

import asyncio
import hashlib
import time

import pytest
import structlog
from gateway import in_process, own_process
from wire import Answer, Client, call, complete, until

from server.streams.admission import Owner

FIELDS = {
    "event", "log_level", "stream_id", "request_id", "owner", "model", "served", "target", "state", "reason", "records",
    "bytes", "tokens", "ttft_ms", "duration_ms", "drain_ms", "phases_ms", "attempts", "recoveries", "usage", "billed",
    "usage_tokens",
}  # fmt: skip
KEY = {"name": "web", "sha256": hashlib.sha256(b"token").hexdigest()}
WHO = {"Authorization": "Bearer token", "X-Request-Id": "req-of-mine.1"}


async def ended(provider, model: str, **tables) -> dict:
    """Ask once and give the line."""
    with structlog.testing.capture_logs() as lines:
        async with in_process(provider.url, keys=[KEY], **tables) as gateway:
            answer = await complete(gateway.root, model, headers=WHO)
            await gateway.idle()
            [line] = [line for line in lines if line["event"] == "stream ended"]
    assert line.keys() == FIELDS
    assert answer.headers["x-request-id"] == line["request_id"] == "req-of-mine.1"
    assert answer.headers["x-stream-id"] == line["stream_id"]
    assert (line["owner"], line["model"], line["target"]) == ("web", model, f"local/{model}")
    return line


async def test_a_whole_answer(provider, model) -> None:
    """Ids, key name, model, target, counts, times and measured usage; the upstream has seen the request's id."""
    await provider.script(model, {"tokens": 5, "ttft": 0.2})
    line = await ended(provider, model)
    assert (line["state"], line["reason"], line["tokens"], line["recoveries"]) == ("complete", "stop", 5, 0)
    assert line["records"] == 8  # the role, five tokens, the finish, [DONE]
    assert line["bytes"] > 5 * 100
    assert 150 < line["ttft_ms"] < line["duration_ms"] + 0.1  # it is rounded to that
    assert line["duration_ms"] < 5000
    assert line["phases_ms"]["first_token"] > 150
    assert line["phases_ms"].keys() >= {"headers", "first_token", "overhead"}
    assert line["drain_ms"] == 0
    assert (line["usage"]["measured"], line["billed"]["measured"], line["attempts"]) == (True, True, 1)
    [seen] = await provider.seen(model)
    assert seen["headers"]["x-request-id"] == "req-of-mine.1"


async def test_a_recovered_answer(provider, model) -> None:
    """What the broken attempt took is there: attempts, recoveries, and the tokens billed for both."""
    await provider.script(model, {"text": "a b c d e", "cut_after": 3, "usage": False}, {"text": "a b c d e"})
    line = await ended(provider, model, recovery={"strategy": "restart", "backoff": 0.01})
    assert (line["state"], line["recoveries"], line["attempts"]) == ("complete", 1, 2)
    assert line["billed"]["attempts"] == 2
    assert line["billed"]["completion_tokens"] > line["usage"]["completion_tokens"]
    assert (line["usage"]["measured"], line["billed"]["measured"]) == (True, False)


async def test_a_failure(provider, model) -> None:
    """A stream that never spoke has neither a time to its first token nor phases, and says why it ended."""
    await provider.script(model, {"status": 500})
    line = await ended(provider, model)
    assert (line["state"], line["tokens"], line["ttft_ms"], line["phases_ms"]) == ("failed", 0, None, None)
    assert line["reason"]
    assert line["attempts"] == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/stream"])
async def test_a_request_without_an_id(provider, model, path) -> None:
    """A request that brings no id gets one, which the upstream and the log have as well."""
    with structlog.testing.capture_logs() as lines:
        async with in_process(provider.url) as gateway, Client(gateway.root) as client:
            await client.ask("POST", path, {"model": model, "messages": [{"role": "user", "content": "Hi"}]})
            answer = await client.answer()
            await gateway.idle()
    [seen] = await provider.seen(model)
    [line] = [line for line in lines if line["event"] == "stream ended"]
    assert answer.headers["x-request-id"] == seen["headers"]["x-request-id"] == line["request_id"]
    assert line["request_id"].startswith("req_")


async def test_after_a_takeover(provider, model, tmp_path) -> None:
    """The line of a stream that another process ended has the request's id and owner; its upstream got the id again."""
    await provider.script(model, {"pieces": [f"{n} " for n in range(40)], "rate": 20})
    store = {"kind": "sqlite", "path": str(tmp_path / "streams.db"), "lease": 1.0}
    tables = {"store": store, "keys": [KEY], "recovery": {"strategy": "restart", "backoff": 0.01}}
    async with own_process(provider.url, **tables) as first, Client(first.root) as client:
        await client.complete(model, headers={**WHO, "X-On-Disconnect": "continue"})
        _, head = await client.head()
        await client.events(5)
        first.process.kill()
        await first.ended()
    async with own_process(provider.url, **tables) as second:
        answer = await until(lambda: served(second.root, head["x-stream-id"]))
        [line] = await until(lambda: asyncio.sleep(0, second.logged("stream ended")))
    assert answer.events[-1].data == b"[DONE]"
    assert (line["request_id"], line["owner"], line["state"]) == ("req-of-mine.1", "web", "complete")
    assert line["ttft_ms"] is None  # that was the other process's
    assert [seen["headers"]["x-request-id"] for seen in await provider.seen(model)] == ["req-of-mine.1"] * 2


async def served(root: str, stream: str) -> Answer | None:
    """Read a stream from its beginning to its end, once it can be taken over."""
    answer = await call(root, "GET", f"/v1/streams/{stream}", headers=WHO)
    return answer if answer.status == 200 else None


@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_clock_is_set(provider, model, monkeypatch, hours) -> None:
    """A duration is not measured by the wall clock: somebody may set that while a stream runs."""
    await provider.script(model, {"tokens": 20, "rate": 100})
    right = time.time
    with structlog.testing.capture_logs() as lines:
        async with in_process(provider.url) as gateway, Client(gateway.root) as client:
            await client.complete(model)
            await client.head()
            monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
            await client.rest()
            await gateway.idle()
    [line] = [line for line in lines if line["event"] == "stream ended"]
    assert 100 < line["duration_ms"] < 60_000


@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_clock_is_set_before_the_first_token(provider, model, monkeypatch, hours) -> None:
    """Nor is the time until a response opens early: the client waits for its first token as long as it should."""
    await provider.script(model, {"never_answer": True})
    right = time.time
    flow = {"early_open_after": 1.0, "heartbeat_interval": 0.2}
    async with in_process(provider.url, flow=flow) as gateway, Client(gateway.root) as client:
        began = time.monotonic()
        await client.complete(model)
        [row] = await until(lambda: listed(gateway.root))
        stream = await gateway.app.streams.find(row["id"], Owner())
        monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
        assert 0 <= stream.age < 60
        status, _ = await client.head()
        assert status == 200
        assert time.monotonic() - began >= 1.0


async def listed(root: str) -> list[dict]:
    """Give the streams of the list."""
    return (await call(root, "GET", "/v1/streams")).json["data"]
