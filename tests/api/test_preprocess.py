"""`[preprocess]`: functions change a request, side by side, while its upstream is being connected."""

import asyncio
import threading
import time

import internals
import pytest
import structlog
from behind_tls import behind_tls
from certificates import certify
from gateway import in_process, own_process, settings
from preprocessors import PAUSE
from timing import until_fast
from wire import Client, call, complete, completion, until

from server.config.check import parse
from server.core.generation import Generation
from server.streams.preprocess import MAX_THREADS, PreprocessError, Preprocessing
from server.upstreams import pool

HANDSHAKE = 0.4  # seconds


def configured(*names: str, **settings: float) -> dict:
    """Return the table for these functions of `preprocessors`."""
    return {**settings, **{name: f"preprocessors:{name}" for name in names}}


async def body_of(provider, model: str, *names: str, timeout: float = 10.0) -> dict:
    """Return the body of a plain request that the upstream sees."""
    async with in_process(provider.url, preprocess=configured(*names, timeout=timeout)) as gateway:
        assert (await complete(gateway.root, model)).status == 200
    [seen] = await provider.seen(model)
    return seen["body"]


async def test_changes_are_laid_over_the_request(provider, model) -> None:
    """Async and plain functions each change their fields. The others stay."""
    body = await body_of(provider, model, "shout", "warm")
    assert body["messages"] == [{"role": "user", "content": "SAY IT."}]
    assert body["temperature"] == 1.5
    assert body["model"] == model


@pytest.mark.parametrize(("names", "temperature"), [(("warm", "cool"), 0.0), (("cool", "warm"), 1.5)])
async def test_the_later_one_counts(provider, model, names, temperature) -> None:
    """If two functions change a field, the order of the configuration decides, not which one is faster."""
    assert (await body_of(provider, model, *names))["temperature"] == temperature


async def test_side_by_side(provider, model) -> None:
    """Three functions that take a while run side by side."""
    names = ("slowly", "slowly_in_thread", "shout")
    async with in_process(provider.url, preprocess=configured(*names, timeout=10.0)) as gateway:

        async def ask(_number: int) -> float:
            started = time.monotonic()
            assert (await complete(gateway.root, model)).status == 200
            took = time.monotonic() - started
            assert took >= PAUSE
            return took

        await until_fast(ask, 1.9 * PAUSE)
    seen = (await provider.seen(model))[-1]
    assert (seen["body"]["seed"], seen["body"]["top_p"]) == (1, 0.5)


@pytest.mark.parametrize(
    "name",
    ["fail", "leave", "leave_async", "spoil", "no_dict", "no_json", "invalid", "other_model"],
)
async def test_one_that_fails(provider, model, name) -> None:
    """It changes nothing, and the others do. The log names it, and quotes nothing of the request."""
    with structlog.testing.capture_logs() as lines:
        body = await body_of(provider, model, name, "cool")
    assert body["messages"] == [{"role": "user", "content": "Say it."}]
    assert body["model"] == model
    assert body["temperature"] == 0.0
    said = [line for line in lines if line["event"] == "preprocessor failed"]
    assert [line["preprocessor"] for line in said] == ([] if name == "spoil" else [name])
    assert "Say it." not in str(lines)


@pytest.mark.parametrize("name", ["never", "never_in_thread"])
async def test_one_that_hangs(provider, model, name) -> None:
    """After the timeout the request goes on without the function."""
    with structlog.testing.capture_logs() as lines:
        started = time.monotonic()
        body = await body_of(provider, model, name, "cool", timeout=0.6)
        assert 0.6 <= time.monotonic() - started < 3
    assert body["temperature"] == 0.0
    [late] = [line for line in lines if line["event"] == "preprocessor late"]
    assert late["preprocessor"] == name


async def test_threads_are_bounded() -> None:
    """When too many threads hang, further requests go on without one."""
    tree = {
        "upstreams": [{"name": "u", "base_url": "http://127.0.0.1:1"}],
        "models": [{"name": "*", "targets": ["u/*"]}],
    }
    given = parse({**tree, "preprocess": configured("never_in_thread", timeout=0.2)}, {})
    preprocessing = Preprocessing(given.preprocess, lambda _: None)
    asked = Generation(dialect="chat", model="m", body={"model": "m"}, stream=True, policy="cancel")
    before = threads()
    answers = await asyncio.gather(*(preprocessing.run(asked) for _ in range(2 * MAX_THREADS)))
    assert answers == [asked] * (2 * MAX_THREADS)
    assert threads() - before == MAX_THREADS


def threads() -> int:
    """Return how many threads run a function."""
    return sum(thread.name == "preprocess" for thread in threading.enumerate())


async def test_beside_the_connect(provider, model, tmp_path, monkeypatch) -> None:
    """A handshake of 0.4 s and a function of 0.4 s take less than 0.8 s together: they run side by side."""
    monkeypatch.setattr(pool.UpstreamClient, "connect", nothing)  # no connection is there before the request
    certificate = certify(tmp_path)
    trust = {"ca_file": str(certificate.certificate)}

    async def ask(_number: int) -> float:
        async with in_process(url, upstream=trust, preprocess=configured("slowly")) as gateway:
            started = time.monotonic()
            assert (await complete(gateway.root, model)).status == 200
            took = time.monotonic() - started
            await gateway.idle()
            window = gateway.app.metrics.stats.windows()["5m"]
        assert window["phases"]["tls"]["count"] == 1
        assert window["phases"]["tls"]["p50"] > HANDSHAKE * 900
        assert window["overhead"]["p50"] > PAUSE * 900  # the function is the gateway's time
        return max(took, window["overhead"]["p50"] / 1000)

    async with behind_tls(provider.url, certificate, handshake=HANDSHAKE) as url:
        await until_fast(ask, PAUSE + HANDSHAKE)


