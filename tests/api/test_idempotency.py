"""`Idempotency-Key`: one generation a key and body, whoever asks how often and when."""

import asyncio

import pytest
from gateway import in_process
from wire import Client, call, complete, events_of, texts, until

KEY = {"Idempotency-Key": "k-1"}


async def test_join_live(gateway, provider, model) -> None:
    """A repeated request joins the live stream from its first record; one request went upstream."""
    await provider.script(model, {"tokens": 30, "rate": 50})
    async with Client(gateway.root) as first:
        await first.complete(model, headers=KEY)
        stream = (await first.head())[1]["x-stream-id"]
        await first.events(5)
        answer = await complete(gateway.root, model, headers=KEY)
        await first.rest()
    assert answer.headers["x-stream-id"] == stream
    assert answer.body == first.body
    assert len(await provider.seen(model)) == 1


async def test_join_ended(gateway, provider, model) -> None:
    """A repeated request after the end gets the same answer again; field order in the body does not matter."""
    first = await complete(gateway.root, model, headers=KEY, seed=1, n=1)
    again = await complete(gateway.root, model, headers=KEY, n=1, seed=1)
    assert (again.headers["x-stream-id"], again.body) == (first.headers["x-stream-id"], first.body)
    assert len(await provider.seen(model)) == 1


async def test_another_body(gateway, provider, model) -> None:
    """The key with another body is 422, live and ended."""
    await complete(gateway.root, model, headers=KEY)
    answer = await complete(gateway.root, model, headers=KEY, seed=2)
    assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")
    assert "x-stream-id" not in answer.headers


async def test_another_key(gateway, provider, model) -> None:
    """Another key, or none, is another generation."""
    streams = {
        (await complete(gateway.root, model, headers=headers)).headers["x-stream-id"]
        for headers in (KEY, {"Idempotency-Key": "k-2"}, {}, {})
    }
    assert len(streams) == 4


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 256])
async def test_insane_key(gateway, model, key) -> None:
    """A key that is none is 400."""
    answer = await complete(gateway.root, model, headers={"Idempotency-Key": key})
    assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")


async def test_at_the_same_moment(gateway, provider, model) -> None:
    """Twenty requests at once with one key are one generation, and all have the same answer."""
    await provider.script(model, {"ttft": 0.2})
    answers = await asyncio.gather(*(complete(gateway.root, model, headers=KEY) for _ in range(20)))
    assert len({(answer.status, answer.headers["x-stream-id"], answer.body) for answer in answers}) == 1
    assert len(await provider.seen(model)) == 1


async def test_failure_before_opening_releases_the_key(gateway, provider, model) -> None:
    """After a failure before the opening the same key may try again; all who waited for it got its error."""
    await provider.script(model, {"headers_after": 0.2, "status": 500}, {})
    answers = await asyncio.gather(*(complete(gateway.root, model, headers=KEY) for _ in range(3)))
    assert [answer.status for answer in answers] == [500] * 3
    again = await complete(gateway.root, model, headers=KEY)
    assert (again.status, len(texts(again.events))) == (200, 20)
    assert again.headers["x-stream-id"] != answers[0].headers["x-stream-id"]


async def test_failure_after_opening_keeps_the_key(gateway, provider, model) -> None:
    """A failure in the middle is the answer: whoever repeats the request reads it again, and nothing is asked twice."""
    await provider.script(model, {"cut_after": 3})
    first = await complete(gateway.root, model, headers=KEY)
    again = await complete(gateway.root, model, headers=KEY)
    assert again.body == first.body
    assert len(await provider.seen(model)) == 1


async def test_first_asker_leaves(gateway, provider, model) -> None:
    """The one who asked first may leave: the stream goes on for the one who joined."""
    await provider.script(model, {"tokens": 30, "rate": 50})
    async with Client(gateway.root) as first, Client(gateway.root) as second:
        await first.complete(model, headers=KEY)
        await first.head()
        await second.complete(model, headers=KEY)
        await second.head()
        first.leave("rst")
        assert len(texts(await second.rest())) == 30


async def test_owners_do_not_share_keys(provider, model) -> None:
    """The same key of two owners is two generations."""
    hashes = {
        "a": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
        "b": "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d",
    }
    keys = [{"name": name, "sha256": digest} for name, digest in hashes.items()]
    async with in_process(provider.url, keys=keys) as gateway:
        streams = {
            (await complete(gateway.root, model, headers=KEY | {"Authorization": f"Bearer {name}"})).headers[
                "x-stream-id"
            ]
            for name in hashes
        }
        assert len(streams) == 2


async def test_joining_is_not_another_live_stream(provider, model) -> None:
    """A join does not count against `max_streams`: it is the stream that runs already."""
    await provider.script(model, {"tokens": 20, "rate": 20})
    async with in_process(provider.url, server={"max_streams": 1}) as gateway:
        first, again = await asyncio.gather(*(complete(gateway.root, model, headers=KEY) for _ in range(2)))
        assert (first.status, again.status) == (200, 200)


async def test_after_retention(provider, model) -> None:
    """After the retention the key is free again."""
    async with in_process(provider.url, streams={"retention": 0.2}) as gateway:
        await complete(gateway.root, model, headers=KEY)

        async def asked_again() -> bool:
            await complete(gateway.root, model, headers=KEY)
            return len(await provider.seen(model)) > 1

        await until(asked_again)


async def test_whole(gateway, provider, model) -> None:
    """A non-streaming request has the same semantics: one call, one answer, also while it is under way."""
    await provider.script(model, {"ttft": 0.2})
    answers = await asyncio.gather(*(complete(gateway.root, model, headers=KEY, stream=False) for _ in range(5)))
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].json["object"] == "chat.completion"
    assert len(await provider.seen(model)) == 1


async def test_native_get_of_a_joined_stream(gateway, model) -> None:
    """The joined stream is the one under its id."""
    answer = await complete(gateway.root, model, headers=KEY)
    again = await call(gateway.root, "GET", f"/v1/streams/{answer.headers['x-stream-id']}")
    assert events_of(again.body) == answer.events


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_released_before_the_error_is_told(provider, model, tmp_path, store) -> None:
    """Whoever tries again as soon as the error has come begins anew, on either store."""
    tables = {"store": {"kind": store, "path": str(tmp_path / "streams.db")}, "recovery": {"breaker_failures": 1000}}
    async with in_process(provider.url, **tables) as gateway, Client(gateway.root) as client:
        for number in range(20):
            await provider.script(model, {"status": 500}, {})
            key = {"Idempotency-Key": f"k-{number}"}
            await client.complete(model, headers=key)
            assert (await client.answer()).status == 500
            await client.complete(model, headers=key)
            assert (await client.answer()).status == 200
