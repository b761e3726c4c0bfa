"""Before the head of an answer other targets are asked, as for a chat completion. After it nothing is taken back."""

import asyncio
import hashlib
import json

import pytest
import structlog
from plain_upstream import cuts, form, hangs_up, over, refuses, refuses_early, says, silent, taken
from wire import Client, CutError, call, request, until

from server.api.plain.kept import REPLAYED
from server.recovery.strategies import Auto

EMBEDDINGS, AUDIO = "/v1/embeddings", "/v1/audio/transcriptions"
ANSWER = {"data": [1], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
BODY = {"model": "m", "input": "Hi"}


FAILURES = {
    "500": refuses(500),
    "503": refuses(503),
    "429": refuses(429, **{"Retry-After": "60"}),
    "401": refuses(401),
    "404": refuses(404),
    "no answer": hangs_up,
    "no upstream": None,
}


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("path", [EMBEDDINGS, AUDIO])
async def test_the_next_target_answers(how: str, path: str) -> None:
    """Whatever a first target fails with, the second one gets the whole request with its own name for the model."""
    body, headers = (BODY, {}) if path == EMBEDDINGS else form()
    async with over(FAILURES[how], says(ANSWER)) as (gateway, *_, second):
        answer = await call(gateway.root, "POST", path, body, headers)
    assert (answer.status, answer.json) == (200, ANSWER)
    assert answer.headers["x-sluiceway-target"] == "b/m-of-b"
    assert "x-stream-id" not in answer.headers
    [seen] = second.seen
    assert (seen.path, seen.whole) == (path, True)
    if path == EMBEDDINGS:
        assert json.loads(seen.body) == {"model": "m-of-b", "input": "Hi"}
    else:
        assert bytes(seen.body) == body.replace(b"\r\n\r\nm\r\n", b"\r\n\r\nm-of-b\r\n")


async def test_the_same_target_again() -> None:
    """A target that fails for a moment is asked again, up to `max_retries` times."""
    async with over([refuses(500), hangs_up, says(ANSWER)], recovery={"max_retries": 2}) as (gateway, upstream):
        assert (await call(gateway.root, "POST", EMBEDDINGS, BODY)).status == 200
    assert len(upstream.seen) == 3


async def test_nobody_answers() -> None:
    """When all have failed, the client gets the first cause, and who said it. It need not try again by itself."""
    async with over(refuses(500, "first"), refuses(503, "second")) as (gateway, _, _):
        answer = await call(gateway.root, "POST", EMBEDDINGS, BODY)
    assert (answer.status, answer.error["message"]) == (500, "first")
    assert answer.error["upstream"] == {"name": "a", "target": "a/m-of-a", "request_id": None}
    assert answer.headers["x-should-retry"] == "false"


async def test_what_the_client_did_wrong() -> None:
    """A request that is wrong is wrong everywhere: nobody else is asked."""
    async with over(refuses(400), says(ANSWER)) as (gateway, _, two):
        assert (await call(gateway.root, "POST", EMBEDDINGS, BODY)).status == 400
    assert two.seen == []


@pytest.mark.parametrize(("size", "model_last", "status"), [
    (REPLAYED // 2, False, 200),  # still at hand
    (2 * REPLAYED, False, 500),  # sent, and gone
    (2 * REPLAYED, True, 200),  # on the disk, because nobody knew where to until it was there
])  # fmt: skip
async def test_how_much_can_be_sent_again(size: int, model_last: bool, status: int) -> None:
    """An upload of up to 4 MiB can go to another target. Of a larger one the failure is the client's, who may retry."""
    body, headers = form(size=size, model_last=model_last)
    async with over(refuses(500), says(ANSWER)) as (gateway, _, two):
        answer = await call(gateway.root, "POST", AUDIO, body, headers)
        assert answer.status == status
        if status == 500:
            assert "no longer at hand" in answer.error["message"]
            assert answer.error["retryable"]
            assert "x-should-retry" not in answer.headers
    assert [seen.size for seen in two.seen] == [len(body) + len("m-of-b") - 1] * (status == 200)


async def test_a_large_upload_to_nobody() -> None:
    """An upload of any size goes to another target as long as nothing of it was sent."""
    body, headers = form(size=3 * REPLAYED)
    async with over(None, says(ANSWER)) as (gateway, two):
        assert (await call(gateway.root, "POST", AUDIO, body, headers)).status == 200
    assert two.seen[0].size == len(body) + len("m-of-b") - 1


async def test_an_early_refusal() -> None:
    """A target that refuses an upload before it is whole is not sent the rest, and the next one gets all of it."""
    body, headers = form(size=2000)
    async with over(refuses_early, says(ANSWER)) as (gateway, _, two), Client(gateway.root) as client:
        wire = request("POST", AUDIO, body, headers)
        await client.send(wire[:-1000])
        await until(lambda: asyncio.sleep(0, len(two.seen) == 1))  # the first one has refused half of it
        await client.send(wire[-1000:])
        assert (await client.answer()).status == 200
    assert two.seen[0].size == len(body) + len("m-of-b") - 1


async def test_a_circuit() -> None:
    """Failures here open the circuit of a target, which is then not asked any more: not by chat, either."""
    recovery = {"breaker_failures": 2, "breaker_reset": 60.0}
    async with over(hangs_up, says(ANSWER), recovery=recovery) as (gateway, one, two):
        for _ in range(4):
            assert (await call(gateway.root, "POST", EMBEDDINGS, BODY)).status == 200
        assert gateway.app.upstreams.circuits["a/m-of-a"] == "open"
        chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        await call(gateway.root, "POST", "/v1/chat/completions", chat)
    assert len(one.seen) == 2
    assert [seen.path for seen in two.seen] == [EMBEDDINGS] * 4 + ["/v1/chat/completions"]


async def test_no_target() -> None:
    """When all circuits are open, nobody is asked: 503 with `Retry-After`, and an SDK may try again."""
    async with over(None, None, recovery={"breaker_failures": 1}) as (gateway,):
        await call(gateway.root, "POST", EMBEDDINGS, BODY)
        answer = await call(gateway.root, "POST", EMBEDDINGS, BODY)
    assert (answer.status, answer.error["code"]) == (503, "no_target")
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers


async def test_silence() -> None:
    """A streamed completion must begin within `ttft_timeout`, else another target is asked. All else has its time."""
    models = [{"name": "m", "targets": ["a/m", "b/m"], "ttft_timeout": 0.05, "last_resort_timeout": 20.0}]
    total = {"total_timeout": 1.0}
    async with over(silent, says(ANSWER), models=models, streams=total) as (gateway, _, _):
        body = {"model": "m", "prompt": "Hi"}
        assert (await call(gateway.root, "POST", "/v1/completions", {**body, "stream": True})).status == 200
        answer = await call(gateway.root, "POST", "/v1/completions", body)
        assert (answer.status, answer.error["code"]) == (504, "upstream_ttft_timeout")


@pytest.mark.parametrize("length", [True, False])
async def test_cut_in_the_middle(length: bool) -> None:
    """If an upstream breaks off in its answer, the client's connection is cut: a part never looks like the whole."""
    cut = cuts(500, of=1000 if length else None)
    with structlog.testing.capture_logs() as lines:
        async with over(cut, says(ANSWER)) as (gateway, _, two):
            async with Client(gateway.root) as client:
                await client.ask("POST", EMBEDDINGS, BODY)
                with pytest.raises(CutError):
                    await client.answer()
            metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
    assert two.seen == []
    [line] = [line for line in lines if line["event"] == "request ended"]
    assert (line["outcome"], line["reason"], line["bytes_out"], line["status"]) == ("cut", "upstream_cut", 500, 200)
    assert 'sluiceway_upstream_errors_total{kind="upstream_cut",target="a/m-of-a"} 1.0' in metrics


async def test_a_strategy_that_makes_no_sense(monkeypatch) -> None:
    """A third party's strategy that fails or decides nonsense ends the request with its first cause."""
    async with over(refuses(500)) as (gateway, _):
        for decide in (lambda _self, _failure: 1 / 0, lambda _self, _failure: "again"):
            monkeypatch.setattr(Auto, "decide", decide)
            assert (await call(gateway.root, "POST", EMBEDDINGS, BODY)).status == 500


KEYS = [
    {"name": "web", "sha256": hashlib.sha256(b"token").hexdigest(), "max_streams": 1},
    {"name": "ops", "sha256": hashlib.sha256(b"other").hexdigest(), "admin": True, "requests_per_minute": 3},
]
WEB, OPS = {"Authorization": "Bearer token"}, {"x-api-key": "other"}


async def test_limits() -> None:
    """What is relayed counts as a stream does, for its key and for the gateway; requests per minute count too."""
    async with (
        over(silent, keys=KEYS, server={"max_streams": 2}) as (gateway, upstream),
        Client(gateway.root) as one,
        Client(gateway.root) as two,
    ):
        await one.ask("POST", EMBEDDINGS, BODY, WEB)
        await until(lambda: asyncio.sleep(0, len(upstream.seen) == 1))
        refused = await call(gateway.root, "POST", AUDIO, *form_of(WEB))
        assert (refused.status, refused.error["code"]) == (429, "too_many_streams")
        await two.ask("POST", EMBEDDINGS, BODY, OPS)
        await until(lambda: asyncio.sleep(0, len(upstream.seen) == 2))
        chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        refused = await call(gateway.root, "POST", "/v1/chat/completions", chat, OPS)
        assert (refused.status, refused.error["code"]) == (429, "too_many_streams")
        assert (await call(gateway.root, "POST", EMBEDDINGS, BODY, OPS)).status == 429
        refused = await call(gateway.root, "POST", EMBEDDINGS, BODY, OPS)
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1


def form_of(headers: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    body, own = form()
    return body, {**own, **headers}


async def test_a_drain() -> None:
    """While the gateway drains, what runs is finished, and what comes is 503 with nothing sent upstream."""
    gate = asyncio.Event()

    async def waits(request, seen):
        await taken(request, seen)
        await gate.wait()
        return await says(ANSWER)(request, seen)

    async with over(waits) as (gateway, upstream), Client(gateway.root) as client:
        await client.ask("POST", EMBEDDINGS, BODY)
        await until(lambda: asyncio.sleep(0, len(upstream.seen) == 1))
        stopping = asyncio.create_task(gateway.app.streams.drain(20.0, 0.0, gateway.app.responder.idle))
        await until(lambda: asyncio.sleep(0, gateway.app.streams.stopping))
        refused = await call(gateway.root, "POST", EMBEDDINGS, BODY)
        assert (refused.status, refused.error["code"]) == (503, "draining")
        assert not stopping.done()
        gate.set()
        assert (await client.answer()).json == ANSWER
        await stopping
    assert len(upstream.seen) == 1
