"""Circuits through a running gateway: what opens one, what one client can do with it, and who is asked all the same."""

import asyncio
import hashlib
import time

import pytest
from raw_upstream import HELLO, RawUpstream, gateway_over, refusal
from targets import TEXT20, gateway_with_targets, requests_per_target
from wire import Client, call, complete, completion, texts, until

BOTH = pytest.mark.parametrize("stream", [True, False])
KEYS = [
    {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "requests_per_minute": 100_000}
    for name in ("mallory", "victim")
]
CRASH = refusal(500, b'{"error":{"code":500,"message":"[json.exception.type_error.305]","type":"server_error"}}')


def text(answer) -> str:
    """Return what was said, streamed or not."""
    if answer.headers["content-type"].startswith("application/json"):
        return answer.json["choices"][0]["message"]["content"]
    return "".join(texts(answer.events))


def as_owner(name: str) -> dict[str, str]:
    """Return the header of an owner's request."""
    return {"Authorization": f"Bearer {name}"}


@BOTH
@pytest.mark.parametrize(
    ("script", "differ"), [({"status": 500}, True), ({"reset_before_head": True}, False), ({"garbage_at": 0}, True)]
)
async def test_circuit_opens_and_probes(provider, model, stream, script, differ) -> None:
    """Five failures open it, if need be of different requests. Then there is one probe at a time until one succeeds."""
    if not stream and "garbage_at" in script:
        script = {"status": 502, "error": "<html>"}
    await provider.script(f"{model}-1", script)
    recovery = {"max_retries": 0, "breaker_reset": 2.0}
    async with gateway_with_targets(provider, model, recovery=recovery) as gateway:
        for number in range(8):
            if number == 4:
                before_opening = time.monotonic()
            answer = await complete(gateway.root, model, stream=stream, seed=number if differ else 1)
            assert text(answer) == TEXT20
        assert await requests_per_target(provider, model) == [5, 8]
        await provider.script(f"{model}-1", {})
        target = ""
        while not target.startswith("one/"):
            answer = await complete(gateway.root, model, stream=stream)
            target = answer.headers["x-sluiceway-target"]
            assert time.monotonic() - before_opening < 20
        assert time.monotonic() - before_opening >= 2.0
        state = await call(gateway.root, "GET", "/metrics")
    assert f'sluiceway_breaker_state{{target="one/{model}-1"}} 0.0' in state.body.decode()


async def test_a_stream_counts_once(provider, model) -> None:
    """A stream that asks three times and fails is one failure: five of them open a circuit, not two."""
    await provider.script(f"{model}-1", {"reset_before_head": True})
    async with gateway_with_targets(provider, model) as gateway:
        for _ in range(6):
            assert text(await complete(gateway.root, model)) == TEXT20
    assert await requests_per_target(provider, model) == [4 * 3 + 1, 6]


async def test_one_request_again_and_again(provider, model) -> None:
    """One request that the target cannot bear, sent ten times, opens nothing."""
    await provider.script(f"{model}-1", {"status": 500})
    async with gateway_with_targets(provider, model, recovery={"max_retries": 0}) as gateway:
        for _ in range(10):
            assert text(await complete(gateway.root, model)) == TEXT20
    assert await requests_per_target(provider, model) == [10, 10]


