"""A gateway whose database is full, locked or damaged says so, and loses, repeats or alters no token."""

import asyncio
import os
import random
import resource
import signal
import sqlite3
import subprocess
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import pytest
import wire
from gateway import own_process
from store_outage import (
    LONG,
    QUICK,
    SENT,
    STREAMS,
    UNREADY,
    CheckedClient,
    check_resumed,
    check_stopped,
    check_unready,
    start_streams,
    until_ended,
)

PAGE = 4096  # bytes; the first one has the schema


@pytest.fixture
def path(tmp_path):
    """The path of the database. A test may mount a disk of its own at its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder / "streams.db"


def gateway(provider, path, **more):
    """Run a gateway that restarts an answer that was cut."""
    store = {"kind": "sqlite", "path": str(path), "lease": 1.0}
    return own_process(provider.url, store=store, recovery={"strategy": "auto", "backoff": 0.05}, **more)


@asynccontextmanager
async def full_disk(provider, path):
    """A gateway on a small disk of its own, and how to fill that."""
    mount = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(path.parent))
    if await asyncio.to_thread(subprocess.call, [*command, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("file systems cannot be mounted here")
    async with gateway(provider, path, command=command) as running:
        filler = Path(f"/proc/{running.pid}/root{path.parent}/filler")

        @contextmanager
        def full():
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            assert os.statvfs(filler).f_bavail == 0
            yield "the disk is full"
            filler.unlink()

        yield running, full


@asynccontextmanager
async def limited_files(provider, path, **tables):
    """A gateway, and how to keep its files from growing: the kernel then refuses its writes, as a broken disk does."""
    async with gateway(provider, path, **tables) as running:

        @contextmanager
        def full():
            _, hard = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (4096, hard))
            yield "the disk reports an error"
            resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (hard, hard))

        yield running, full


@pytest.mark.parametrize("disk", [full_disk, limited_files])
async def test_full(provider, model, path, disk):
    """No room: streams end with a typed error, the log says why; with room again clients get what is missing."""
    await provider.script(model, *[LONG] * STREAMS, QUICK)
    async with disk(provider, path) as (running, full):
        clients = await start_streams(running.root, model)
        with full() as words:
            await check_stopped(clients)
            await check_unready(running.root, words, running.logged)
            for client in clients:  # what was stored can be read
                state = await wire.call(running.root, "GET", client.path, headers={"Accept": "application/json"})
                assert state.json["records"] == len(client.events)
        await check_resumed(running.root, model, clients)


@pytest.mark.parametrize(("policy", "linger", "state"), [("continue", 60.0, "complete"), ("cancel", 0.5, "cancelled")])
async def test_nobody_comes_back(provider, model, path, policy, linger, state):
    """With room again, a stream that nobody asks for goes on or ends, as its policy says. It does not stay as it is."""
    await provider.script(model, LONG, QUICK)
    async with limited_files(provider, path, streams={"linger": linger}) as (running, full):
        client = CheckedClient()
        await client.begin(running.root, model, {"X-On-Disconnect": policy})
        with full():
            await check_stopped([client])
        assert await until_ended(running.root, client) == state
        told = (await wire.call(running.root, "GET", client.path)).events
    assert told[: len(client.events)] == client.events
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    assert len(await provider.seen(model)) == (2 if policy == "continue" else 1)
    if policy == "continue":
        assert [event.data for event in told] == SENT


async def test_aborted_without_room(provider, model, path):
    """DELETE whose ending cannot be stored closes the upstream and is 503; the ending follows when there is room."""
    await provider.script(model, {**QUICK, "stall_after": 5})

    async def closed():
        (seen,) = await provider.seen(model)
        return seen["closed_by_client_at"]

    async with limited_files(provider, path) as (running, full):
        client = CheckedClient()
        await client.begin(running.root, model, {"X-On-Disconnect": "continue"})
        await client.connection.events(5)
        with full():
            refused = await wire.call(running.root, "DELETE", client.path)
            assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
            await wire.until(closed)
            await check_stopped([client])
        assert await until_ended(running.root, client) == "cancelled"
        rest = (await wire.call(running.root, "GET", client.path, headers={"Last-Event-ID": "5"})).events
    assert [event.id for event in rest] == [6]
    assert b'"cancelled"' in rest[0].data
    assert len(await provider.seen(model)) == 1


@contextmanager
def locked(path):
    """Hold the lock of the database, from another process than the gateway's."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


