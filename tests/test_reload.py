"""SIGHUP: the file's keys, models and upstreams are taken whole, or not at all, and live streams go on."""

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import internals
import pytest
from gateway import OwnProcess, in_process, own_process, settings, toml, tree
from provider import Provider
from wire import Client, call, complete, texts, until

from server.api import access


def key(name: str, token: str, **limits) -> dict:
    return {"name": name, "sha256": hashlib.sha256(token.encode()).hexdigest(), **limits}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def reload(gateway: OwnProcess, text: str, event: str = "reloaded") -> dict:
    """Write the file, send SIGHUP, and wait for the log line that answers it."""
    before = len(gateway.logged(event))
    gateway.config.write_text(text, encoding="utf-8")
    gateway.signal(signal.SIGHUP)
    await until(lambda: asyncio.sleep(0, len(gateway.logged(event)) > before))
    return gateway.logged(event)[-1]


async def test_keys(provider, model) -> None:
    """A new key is let in and a removed one is not, from the next request on."""
    async with own_process(provider.url, keys=[key("old", "one")]) as gateway:
        assert (await complete(gateway.root, model, headers=bearer("one"))).status == 200
        await reload(gateway, toml(tree(provider.url, keys=[key("new", "two")])))
        assert (await complete(gateway.root, model, headers=bearer("one"))).status == 401
        assert (await complete(gateway.root, model, headers=bearer("two"))).status == 200


async def test_a_name_with_another_token_is_another_owner(provider, model) -> None:
    """Whoever gets a name does not get the streams that were begun with its old token; an admin key still does."""
    await provider.script(model, {"tokens": 3}, {"tokens": 60, "rate": 40})
    keys = [key("web", "one"), key("root", "three", admin=True)]
    tables = {"streams": {"on_disconnect": "continue"}}
    async with in_process(provider.url, keys=keys, **tables) as gateway, Client(gateway.root) as client:
        mine = {**bearer("one"), "Idempotency-Key": "same"}
        ended = (await complete(gateway.root, model, headers=mine)).headers["x-stream-id"]
        await client.complete(model, headers=bearer("one"))
        live = (await client.head())[1]["x-stream-id"]
        keys[0] = key("web", "two")
        await gateway.app.reload(settings(provider.url, keys=keys, **tables), os.environ)
        seen = {}
        for token in ("two", "three"):
            statuses = [
                (await call(gateway.root, "GET", f"/v1/streams/{one}?after=1", headers=bearer(token))).status
                for one in (ended, live)
            ]
            listed = (await call(gateway.root, "GET", "/v1/streams", headers=bearer(token))).json["data"]
            seen[token] = statuses, [one["id"] for one in listed]
        other = await call(gateway.root, "DELETE", f"/v1/streams/{live}", headers=bearer("two"))
        assert seen == {"two": ([404, 404], []), "three": ([200, 200], [ended, live])}
        assert other.status == 404
        assert len(texts(await client.rest())) == 60  # a response that is under way goes on
        again = await complete(gateway.root, model, headers={**bearer("two"), "Idempotency-Key": "same"})
        assert again.headers["x-stream-id"] not in (ended, live)


async def test_streams_of_a_version_that_stored_the_name_alone(provider, model, tmp_path, monkeypatch) -> None:
    """They have no owner any more but an admin, because nobody knows which token began them."""
    store = {"kind": "sqlite", "path": str(tmp_path / "streams.db")}
    keys = [key("web", "one"), key("root", "two", admin=True)]
    with monkeypatch.context() as earlier:
        earlier.setattr(access, "owner_of", lambda key: key.name)
        async with in_process(provider.url, keys=keys, store=store) as gateway:
            stream = (await complete(gateway.root, model, headers=bearer("one"))).headers["x-stream-id"]
    async with in_process(provider.url, keys=keys, store=store) as gateway:
        answers = [
            await call(gateway.root, "GET", f"/v1/streams/{stream}", headers=bearer(one)) for one in ("one", "two")
        ]
    assert [answer.status for answer in answers] == [404, 200]


