"""Failures before the first token: which target is asked next, when, and what the caller gets if all fail."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from targets import TEXT20, gateway_with_targets, requests_per_target
from wire import complete, texts

LONG = {"message": "This model's maximum context length is 8192 tokens.", "code": "context_length_exceeded"}
BOTH = pytest.mark.parametrize("stream", [True, False])


def text(answer) -> str:
    """Return what was said, streamed or not."""
    if answer.headers["content-type"].startswith("application/json"):
        return answer.json["choices"][0]["message"]["content"]
    return "".join(texts(answer.events))


@BOTH
@pytest.mark.parametrize(
    ("script", "primary"),
    [
        ({"status": 500}, 3),
        ({"status": 503}, 3),
        ({"status": 408}, 3),
        ({"status": 409}, 3),
        ({"status": 429}, 3),
        ({"reset_before_head": True}, 3),
        ({"status": 401}, 1),
        ({"status": 403}, 1),
        ({"status": 400, "error": LONG}, 1),
        ({"json_body": {"error": LONG}}, 1),
        ({"json_body": {"error": {"message": "Overloaded.", "type": "server_error"}}}, 3),
    ],
)
async def test_failover(provider, model, stream, script, primary) -> None:
    """A failure that may pass is retried so often at the first target. Then the next answers, streamed or not."""
    await provider.script(f"{model}-1", script)
    async with gateway_with_targets(provider, model) as gateway:
        answer = await complete(gateway.root, model, stream=stream)
    assert (answer.status, text(answer)) == (200, TEXT20)
    assert answer.headers["x-sluiceway-target"] == f"two/{model}-2"
    assert await requests_per_target(provider, model) == [primary, 1]


@BOTH
@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
async def test_content_policy(provider, model, stream, code) -> None:
    """A content-policy rejection is the caller's as it is, from one attempt."""
    error = {"message": "Not this.", "type": "invalid_request_error", "param": "messages", "code": code}
    await provider.script(f"{model}-1", {"status": 400, "error": error})
    async with gateway_with_targets(provider, model) as gateway:
        answer = await complete(gateway.root, model, stream=stream)
    assert answer.status == 400
    assert {name: answer.error[name] for name in error} == error
    assert await requests_per_target(provider, model) == [1, 0]


async def test_context_length_is_never_asked_again_there(provider, model) -> None:
    """However badly the other target does, the one whose context is too short is not asked again."""
    await provider.script(f"{model}-1", {"status": 400, "error": LONG})
    await provider.script(f"{model}-2", {"status": 500})
    async with gateway_with_targets(provider, model) as gateway:
        answer = await complete(gateway.root, model)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert answer.error["message"].startswith(LONG["message"])
    assert await requests_per_target(provider, model) == [1, 3]


async def test_silent_target_is_asked_again_last(provider, model) -> None:
    """A silent target gets its second try only when the other one has had its."""
    await provider.script(f"{model}-1", {"never_answer": True}, {})
    await provider.script(f"{model}-2", {"status": 500})
    async with gateway_with_targets(provider, model, one={"ttft_timeout": 0.2}) as gateway:
        assert text(await complete(gateway.root, model)) == TEXT20
    first, second = await provider.seen(f"{model}-1"), await provider.seen(f"{model}-2")
    assert (len(first), len(second)) == (2, 3)
    assert first[1]["started_at"] > second[-1]["started_at"]


async def test_single_silent_target(provider, model) -> None:
    """With no other target a silent one is asked again, as often as any other; then it is a 504."""
    await provider.script(f"{model}-1", {"never_answer": True})
    async with gateway_with_targets(provider, model, targets=1, one={"ttft_timeout": 0.2}) as gateway:
        answer = await complete(gateway.root, model)
    assert (answer.status, answer.error["code"]) == (504, "upstream_ttft_timeout")
    assert answer.error["retryable"] is True
    assert answer.headers["x-should-retry"] == "false"
    assert await requests_per_target(provider, model, 1) == [3]


# --- Retry-After -----------------------------------------------------------------------------------------------


