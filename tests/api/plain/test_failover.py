"""Before the head of an answer other targets are asked, as for a chat completion. After it nothing is taken back."""

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import structlog
from gateway import InProcess, in_process
from plain_upstream import PlainUpstream, cuts, hangs_up, nobody, refuses, refuses_early, says, silent, taken
from wire import Client, CutError, call, request, until

from server.api.plain.kept import REPLAYED

EMBEDDINGS, AUDIO = "/v1/embeddings", "/v1/audio/transcriptions"
ANSWER = {"data": [1], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
BODY = {"model": "m", "input": "Hi"}


@asynccontextmanager
async def over(*urls: str, **tables: Any) -> Any:
    """Run a gateway whose model `m` goes to `a/m`, `b/m`, …"""
    upstreams = [{"name": name, "base_url": url} for name, url in zip("abc", urls, strict=False)]
    models = [{"name": "m", "targets": [f"{one['name']}/m-of-{one['name']}" for one in upstreams]}]
    recovery = {"strategy": "auto", "backoff": 0.01, "max_retries": 0, **tables.pop("recovery", {})}
    async with in_process(urls[0], upstreams=upstreams, models=models, recovery=recovery, **tables) as gateway:
        yield gateway


def form(*, size: int = 1000, model_last: bool = False) -> tuple[bytes, dict[str, str]]:
    """Return a recording of so many bytes with its model, and the headers that belong to it."""
    parts = [
        b'--xX\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n',
        b'--xX\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + b"s" * size + b"\r\n",
    ]
    body = b"".join(parts[::-1] if model_last else parts) + b"--xX--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=xX", "Content-Length": str(len(body))}


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
    async with AsyncExitStack() as stack:
        failing = FAILURES[how]
        first = await stack.enter_async_context(nobody() if failing is None else PlainUpstream(failing))
        second = await stack.enter_async_context(PlainUpstream(says(ANSWER)))
        url = first if isinstance(first, str) else first.url
        gateway = await stack.enter_async_context(over(url, second.url))
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
    async with PlainUpstream(refuses(500), hangs_up, says(ANSWER)) as upstream:
        async with over(upstream.url, recovery={"max_retries": 2}) as gateway:
            assert (await call(gateway.root, "POST", EMBEDDINGS, BODY)).status == 200
    assert len(upstream.seen) == 3


async def test_nobody_answers() -> None:
    """When all have failed, the client gets the first cause, and who said it. It need not try again by itself."""
    async with PlainUpstream(refuses(500, "first")) as one, PlainUpstream(refuses(503, "second")) as two:
        async with over(one.url, two.url) as gateway:
            answer = await call(gateway.root, "POST", EMBEDDINGS, BODY)
    assert (answer.status, answer.error["message"]) == (500, "first")
    assert answer.error["upstream"] == {"name": "a", "target": "a/m-of-a", "request_id": None}
    assert answer.headers["x-should-retry"] == "false"


async def test_what_the_client_did_wrong() -> None:
    """A request that is wrong is wrong everywhere: nobody else is asked."""
    async with PlainUpstream(refuses(400)) as one, PlainUpstream(says(ANSWER)) as two:
        async with over(one.url, two.url) as gateway:
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
    async with PlainUpstream(refuses(500)) as one, PlainUpstream(says(ANSWER)) as two:
        async with over(one.url, two.url) as gateway:
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
    async with nobody() as one, PlainUpstream(says(ANSWER)) as two, over(one, two.url) as gateway:
        assert (await call(gateway.root, "POST", AUDIO, body, headers)).status == 200
    assert two.seen[0].size == len(body) + len("m-of-b") - 1


async def test_an_early_refusal() -> None:
    """A target that refuses an upload before it is whole is not sent the rest, and the next one gets all of it."""
    body, headers = form(size=2000)
    async with (
        PlainUpstream(refuses_early) as one,
        PlainUpstream(says(ANSWER)) as two,
        over(one.url, two.url) as gateway,
    ):
        async with Client(gateway.root) as client:
            wire = request("POST", AUDIO, body, headers)
            await client.send(wire[:-1000])
            await until(lambda: asyncio.sleep(0, len(two.seen) == 1))  # the first one has refused half of it
            await client.send(wire[-1000:])
            assert (await client.answer()).status == 200
    assert two.seen[0].size == len(body) + len("m-of-b") - 1


