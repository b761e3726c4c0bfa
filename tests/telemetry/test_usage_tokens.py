"""Tokens by key, model and kind: what all attempts took, in `/metrics` and in the line of each ending."""

import hashlib
from typing import Any

import structlog
from gateway import InProcess, in_process
from plain_upstream import PlainUpstream, says
from prometheus_client.parser import text_string_to_metric_families
from wire import call, complete

KEYS = [
    {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "admin": name == "ops"}
    for name in ("web", "app", "ops")
]
CHAT = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}
DETAILED = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


async def counted(gateway: InProcess) -> dict[tuple[str, str], dict[str, float]]:
    """The counts that are not zero, by key and model."""
    text = (await call(gateway.root, "GET", "/metrics", headers=bearer("ops"))).body.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counts: dict[tuple[str, str], dict[str, float]] = {}
    for sample in families["sluiceway_usage_tokens"].samples:
        if sample.name.endswith("_total") and sample.value:
            labels = sample.labels
            counts.setdefault((labels["key"], labels["model"]), {})[labels["kind"]] = sample.value
    return counts


async def test_who_took_what() -> None:
    """Each key's tokens of each model are counted by kind, of chat and of plain paths, and the lines say the same."""
    answer = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}], "usage": DETAILED}
    embeddings = {"data": [], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    models = [{"name": "small", "targets": ["local/a"]}, {"name": "big-*", "targets": ["local/b"]}]
    with structlog.testing.capture_logs() as lines:
        async with (
            PlainUpstream(says(answer), says(answer), says(embeddings)) as upstream,
            in_process(upstream.url, models=models, keys=KEYS) as gateway,
        ):
            for _ in range(2):
                assert (await call(gateway.root, "POST", "/v1/chat/completions", CHAT, bearer("web"))).status == 200
            body = {"model": "big-1", "input": "Hi"}
            assert (await call(gateway.root, "POST", "/v1/embeddings", body, bearer("app"))).status == 200
            await gateway.idle()
            assert await counted(gateway) == {
                ("web", "small"): {"prompt": 40, "completion": 18, "cached": 32, "reasoning": 10},
                ("app", "big-*"): {"prompt": 7},
            }
    told = [line for line in lines if line["event"] in ("stream ended", "request ended")]
    assert [(line["owner"], line["model"], line["served"], line["usage_tokens"]) for line in told] == [
        ("web", "small", "small", {"prompt": 20, "completion": 9, "cached": 16, "reasoning": 5}),
        ("web", "small", "small", {"prompt": 20, "completion": 9, "cached": 16, "reasoning": 5}),
        ("app", "big-1", "big-*", {"prompt": 7, "completion": 0, "cached": 0, "reasoning": 0}),
    ]


async def test_bounded_labels(provider, model) -> None:
    """Whatever names clients ask for, the labels are those of the configuration, and failures add none."""
    await provider.script(f"{model}-bad", {"status": 500})
    async with in_process(provider.url, keys=KEYS) as gateway:
        for number in range(20):
            await complete(gateway.root, f"{model}-{number}", headers=bearer("web"))
            await call(gateway.root, "POST", f"/v1/images/x{number}", {"model": f"{model}-{number}"}, bearer("web"))
        await complete(gateway.root, f"{model}-bad", headers=bearer("app"))
        await gateway.idle()
        assert {key for key, counts in (await counted(gateway)).items() if counts} == {("web", "*")}
        text = (await call(gateway.root, "GET", "/metrics", headers=bearer("ops"))).body.decode()
        assert model not in text
        assert 'path="/v1/images/{operation}"' in text
        assert "x19" not in text


async def test_a_recovery(provider, model) -> None:
    """What a broken attempt took counts, too."""
    await provider.script(model, {"text": "a b c d e", "cut_after": 3}, {"text": "a b c d e"})
    async with in_process(provider.url, keys=KEYS, recovery={"strategy": "restart", "backoff": 0.01}) as gateway:
        with structlog.testing.capture_logs() as lines:
            await complete(gateway.root, model, headers=bearer("web"))
            await gateway.idle()
        counts = (await counted(gateway))["web", "*"]
    [line] = [line for line in lines if line["event"] == "stream ended"]
    assert counts["completion"] == line["billed"]["completion_tokens"] > line["usage"]["completion_tokens"]
    assert counts["prompt"] == line["billed"]["prompt_tokens"]


FIELDS = {
    "event", "log_level", "request_id", "path", "owner", "model", "served", "target", "outcome", "status", "reason",
    "attempts", "bytes_in", "bytes_out", "duration_ms", "drain_ms", "phases_ms", "usage_tokens",
}  # fmt: skip


async def test_the_line_of_a_plain_request() -> None:
    """One line for each request has whose it was, where it went, how it ended, what it took; nothing of its content."""
    answers: list[Any] = [says({"data": ["answer-canary"]}), says({"error": {"message": "words-canary"}}, 400)]
    with structlog.testing.capture_logs() as lines:
        async with PlainUpstream(*answers) as upstream, in_process(upstream.url, keys=KEYS) as gateway:
            for _ in range(2):
                headers = {**bearer("web"), "X-Request-Id": "req-of-mine"}
                answer = await call(gateway.root, "POST", "/v1/rerank", {"model": "m", "query": "ask-canary"}, headers)
                assert answer.headers["x-request-id"] == "req-of-mine"
            assert upstream.seen[0].headers["x-request-id"] == "req-of-mine"
    assert "canary" not in str(lines)
    good, bad = [line for line in lines if line["event"] == "request ended"]
    assert good.keys() == bad.keys() == FIELDS
    for line in (good, bad):
        assert (line["request_id"], line["path"], line["owner"]) == ("req-of-mine", "/v1/rerank", "web")
        assert (line["model"], line["served"], line["target"], line["attempts"]) == ("m", "*", "local/m", 1)
    assert (good["outcome"], good["status"], good["reason"]) == ("answered", 200, None)
    assert (bad["outcome"], bad["status"], bad["reason"]) == ("failed", 400, "upstream_bad_request")
    assert good["bytes_out"] == len(b'{"data": ["answer-canary"]}')
    assert good["phases_ms"]["headers"] > 0