async def test_locked(provider, model, path):
    """A lock held for a moment delays tokens; one held for longer than the store waits ends streams, until it goes."""
    await provider.script(model, *[LONG] * STREAMS, QUICK)
    async with gateway(provider, path) as running:
        clients = await start_streams(running.root, model)
        with locked(path):
            await asyncio.sleep(0.5)
        for client in clients:
            await client.connection.events(8)
        with locked(path):
            await check_stopped(clients)
            await check_unready(running.root, "is locked by another process", running.logged)
        await check_resumed(running.root, model, clients)


@asynccontextmanager
async def standing_still(running, path):
    """While the block runs everything is in the file, and the gateway stands still."""
    with closing(sqlite3.connect(path, timeout=0)) as db:
        while True:
            running.signal(signal.SIGSTOP)
            try:
                if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:
                    yield
                    return
            finally:
                running.signal(signal.SIGCONT)
            await asyncio.sleep(0.01)  # it had the lock


async def test_damaged(provider, model, path):
    """Noise over all pages but the first: streams end with a typed error, and nothing wrong is shown."""
    await provider.script(model, QUICK, *[LONG] * STREAMS, QUICK)
    async with gateway(provider, path) as running:
        whole = await wire.complete(running.root, model)
        clients = await start_streams(running.root, model)
        async with standing_still(running, path):
            noise = random.Random(5).randbytes(path.stat().st_size - PAGE)
            with path.open("r+b") as file:
                file.seek(PAGE)
                file.write(noise)
        await check_stopped(clients)
        await check_unready(running.root, "is damaged", running.logged)
        ended = f"/v1/streams/{whole.headers['x-stream-id']}"
        for method, asked in [("GET", "/v1/streams"), ("GET", ended), ("GET", clients[0].path), ("DELETE", ended)]:
            answer = await wire.call(running.root, method, asked)
            assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
        assert not running.logged("handler failed")
    assert running.process.returncode == 0
    with pytest.raises(RuntimeError, match=r"sluiceway: The database \S+/streams.db is damaged\."):
        async with gateway(provider, path):
            pass


async def test_altered_in_one_place(provider, model, path):
    """A letter changes in a stream that is kept: it is not shown, `/readyz` is 503, and running streams go on."""
    stalled = {**QUICK, "stall_after": 50, "stall_for": 2.0}
    await provider.script(model, QUICK, *[stalled] * STREAMS)
    async with gateway(provider, path) as running:
        kept = CheckedClient()
        await kept.begin(running.root, model)
        await kept.rest()
        clients = await start_streams(running.root, model)
        async with standing_still(running, path):
            path.write_bytes(path.read_bytes().replace(b"word150 ", b"Word150 "))
        again = await wire.call(running.root, "GET", kept.path)
        assert b"id: " not in again.body
        assert b'"store_unavailable"' in again.body
        later = await wire.call(running.root, "GET", kept.path, headers={"Last-Event-ID": "160"})
        assert (later.status, later.error["code"]) == (503, "store_unavailable")
        ready = await wire.call(running.root, "GET", "/readyz")
        assert (ready.status, ready.json) == (503, UNREADY)
        (line,) = running.logged("store unavailable")
        assert "is damaged" in line["error"]
        for client in clients:
            await client.rest()
            client.check()
            assert len(client.events) == len(SENT)
            assert client.faults == []


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_gone(provider, model, path, how):
    """The file is deleted or replaced: running streams stop, as none of it would be there tomorrow, and it is said."""
    await provider.script(model, *[LONG] * STREAMS)
    async with gateway(provider, path) as running:
        clients = await start_streams(running.root, model)
        if how == "replaced":
            path.with_name("copy").write_bytes(path.read_bytes())
            path.with_name("copy").replace(path)
        else:
            path.unlink()
        await check_stopped(clients)
        await check_unready(running.root, "streams.db was deleted or replaced", running.logged)
    assert len(running.logged("database gone")) == 1


async def test_moved_away_and_back(provider, model, path):
    """If the same files come back, every stream goes on where it had stopped."""
    await provider.script(model, *[LONG] * STREAMS, QUICK)
    async with gateway(provider, path) as running:
        clients = await start_streams(running.root, model)
        path.parent.rename(path.parent.with_name("away"))
        await check_stopped(clients)
        path.parent.with_name("away").rename(path.parent)
        await check_resumed(running.root, model, clients)