async def test_a_circuit() -> None:
    """Failures here open the circuit of a target, which is then not asked any more: not by chat, either."""
    async with PlainUpstream(hangs_up) as one, PlainUpstream(says(ANSWER)) as two:
        recovery = {"breaker_failures": 2, "breaker_reset": 60.0}
        async with over(one.url, two.url, recovery=recovery) as gateway:
            for _ in range(4):
                assert (await call(gateway.root, "POST", EMBEDDINGS, BODY)).status == 200
            assert gateway.app.upstreams.circuits["a/m-of-a"] == "open"
            chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
            await call(gateway.root, "POST", "/v1/chat/completions", chat)
    assert len(one.seen) == 2
    assert [seen.path for seen in two.seen] == [EMBEDDINGS] * 4 + ["/v1/chat/completions"]


async def test_no_target() -> None:
    """When all circuits are open, nobody is asked: 503 with `Retry-After`, and an SDK may try again."""
    async with nobody() as one, nobody() as two, over(one, two, recovery={"breaker_failures": 1}) as gateway:
        await call(gateway.root, "POST", EMBEDDINGS, BODY)
        answer = await call(gateway.root, "POST", EMBEDDINGS, BODY)
    assert (answer.status, answer.error["code"]) == (503, "no_target")
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers


async def test_silence() -> None:
    """A streamed completion must begin within `ttft_timeout`, else another target is asked. All else has its time."""
    async with PlainUpstream(silent) as one, PlainUpstream(says(ANSWER)) as two:
        upstreams = [
            {"name": "a", "base_url": one.url, "ttft_timeout": 0.05},
            {"name": "b", "base_url": two.url},
        ]
        models = [{"name": "m", "targets": ["a/m", "b/m"]}]
        async with in_process(one.url, upstreams=upstreams, models=models, recovery={"strategy": "retry"},
                              streams={"total_timeout": 0.5}) as gateway:  # fmt: skip
            body = {"model": "m", "prompt": "Hi"}
            assert (await call(gateway.root, "POST", "/v1/completions", {**body, "stream": True})).status == 200
            answer = await call(gateway.root, "POST", "/v1/completions", body)
            assert (answer.status, answer.error["code"]) == (504, "upstream_ttft_timeout")


@pytest.mark.parametrize("length", [True, False])
async def test_cut_in_the_middle(length: bool) -> None:
    """If an upstream breaks off in its answer, the client's connection is cut: a part never looks like the whole."""
    async with PlainUpstream(cuts(500, of=1000 if length else None)) as one, PlainUpstream(says(ANSWER)) as two:
        with structlog.testing.capture_logs() as lines:
            async with over(one.url, two.url) as gateway:
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
    async with PlainUpstream(refuses(500)) as one, over(one.url) as gateway:
        for decide in (lambda _: 1 / 0, lambda _: "again"):
            monkeypatch.setattr(
                type(_strategy(gateway)), "decide", lambda _self, failure, decide=decide: decide(failure)
            )
            assert (await call(gateway.root, "POST", EMBEDDINGS, BODY)).status == 500


def _strategy(gateway: InProcess) -> Any:
    return gateway.app._strategy


KEYS = [
    {"name": "web", "sha256": hashlib.sha256(b"token").hexdigest(), "max_streams": 1},
    {"name": "ops", "sha256": hashlib.sha256(b"other").hexdigest(), "admin": True, "requests_per_minute": 3},
]
WEB, OPS = {"Authorization": "Bearer token"}, {"x-api-key": "other"}


async def test_limits() -> None:
    """What is relayed counts as a stream does, for its key and for the gateway; requests per minute count too."""
    async with PlainUpstream(silent) as upstream:
        async with over(upstream.url, keys=KEYS, server={"max_streams": 2}) as gateway:
            async with Client(gateway.root) as one, Client(gateway.root) as two:
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

    async with PlainUpstream(waits) as upstream, over(upstream.url) as gateway, Client(gateway.root) as client:
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