async def nothing(_client: pool.UpstreamClient) -> None:
    """Make no connection."""


async def test_an_upstream_that_is_away(model) -> None:
    """If the upstream cannot be connected meanwhile, the request fails as it would have without."""
    for names in (("slowly",), ("cool",)):
        async with in_process("http://127.0.0.1:1/v1", preprocess=configured(*names)) as gateway:
            answer = await complete(gateway.root, model)
            assert (answer.status, answer.error["code"]) == (502, "upstream_connect")


async def test_a_client_that_leaves_meanwhile(provider, model) -> None:
    """No attempt is begun for it, and nothing of it stays."""
    async with in_process(provider.url, preprocess=configured("slowly")) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            await asyncio.sleep(PAUSE / 4)
            client.leave()
        await asyncio.sleep(2 * PAUSE)
        assert gateway.app.streams.live == 0
        assert (await call(gateway.root, "GET", "/v1/streams")).json["data"] == []
    assert await provider.seen(model) == []


async def test_a_reload_meanwhile(provider, model) -> None:
    """A reload replaces the upstream meanwhile. The former one is still asked, and closed afterwards."""
    tables = {"preprocess": configured("slowly"), "upstream": {"ttft_timeout": 5.0}}
    async with in_process(provider.url, **tables) as gateway:
        old = internals.upstream_client(gateway.app.upstreams, "local")
        asking = asyncio.create_task(complete(gateway.root, model))
        await until(lambda: asyncio.sleep(0, len(internals.starting_streams(gateway.app))))
        await gateway.app.reload(settings(provider.url, **{**tables, "upstream": {"ttft_timeout": 6.0}}), {})
        assert internals.upstream_client(gateway.app.upstreams, "local") is not old
        assert (await asking).status == 200
        await gateway.idle()
        await until(lambda: asyncio.sleep(0, internals.is_closed(old)))
        assert not internals.retired_clients(gateway.app.upstreams)


async def test_limits_count_what_is_prepared(provider, model) -> None:
    """Requests that are still being prepared count as streams: `max_streams` holds meanwhile."""
    await provider.script(model, {"stall_after": 1})
    async with in_process(provider.url, preprocess=configured("slowly"), server={"max_streams": 3}) as gateway:
        clients = [Client(gateway.root) for _ in range(8)]
        for client in clients:
            await client.__aenter__()
            await client.complete(model)
        statuses = [(await client.head())[0] for client in clients]
        assert sorted(statuses) == [200] * 3 + [429] * 5
        for client in clients:
            client.leave()
        await gateway.idle()


async def test_the_same_key_joins(provider, model) -> None:
    """An Idempotency-Key stands for the request as its client sent it, not for the changed one."""
    async with in_process(provider.url, preprocess=configured("shout")) as gateway:
        headers = {"Idempotency-Key": "once"}
        first = await complete(gateway.root, model, headers=headers)
        again = await complete(gateway.root, model, headers=headers)
        other = await complete(gateway.root, model, headers=headers, seed=1)
    assert first.body == again.body
    assert other.status == 422
    assert len(await provider.seen(model)) == 1


async def test_the_same_key_while_the_first_fails(provider, model) -> None:
    """A request under a key whose first request is failing is prepared, too: none goes upstream unchanged."""
    await provider.script(model, {"status": 400, "error": {"message": "no", "code": "x"}, "headers_after": 0.3}, {})
    async with in_process(provider.url, preprocess=configured("shout")) as gateway:
        create, made = gateway.app.store.create, []

        async def create_late(beginning):
            made.append(beginning)
            if len(made) > 1:
                await gateway.idle_streams()
                await asyncio.sleep(0.05)  # the key is free by now
            return await create(beginning)

        gateway.app.store.create = create_late
        headers = {"Idempotency-Key": "once"}
        first = asyncio.create_task(complete(gateway.root, model, headers=headers))
        await until(lambda: provider.seen(model))
        second = await complete(gateway.root, model, headers=headers)
        assert ((await first).status, second.status) == (400, 400)
        third = await complete(gateway.root, model, headers=headers)
        assert third.status == 200
    assert [one["body"]["messages"][0]["content"] for one in await provider.seen(model)] == ["SAY IT."] * 2


async def test_native_resume(provider, model) -> None:
    """A client that repeats its prompt with its session still resumes."""
    async with in_process(provider.url, preprocess=configured("shout")) as gateway:
        asked = {"model": model, "messages": completion(model)["messages"]}
        first = await call(gateway.root, "POST", "/api/stream", asked)
        body = {**asked, "session_id": first.headers["x-stream-id"], "last_event_id": 0}
        again = await call(gateway.root, "POST", "/api/stream", body)
    assert again.body == first.body
    [seen] = await provider.seen(model)
    assert seen["body"]["messages"][0]["content"] == "SAY IT."


@pytest.mark.parametrize("place", ["preprocessors:nowhere", "no_such_module:f", "preprocessors:NOT_A_FUNCTION"])
async def test_one_that_cannot_be_used(provider, place) -> None:
    """The gateway does not start, and one sentence says why."""
    with pytest.raises(PreprocessError, match="'mine'"):
        async with in_process(provider.url, preprocess={"mine": place}):
            pass
    with pytest.raises(RuntimeError, match="The preprocessor 'mine'"):
        async with own_process(provider.url, preprocess={"mine": place}):
            pass