async def test_models(provider, model) -> None:
    """Models come and go; the list follows."""
    async with own_process(provider.url, models=[{"name": "a", "targets": [f"local/{model}"]}]) as gateway:
        assert (await complete(gateway.root, "b")).status == 404
        await reload(gateway, toml(tree(provider.url, models=[{"name": "b", "targets": [f"local/{model}"]}])))
        assert (await complete(gateway.root, "b")).status == 200
        assert (await complete(gateway.root, "a")).status == 404
        assert [one["id"] for one in (await call(gateway.root, "GET", "/v1/models")).json["data"]] == ["b"]


async def test_live_streams_go_on(provider, model) -> None:
    """A live stream keeps its upstream and loses nothing; the next one has the new one; then the old is closed."""
    await provider.script(model, {"tokens": 60, "rate": 40})
    async with Provider() as second, own_process(provider.url) as gateway, Client(gateway.root) as client:
        await second.script(model, {"tokens": 3})
        await client.complete(model)
        await client.head()
        await client.events(5)
        await reload(gateway, toml(tree(second.url)))
        assert len(texts((await complete(gateway.root, model)).events)) == 3
        assert len(texts(await client.rest())) == 60
        assert (len(await provider.seen(model)), len(await second.seen(model))) == (1, 1)
        old = int(provider.root.rpartition(":")[2])
        await until(lambda: asyncio.sleep(0, not connected(gateway.pid, old)))


def connected(pid: int, port: int) -> list[str]:
    """Give the connections of a process to a port of this machine."""
    links = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return [row[2] for row in rows if row[2].endswith(f":{port:04X}") and Path(f"socket:[{row[9]}]") in links]


async def test_a_live_stream_recovers_with_what_it_began_with(provider, model) -> None:
    """A stream whose upstream was taken out of the file asks it again where its recovery needs it."""
    await provider.script(
        model, {"tokens": 30, "seed_text": 1, "rate": 40, "cut_after": 20}, {"tokens": 30, "seed_text": 1}
    )
    again = {"recovery": {"strategy": "auto", "backoff": 0.0}}
    async with Provider() as second, in_process(provider.url, **again) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        await client.head()
        await client.events(5)
        await gateway.app.reload(settings(second.url, **again), os.environ)
        assert len(texts(await client.rest())) == 30
        await gateway.idle()
        assert len(await provider.seen(model)) == 2
        assert not internals.retired_clients(gateway.app.upstreams)


async def test_unchanged_upstreams_stay(provider, model) -> None:
    """An upstream that has not changed keeps its client, connections and open circuit; a changed one starts afresh."""
    await provider.script(model, {"status": 500})
    upstreams = [{"name": name, "base_url": provider.url} for name in ("same", "changed")]
    tables = {
        "recovery": {"strategy": "none", "breaker_failures": 1, "breaker_reset": 600.0},
        "models": [{"name": name, "targets": [f"{name}/{model}"]} for name in ("same", "changed")],
    }
    async with in_process(provider.url, upstreams=upstreams, **tables) as gateway:
        for name in ("same", "changed"):
            assert (await complete(gateway.root, name)).status == 500
        states = (await call(gateway.root, "GET", "/metrics")).body.decode()
        assert f'breaker_state{{target="same/{model}"}} 2.0' in states
        assert f'breaker_state{{target="changed/{model}"}} 2.0' in states
        client = internals.upstream_client(gateway.app.upstreams, "same")
        upstreams[1]["idle_timeout"] = 7.0
        await gateway.app.reload(settings(provider.url, upstreams=upstreams, **tables), os.environ)
        assert internals.upstream_client(gateway.app.upstreams, "same") is client
        await provider.script(model, {})
        assert (await complete(gateway.root, "changed")).status == 200  # shows its circuit again
        states = (await call(gateway.root, "GET", "/metrics")).body.decode()
        assert f'breaker_state{{target="same/{model}"}} 2.0' in states
        assert f'breaker_state{{target="changed/{model}"}} 0.0' in states


async def test_a_removed_target_leaves_the_metrics(provider, model) -> None:
    """The circuit of a target that is configured no more is shown no more."""
    models = [{"name": "m", "targets": [f"local/{model}"]}]
    async with in_process(provider.url, models=models) as gateway:
        await complete(gateway.root, "m")
        assert f'breaker_state{{target="local/{model}"}}' in (await call(gateway.root, "GET", "/metrics")).body.decode()
        await gateway.app.reload(settings(provider.url), os.environ)
        assert "breaker_state{" not in (await call(gateway.root, "GET", "/metrics")).body.decode()