def in_seconds(seconds: float) -> str:
    """Return an HTTP date that lies ahead."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("header", ["1", "date", "ms"])
async def test_retry_after_is_waited_for(provider, model, header) -> None:
    """A short `Retry-After`, in any of its forms, is waited out and wins over the backoff."""
    headers = {
        "1": {"Retry-After": "1"},
        "date": {"Retry-After": in_seconds(2)},  # whole seconds: between one and two
        "ms": {"Retry-After-Ms": "900"},
    }[header]
    await provider.script(f"{model}-1", {"status": 429, "headers": headers}, {})
    async with gateway_with_targets(provider, model) as gateway:
        assert text(await complete(gateway.root, model)) == TEXT20
    first, second = await provider.seen(f"{model}-1")
    assert 0.5 <= second["started_at"] - first["started_at"] < 5
    assert await requests_per_target(provider, model) == [2, 0]


@pytest.mark.parametrize("wait", ["11", "3600"])
async def test_long_retry_after(provider, model, wait) -> None:
    """Over ten seconds: the next target at once."""
    await provider.script(f"{model}-1", {"status": 429, "headers": {"Retry-After": wait}})
    async with gateway_with_targets(provider, model) as gateway:
        began = time.monotonic()
        assert text(await complete(gateway.root, model)) == TEXT20
        assert time.monotonic() - began < 5
    assert await requests_per_target(provider, model) == [1, 1]


@BOTH
async def test_retry_after_past_the_time_left(provider, model, stream) -> None:
    """A wait that the stream has no time for is not begun: the caller gets 429 with it at once."""
    await provider.script(f"{model}-1", {"status": 429, "headers": {"Retry-After": "8"}})
    async with gateway_with_targets(provider, model, targets=1, streams={"total_timeout": 4.0}) as gateway:
        began = time.monotonic()
        answer = await complete(gateway.root, model, stream=stream)
        assert time.monotonic() - began < 3
    assert (answer.status, answer.headers["retry-after"]) == (429, "8")
    assert await requests_per_target(provider, model, 1) == [1]


async def test_429_with_none_left(provider, model) -> None:
    """With every target limited the caller gets 429 with the soonest `Retry-After`. No target is asked twice."""
    await provider.script(f"{model}-1", {"status": 429, "headers": {"Retry-After": "60"}})
    await provider.script(f"{model}-2", {"status": 429, "headers": {"Retry-After": "30"}})
    async with gateway_with_targets(provider, model) as gateway:
        answer = await complete(gateway.root, model)
    assert (answer.status, answer.headers["retry-after"]) == (429, "30")
    assert answer.headers["x-should-retry"] == "false"
    assert await requests_per_target(provider, model) == [1, 1]


async def test_retry_after_is_kept_while_others_fail(provider, model) -> None:
    """A target that asked to be left alone is left alone, also when the other one has failed for good."""
    await provider.script(f"{model}-1", {"status": 429, "headers": {"Retry-After": "60"}})
    await provider.script(f"{model}-2", {"status": 500})
    async with gateway_with_targets(provider, model) as gateway:
        answer = await complete(gateway.root, model)
    assert (answer.status, answer.headers["retry-after"]) == (429, "60")
    assert await requests_per_target(provider, model) == [1, 3]


# --- the circuit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [{"status": 429}, {"status": 400}, {"status": 401}, {"status": 404}])
async def test_what_the_circuit_does_not_count(provider, model, script) -> None:
    """4xx and 429 are answers of a target that is up: they never open its circuit."""
    await provider.script(f"{model}-1", script)
    async with gateway_with_targets(provider, model, recovery={"max_retries": 0, "breaker_failures": 1}) as gateway:
        for _ in range(3):
            await complete(gateway.root, model)
    assert (await requests_per_target(provider, model))[0] == 3


async def test_silent_whole_call_counts(provider, model) -> None:
    """A call that is not streamed has no clock but the stream's: when that runs out on a silent target it counts."""
    await provider.script(f"{model}-1", {"never_answer": True})
    tables = {"streams": {"total_timeout": 0.6}, "recovery": {"breaker_failures": 1}}
    async with gateway_with_targets(provider, model, one={"ttft_timeout": 0.2}, **tables) as gateway:
        answer = await complete(gateway.root, model, stream=False)
        assert (answer.status, answer.error["code"]) == (504, "total_timeout")
        assert text(await complete(gateway.root, model, stream=False)) == TEXT20
    assert await requests_per_target(provider, model) == [1, 1]