@pytest.mark.parametrize("vary", [False, True])
@pytest.mark.parametrize("alone", [False, True])
async def test_one_owner_cannot_take_a_target_from_another(vary, alone) -> None:
    """One sends `tools: [5]`, which llama.cpp answers with 500, at every moment. The other loses nothing."""
    upstreams = [
        RawUpstream(lambda asked: CRASH if asked.get("tools") else HELLO) for _ in range(1 if alone else 2)
    ]  # fmt: skip
    stop = asyncio.Event()

    async def malice(root: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            tools = [5, number] if vary else [5]
            answer = await complete(root, "m", headers=as_owner("mallory"), tools=tools)
            assert answer.status == 500

    async with gateway_over(*upstreams, keys=KEYS, recovery={"max_retries": 1}) as gateway:
        assert (await complete(gateway.root, "m", headers=as_owner("victim"))).status == 200
        attacks = [asyncio.create_task(malice(gateway.root)) for _ in range(2)]
        answers = [await complete(gateway.root, "m", headers=as_owner("victim")) for _ in range(40)]
        stop.set()
        await asyncio.gather(*attacks)
    assert {answer.status for answer in answers} == {200}
    assert {answer.headers["x-sluiceway-target"] for answer in answers} == {"a/m"}, "also no slower way"


# --- a target without an alternative -----------------------------------------------------------------------------


async def test_the_only_target_is_asked_all_the_same() -> None:
    """Its own error reaches every client, also while its circuit is open, and its recovery reaches the next one."""
    a = RawUpstream(
        lambda asked: HELLO if asked["seed"] == 9 else refusal(500, b'{"error":{"message":"my own words"}}')
    )
    async with gateway_over(a, recovery={"max_retries": 0, "breaker_failures": 1}) as gateway:
        for seed in range(8):
            answer = await complete(gateway.root, "m", seed=seed)
            assert (answer.status, answer.error["message"]) == (500, "my own words")
        assert b'sluiceway_breaker_state{target="a/m"} 2.0' in (await call(gateway.root, "GET", "/metrics")).body
        assert (await complete(gateway.root, "m", seed=9)).status == 200
        assert b'sluiceway_breaker_state{target="a/m"} 0.0' in (await call(gateway.root, "GET", "/metrics")).body


async def test_sixteen_at_a_time() -> None:
    """While its circuit is open sixteen requests at a time are let through; one more is told to come back."""
    a = RawUpstream(lambda asked: None if asked.get("seed") else refusal(500, b"{}"))
    async with gateway_over(a, recovery={"max_retries": 0, "breaker_failures": 1}) as gateway:
        assert (await complete(gateway.root, "m")).status == 500
        clients = [Client(gateway.root) for _ in range(16)]
        for client in clients:
            await client.__aenter__()
            await client.ask("POST", "/v1/chat/completions", completion("m", seed=1))

        async def all_asked() -> bool:
            return len(a.bodies) == 17

        await until(all_asked)
        answer = await complete(gateway.root, "m", seed=1)
        assert (answer.status, answer.error["code"]) == (503, "no_target")
        assert "a/m with upstream_server_error" in answer.error["message"]
        assert "x-should-retry" not in answer.headers
        assert len(a.bodies) == 17
        for client in clients:
            client.close()


# --- no target ---------------------------------------------------------------------------------------------------


@BOTH
async def test_no_target(stream) -> None:
    """With all circuits open nothing is sent. The client learns why and when to come back, and its SDK may."""
    a = RawUpstream(refusal(500, b'{"error":{"message":"the words for another client"}}'))
    b = RawUpstream(b"")  # closes the connection without an answer
    async with gateway_over(a, b, recovery={"max_retries": 0, "breaker_failures": 1}) as gateway:
        failed = await complete(gateway.root, "m", stream=stream)
        answer = await complete(gateway.root, "m", stream=stream)
    assert (failed.status, failed.headers["x-should-retry"]) == (500, "false")
    assert (answer.status, answer.error["code"], answer.error["retryable"]) == (503, "no_target", True)
    assert "a/m with upstream_server_error, b/m with upstream_reset" in answer.error["message"]
    assert b"another client" not in answer.body
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    assert "x-should-retry" not in answer.headers
    assert (len(a.bodies), len(b.bodies)) == (1, 1)


async def test_a_limit_of_ours() -> None:
    """A limit of the gateway's own says how long to wait, and does not tell SDKs to give up."""
    keys = [{**KEYS[0], "requests_per_minute": 1}]
    async with gateway_over(RawUpstream(HELLO), keys=keys) as gateway:
        assert (await complete(gateway.root, "m", headers=as_owner("mallory"))).status == 200
        answer = await complete(gateway.root, "m", headers=as_owner("mallory"))
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers
