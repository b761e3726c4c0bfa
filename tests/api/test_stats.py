"""`GET /api/stats`, and the percentiles behind it."""

import asyncio
import hashlib
import math
import time
from collections import Counter
from typing import Any

import aiohttp
import internals
import pytest
import structlog
from gateway import in_process
from provider import Provider
from timing import until_fast
from wire import Client, call, complete, until

from server.telemetry.metrics import GapHistogram
from server.telemetry.stats import RECENT, SLOTS, Stats, bucket_of

ASK: dict[str, Any] = {"stream": True, "messages": [{"role": "user", "content": "Hi"}]}
PHASES = {"connect", "headers", "first_token"}


async def _stats(root: str, token: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.request("GET", root + "/api/stats", headers=headers) as response:
        assert response.status == 200
        return await response.json()


async def test_says_how_long_first_tokens_take(provider: Provider, model: str) -> None:
    """After some requests every window has their TTFT and phases, and each attempt is listed with its stream."""
    await provider.script(model, {"tokens": 3, "ttft": 0.3})
    async with in_process(provider.url) as gateway:
        ids = []
        for _ in range(3):
            async with aiohttp.request(
                "POST", gateway.url + "/chat/completions", json={"model": model, **ASK}
            ) as answer:
                ids.insert(0, answer.headers["X-Stream-Id"])
                await answer.read()
        await gateway.idle()
        stats = await _stats(gateway.root)
    for window in ("1m", "5m", "60m"):
        assert stats["windows"][window]["ttft"]["count"] == 3
        assert 250 < stats["windows"][window]["ttft"]["p50"] < 5000
        assert stats["windows"][window]["phases"].keys() >= PHASES
    assert sum(minute["count"] for minute in stats["minutes"]) == 3
    assert [one["stream_id"] for one in stats["recent"]] == ids
    assert stats["recent"][0]["first_token"] > 250
    assert {one.get("error") for one in stats["recent"]} == {None}
    assert stats["breakers"] == {"local/*": "closed"}


async def test_says_how_attempts_failed(provider: Provider, model: str) -> None:
    """An attempt that failed says by what, also one before the first token, after which another one has answered."""
    await provider.script(model, {"status": 500}, {"tokens": 3})
    async with in_process(provider.url, recovery={"strategy": "auto", "backoff": 0.01}) as gateway:
        body = {"model": model, **ASK}
        async with aiohttp.request("POST", gateway.url + "/chat/completions", json=body) as answer:
            await answer.read()
        await gateway.idle()
        recent = (await _stats(gateway.root))["recent"]
    assert [one.get("error") for one in recent] == [None, "upstream_server_error"]


async def test_shows_nobody_elses_streams(provider: Provider, model: str) -> None:
    """The list of attempts holds the caller's own streams; an admin key sees all."""
    keys = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "admin": name == "root"}
        for name in ("ann", "bob", "root")
    ]
    async with in_process(provider.url, keys=keys) as gateway:
        headers = {"Authorization": "Bearer ann"}
        body = {"model": model, **ASK}
        async with aiohttp.request("POST", gateway.url + "/chat/completions", json=body, headers=headers) as answer:
            await answer.read()
        await gateway.idle()
        assert [len((await _stats(gateway.root, name))["recent"]) for name in ("ann", "bob", "root")] == [1, 0, 1]


@pytest.mark.parametrize("scale", [0.0005, 0.05, 3.0])
def test_percentiles_are_right_to_a_tenth(scale: float) -> None:
    """Percentiles of a known distribution come out within a tenth, whatever its scale."""
    stats = Stats(clock=lambda: 1_000_000.0)
    for n in range(1, 1001):
        stats.count("ttft", scale * (1 + n / 1000))
    found = stats.windows()["1m"]["ttft"]
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert found[name] == pytest.approx(scale * (1 + share) * 1000, rel=0.1)


def test_memory_is_bounded_and_old_times_leave() -> None:
    """A day of requests keeps an hour's slots and the last attempts; windows hold only what is within them."""
    now = 0.0
    stats = Stats(clock=lambda: now)
    for _ in range(24 * 60):
        now += 60
        stats.count("ttft", 0.1, "a/b")
        stats.attempt("strm_x", "", "a/b", {"headers": 0.01})
    assert len(internals.stats_slots(stats)) <= SLOTS
    assert len(stats.recent(lambda _: True)) == RECENT
    windows = stats.windows()
    assert windows["1m"]["ttft"]["count"] in (1, 2)
    assert windows["5m"]["ttft"]["count"] in (5, 6)
    assert windows["60m"]["ttft"]["count"] in (60, 61)
    now += 3600 * 2
    assert stats.windows()["60m"]["ttft"] == {"p50": None, "p95": None, "p99": None, "count": 0}
    assert stats.minutes() == []