async def test_a_limit_is_not_reset(provider, model) -> None:
    """What a key has used of its requests a minute stays used; a changed limit counts anew."""
    tables = {"keys": [key("k", "t", requests_per_minute=2)]}
    async with in_process(provider.url, **tables) as gateway:

        async def statuses(count: int) -> list[int]:
            return [(await complete(gateway.root, model, headers=bearer("t"))).status for _ in range(count)]

        assert await statuses(3) == [200, 200, 429]
        await gateway.app.reload(settings(provider.url, **tables), os.environ)
        assert await statuses(1) == [429]
        tables["keys"][0]["requests_per_minute"] = 4
        await gateway.app.reload(settings(provider.url, **tables), os.environ)
        assert await statuses(1) == [200]


BAD = {
    "not TOML": ("[[[", "not TOML"),
    "unknown key": ('[server]\nprot = 8080\n[[upstreams]]\nname="x"\nbase_url="http://127.0.0.1:1/v1"', "server.prot"),
    "half right": (toml(tree("http://127.0.0.1:1/v1", models=[{"name": "*", "targets": ["gone/*"]}])), "gone/*"),
    "no certificate": (toml(tree("https://127.0.0.1:1/v1", upstream={"ca_file": "/nonexistent.pem"})), "ca_file"),
    "empty": ("", "upstreams"),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_file(provider, model, name) -> None:
    """A bad file changes nothing at all, the log says what is wrong with it, and the next good one is taken."""
    await provider.script(model, {"tokens": 40, "rate": 40}, {})
    text, word = BAD[name]
    async with own_process(provider.url) as gateway, Client(gateway.root) as client:
        await client.complete(model)
        await client.head()
        line = await reload(gateway, text, "reload rejected")
        assert word in " ".join(line["problems"])
        assert line["level"] == "error"
        assert (await complete(gateway.root, model)).status == 200
        assert len(texts(await client.rest())) == 40
        await reload(gateway, toml(tree(provider.url)))
        assert (await complete(gateway.root, model)).status == 200


async def test_missing_file(provider, model) -> None:
    """A file that is gone is a bad file."""
    async with own_process(provider.url) as gateway:
        gateway.config.unlink()
        gateway.signal(signal.SIGHUP)
        await until(lambda: asyncio.sleep(0, gateway.logged("reload rejected")))
        assert (await complete(gateway.root, model)).status == 200


async def test_keys_are_not_dropped_in_the_open(provider, model) -> None:
    """A process that others can reach keeps its keys, though the file without them is valid for a loopback address."""
    options = {"server": {"host": "0.0.0.0"}, "keys": [key("k", "t")]}
    async with own_process(provider.url, **options) as gateway:
        line = await reload(gateway, toml(tree(provider.url)), "reload rejected")
        assert "[[keys]]" in " ".join(line["problems"])
        assert (await complete(gateway.root, model)).status == 401
        assert (await complete(gateway.root, model, headers=bearer("t"))).status == 200


async def test_what_takes_a_restart(provider, model) -> None:
    """Sections that are read at the start only are named, and the rest of the file is taken."""
    async with own_process(provider.url) as gateway:
        changed = tree(provider.url, streams={"linger": 7.0}, keys=[key("k", "t")])
        await reload(gateway, toml(changed))
        [line] = gateway.logged("changed, but only a restart takes it")
        assert line["sections"] == ["streams"]
        assert (await complete(gateway.root, model)).status == 401


async def test_many_at_once(provider, model) -> None:
    """A storm of SIGHUPs under load costs no stream a token."""
    await provider.script(model, {"tokens": 50, "rate": 50})
    async with own_process(provider.url) as gateway:
        asking = [asyncio.create_task(complete(gateway.root, model)) for _ in range(10)]
        while not all(task.done() for task in asking):
            gateway.signal(signal.SIGHUP)
            await asyncio.sleep(0.02)
        assert [len(texts(task.result().events)) for task in asking] == [50] * 10
        assert not gateway.logged("reload rejected")
        assert len(gateway.logged("reloaded")) > 1
