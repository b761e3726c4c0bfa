"""`GET /api/stats`, and the percentiles behind it."""

import hashlib
from typing import Any

import aiohttp
import pytest
from gateway import in_process
from provider import Provider

from server.telemetry.stats import RECENT, SLOTS, Stats

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
    assert stats["breakers"] == {"local/*": "closed"}


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
        stats.first_token(scale * (1 + n / 1000))
    found = stats.windows()["1m"]["ttft"]
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        assert found[name] == pytest.approx(scale * (1 + share) * 1000, rel=0.1)


def test_memory_is_bounded_and_old_times_leave() -> None:
    """A day of requests keeps an hour's slots and the last attempts; windows hold only what is within them."""
    now = 0.0
    stats = Stats(clock=lambda: now)
    for _ in range(24 * 60):
        now += 60
        stats.first_token(0.1)
        stats.attempt("strm_x", "", "a/b", {"headers": 0.01})
    assert len(stats._slots) <= SLOTS
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
    assert Stats().windows()["1m"] == {"ttft": {"p50": None, "p95": None, "p99": None, "count": 0}, "phases": {}}