def test_nothing_measured_is_no_number() -> None:
    """A fresh gateway says that nothing was counted instead of zero milliseconds."""
    nothing = {"p50": None, "p95": None, "p99": None, "count": 0}
    measured = ("ttft", "inter_token", "drain", "overhead", "loop_lag")
    assert Stats().windows()["1m"] == {**dict.fromkeys(measured, nothing), "phases": {}, "targets": {}}


# --- who is slow -----------------------------------------------------------------------------------------------------


async def _window(root: str) -> dict[str, Any]:
    return (await _stats(root))["windows"]["1m"]["targets"]["local/*"]


async def test_a_slow_upstream(provider: Provider, model: str) -> None:
    """Its first token and the gaps between its tokens are long; neither its clients nor the gateway took the time."""
    await provider.script(model, {"tokens": 6, "rate": 5, "ttft": 0.4})

    async def ask(_number: int) -> float:
        async with in_process(provider.url) as gateway:
            await complete(gateway.root, model)
            await gateway.idle()
            seen = await _window(gateway.root)
            lag = (await _stats(gateway.root))["windows"]["1m"]["loop_lag"]
            metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
        assert seen["inter_token"]["count"] == 5
        assert seen["phases"]["first_token"]["p50"] > 300
        assert seen["drain"]["count"] == 0
        assert 'sluiceway_inter_token_seconds_count{target="local/*"} 5.0' in metrics
        gaps = [f'sluiceway_inter_token_seconds_bucket{{le="{le}",target="local/*"}} ' for le in (0.1, 0.5)]
        even = gaps[0] + "0.0" in metrics and gaps[1] + "5.0" in metrics and 150 < seen["inter_token"]["p50"] < 400
        return max(seen["overhead"]["p99"], lag["p50"] or 0) / 1000 if even else math.inf

    await until_fast(ask, 0.1)


async def test_a_slow_client(provider: Provider, model: str) -> None:
    """The time that it did not read is drain time: of its target, in the metrics, and in the stream's log line."""
    await provider.script(model, {"tokens": 3000, "big": 3000})

    async def ask(_number: int) -> float:
        async with in_process(provider.url) as gateway:
            with structlog.testing.capture_logs() as lines:
                async with Client(gateway.root) as client:
                    await client.complete(model)
                    await asyncio.sleep(1.0)  # the client's own slowness
                    await client.head()
                    await client.rest()
                await gateway.idle()
            seen = await _window(gateway.root)
            metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
        assert seen["drain"]["p99"] > 500
        assert "sluiceway_client_drain_seconds_count 0.0" not in metrics
        [ended] = [line for line in lines if line["event"] == "stream ended"]
        assert ended["drain_ms"] > 500
        return seen["overhead"]["p99"] / 1000

    await until_fast(ask, 0.1)


async def test_a_slow_gateway(provider: Provider, model: str) -> None:
    """An event loop that something holds up is late, and what comes in meanwhile goes out late."""
    async with in_process(provider.url) as gateway:
        await complete(gateway.root, model)

        async def late() -> bool:
            time.sleep(0.4)  # noqa: ASYNC251  # this is the fault
            lag = (await _stats(gateway.root))["windows"]["1m"]["loop_lag"]
            return lag["count"] > 0 and lag["p99"] > 200

        await until(late)
        metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
    assert "sluiceway_loop_lag_seconds_count" in metrics
    assert 'sluiceway_overhead_seconds_count{target="local/*"} 1.0' in metrics


def test_gaps_are_counted_once() -> None:
    """What was counted since the last look is handed over, in buckets that agree with a count one by one."""
    gaps, one_by_one = GapHistogram(), Counter[int]()
    for seconds in (0.0, 0.00005, 0.001, 0.0011, 0.05, 0.2, 3.0, 1e6):
        gaps.of("a/b").observe(seconds)
        one_by_one[bucket_of(seconds)] += 1
    assert dict(gaps.settle()) == {"a/b": one_by_one}
    assert dict(gaps.settle()) == {}
    gaps.of("a/b").observe(0.05)
    assert dict(gaps.settle()) == {"a/b": Counter({bucket_of(0.05): 1})}
