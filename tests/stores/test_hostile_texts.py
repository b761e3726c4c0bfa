"""Whatever clients and upstreams put into a stream's facts, no other stream of the same batch is touched."""

import asyncio
from dataclasses import replace

import pytest
from contract import DONE, beginning, ending, everything, tokens
from redis_server import running

from server.config.check import parse
from server.core.errors import StoreError
from server.stores.redis import RedisStore
from server.stores.sqlite import SqliteStore

TEXTS = {
    "space": "a b",
    "newline": "a\nb",
    "line of a head": "a 1 1 1 1 x 0\n",
    "tab": "a\tb",
    "NUL": "a\0b",
    "0xFF": "a\xffb",
    "colon": "a:b",
    "JSON": '"}],[',
    "glob and format": "%s%d*?[",
    "line separator": "a\u2028b",
    "surrogate": "a\ud800b",
    "halves the wrong way round": "\udc00\ud800",
    "very long": "x" * 1_000_000,
    "very long and wide": "\U0001f642" * 100_000,
    "empty": "",
}
UNWRITABLE = {"surrogate", "halves the wrong way round"}  # no UTF-8 has them

ESCAPED = {
    "NUL": r"a\x00b",
    "surrogate": r"a\ud800b",
    "halves the wrong way round": r"\udc00\ud800",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for all."""
    with running(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture(params=["sqlite", "redis"])
async def stores(request, tmp_path):
    """Two instances that share their logs."""
    tree = {
        "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:1/v1"}],
        "models": [{"name": "*", "targets": ["local/*"]}],
        "store": {"kind": request.param, "path": str(tmp_path / "streams.db")},
    }
    if request.param == "redis":
        server = request.getfixturevalue("server")
        server.call("FLUSHALL")
        tree["store"]["url"] = server.url
    kind = {"sqlite": SqliteStore, "redis": RedisStore}[request.param]
    both = [kind(parse(tree, {})) for _ in range(2)]
    for store in both:
        await store.open()
    yield both
    for store in both:
        await store.close()


def facts(place, text):
    """Give a beginning that holds a text in one place."""
    if place == "idempotency":
        return beginning(idempotency=(text, "digest"))
    return beginning(**{place: text})


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("place", ["owner", "model", "request_id", "idempotency", "dialect"])
async def test_beginning(stores, place, name):
    """A log is begun with the text, and every instance reads it back; or it alone cannot be begun."""
    store, other = stores
    begun = facts(place, TEXTS[name])
    victims = [beginning() for _ in range(3)]
    hostile, *created = await asyncio.gather(store.create(begun), *map(store.create, victims), return_exceptions=True)
    assert [log.beginning for log in created] == victims
    assert isinstance(hostile, StoreError) == (name in UNWRITABLE)
    if name not in UNWRITABLE:
        found = await other.find(begun.id)
        assert found is not None
        assert found.beginning == begun
        assert {log.beginning.id async for log in other.logs()} == {one.id for one in (begun, *victims)}
    if place == "idempotency" and name not in UNWRITABLE:
        again = await other.create(replace(begun, id=beginning().id))
        assert again.beginning == begun


@pytest.mark.parametrize("name", TEXTS)
async def test_target(stores, name):
    """A target of any name is stored with the next append. NUL and a half of a surrogate pair become escapes."""
    store, other = stores
    hostile, victim = [await store.create(beginning()) for _ in range(2)]
    hostile.target = TEXTS[name]
    victim.target = "local/small"
    await asyncio.gather(*(log.append(tokens(3)) for log in (hostile, victim)))
    for log, target in ((hostile, ESCAPED.get(name, TEXTS[name])), (victim, "local/small")):
        found = await other.find(log.beginning.id)
        assert await everything(found) == tokens(3)
        assert found.target == target


def nested(depth):
    """Give lists in lists."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


ENDINGS = {
    "a number of 65 bits": {"usage": {"prompt_tokens": 1 << 64}},
    "a bill of 65 bits": {"billed": {"prompt_tokens": 1 << 64}},
    "nested too deeply": {"usage": {"x": nested(300)}},
    "surrogate in a message": {"error": {"error": {"message": "\ud800"}}},
    "surrogate in the reason": {"reason": "\ud800"},
    "surrogate in the target": {"target": "\ud800"},
    "a key that is no text": {"usage": {1: 1}},
    "something else": {"usage": {"x": object()}},
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_ending(stores, name):
    """An ending that cannot be written fails alone, whatever else is in its batch. A better one can follow."""
    store, other = stores
    hostile, *victims = [await store.create(beginning()) for _ in range(4)]
    await asyncio.gather(*(log.append(tokens(2)) for log in (hostile, *victims)))
    failed, *made = await asyncio.gather(
        hostile.append(DONE, ending(**ENDINGS[name])),
        *(log.append(DONE, ending()) for log in victims),
        return_exceptions=True,
    )
    assert isinstance(failed, StoreError)
    assert made == [None] * 3
    await hostile.append(DONE, ending())
    for log in (hostile, *victims):
        found = await other.find(log.beginning.id)
        assert found.ending is not None
        assert await everything(found) == tokens(2) + DONE


@pytest.mark.parametrize(("key", "kind"), [("log", "string"), ("records", "string"), ("log", "list")])
async def test_a_key_of_another_type(server, stores, key, kind):
    """What is wrong with one log in Redis concerns that log alone, also its later appends in the same batch."""
    store, other = stores
    if not isinstance(store, RedisStore):
        pytest.skip("SQLite's columns have one type")
    broken, victim = [await store.create(beginning()) for _ in range(2)]
    name = f"sluiceway:{key}:{broken.beginning.id}"
    server.call("DEL", name)
    server.call(*(("SET", name, "x") if kind == "string" else ("RPUSH", name, "x")))
    writes = [broken.put(tokens(1), lambda *_: None), broken.put(tokens(1, first=2), lambda *_: None)]
    await victim.append(tokens(2))
    for write in writes:
        with pytest.raises(StoreError, match="cannot be written"):
            await write.decided()
    assert await everything(await other.find(victim.beginning.id)) == tokens(2)


@pytest.mark.parametrize(("one", "two"), [(("a", "b:c"), ("a:b", "c")), (("1:a", "b"), ("1", "a:b"))])
async def test_keys_of_two_owners(stores, one, two):
    """Owners and keys that make the same text together are still two."""
    store, _ = stores
    logs = [await store.create(beginning(owner=owner, idempotency=(key, "d"))) for owner, key in (one, two)]
    assert logs[0].beginning.id != logs[1].beginning.id


@pytest.mark.parametrize("field", ["beginning", "epoch", "tail", "lost", "active", "ended"])
async def test_a_log_that_cannot_be_read(server, stores, field):
    """A log in Redis whose fields are no longer what was written is left out of lists, and hides no other one."""
    store, other = stores
    if not isinstance(store, RedisStore):
        pytest.skip("SQLite has checksums")
    broken, victim = [await store.create(beginning()) for _ in range(2)]
    server.call("HSET", f"sluiceway:log:{broken.beginning.id}", field, "x")
    assert [log.beginning.id async for log in other.logs()] == [victim.beginning.id]
    assert await other.find(broken.beginning.id) is None


@pytest.mark.parametrize("message", ["x", "strm_x", "strm_x y", "\\xff"])
async def test_a_message_of_somebody_else(server, stores, message):
    """What is no claim is passed over, and later claims are heard."""
    store, other = stores
    if not isinstance(store, RedisStore):
        pytest.skip("SQLite has no channels")
    log = await store.create(beginning())
    server.call("PUBLISH", "sluiceway:claims", f'"{message}"')
    assert await other.claim(await other.find(log.beginning.id), force=True)
    async with asyncio.timeout(20):
        while not log.fenced:  # noqa: ASYNC110  # it is heard of by the channel, which sets no event
            await asyncio.sleep(0.01)
