"""A gateway that cannot use its store says why in one line and ends with status 1; when the fault is over it starts."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import wire
from gateway import own_process, tree, written
from ports import free_port
from redis_server import RedisServer, running
from terminal import run

SUPPORT = Path(__file__).parents[1] / "support"
SLOW = 200  # microseconds that Redis takes for each key while it loads
KEYS = 20_000


async def refused(provider, folder, store):
    """Start a gateway that cannot start; return its one line. It ends though the fault lasts: so its waits do, too."""
    config = written(str(folder), tree(provider.url, store=store))
    status, out, said = await run("serve", "--config", str(config), "--port", "0")
    assert (status, out, said.count("\n")) == (1, "", 1)
    return said


async def is_ready(gateway):
    """Whether `/readyz` says so."""
    return (await wire.call(gateway.root, "GET", "/readyz")).status == 200


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
@pytest.mark.parametrize("made", [True, False])
async def test_locked(provider, tmp_path, mode, made):
    """Another process holds the lock of a database, used before or new: the wait for it is bounded."""
    store = {"kind": "sqlite", "path": str(tmp_path / "streams.db")}
    if made:
        async with own_process(provider.url, store=store):
            pass
    with closing(sqlite3.connect(store["path"], isolation_level=None)) as other:
        other.execute(f"BEGIN {mode}")
        said = await refused(provider, tmp_path, store)
        assert said == f"sluiceway: The database {store['path']} is locked by another process.\n"
        other.execute("ROLLBACK")
    async with own_process(provider.url, store=store) as gateway:
        assert await is_ready(gateway)


async def first_refused(provider, path, namespace, fault, over):
    """Start a gateway under a fault, and again, until it is ready, after the fault; return what the first one said.

    `fault` and `over` are of the shell, in namespaces of their own; `$0` is the folder of the database.
    """
    unshare = ("unshare", *namespace)
    if await asyncio.to_thread(subprocess.call, [*unshare, "true"], stderr=subprocess.DEVNULL):
        pytest.skip("there are no namespaces here")
    twice = (sys.executable, str(SUPPORT / "twice.py"), over, str(path.parent))
    command = (*unshare, "sh", "-c", f'{fault}; exec "$@"', str(path.parent), *twice)
    async with own_process(provider.url, store={"kind": "sqlite", "path": str(path)}, command=command) as gateway:
        assert await is_ready(gateway)
        said, status = gateway.lines[:2]
    assert status == "status 1\n"
    return said


@pytest.mark.parametrize("left", [0, 4096, 40_000])
@pytest.mark.parametrize("made", [True, False])
async def test_full(provider, tmp_path, left, made):
    """The disk has no room for what opening a database needs, whether there is a database already or not."""
    path = tmp_path / "disk" / "streams.db"
    path.parent.mkdir()
    if made:
        async with own_process(provider.url, store={"kind": "sqlite", "path": f"{path.parent}.db"}):
            pass
    fault = f"""
        mount -t tmpfs -o size=8m none "$0"
        {f'cp "$0.db" "{path}"' if made else ":"}
        cat /dev/zero > "$0/filler" 2> /dev/null
        truncate -s -{left} "$0/filler" """
    namespace = ("--user", "--map-root-user", "--mount")
    said = await first_refused(provider, path, namespace, fault, 'rm "$0/filler"')
    assert said == f"sluiceway: The database {path} cannot grow: the disk is full.\n"


@pytest.mark.parametrize("made", [True, False])
async def test_read_only_folder(provider, tmp_path, made):
    """A folder that may not be written is a clear error, whether the database is in it already or not."""
    path = tmp_path / "disk" / "streams.db"
    path.parent.mkdir()
    if made:
        async with own_process(provider.url, store={"kind": "sqlite", "path": str(path)}):
            pass
    # In a namespace of its own even root is refused.
    said = await first_refused(provider, path, ("--user",), 'chmod 555 "$0"', 'chmod 755 "$0"')
    words = "is read-only" if made else "cannot be opened: Permission denied"
    assert said == f"sluiceway: The database {path} {words}.\n"


async def test_redis_is_not_there(provider, tmp_path):
    """A server that is not there is reported at once."""
    port = free_port()
    said = await refused(provider, tmp_path, {"kind": "redis", "url": f"redis://127.0.0.1:{port}/0"})
    assert said.startswith(f"sluiceway: Redis at 127.0.0.1:{port}/0 cannot be used: ")
    assert "Connection refused" in said


async def test_redis_is_a_replica(provider, tmp_path):
    """A server that may only be read is reported."""
    with running(tmp_path) as server:
        store = {"kind": "redis", "url": server.url}
        assert server.call(f"REPLICAOF 127.0.0.1 {free_port()}") == b"+OK\r\n"
        assert "read only replica" in await refused(provider, tmp_path, store)
        assert server.call("REPLICAOF NO ONE") == b"+OK\r\n"
        async with own_process(provider.url, store=store) as gateway:
            assert await is_ready(gateway)


async def test_redis_stands_still(provider, tmp_path):
    """A server accepts the connection and says nothing: the wait for it is bounded."""
    with running(tmp_path) as server:
        server.pause()
        assert "Timeout" in await refused(provider, tmp_path, {"kind": "redis", "url": server.url})


async def test_redis_is_loading(provider, tmp_path):
    """The gateway waits for a server that reads its file, as after a start of the machine."""
    with running(tmp_path) as before:
        before.call("EVAL", f"\"for n = 1, {KEYS} do redis.call('SET', n, n) end\"", "0")
    server = RedisServer(tmp_path, "--key-load-delay", str(SLOW))
    starting = asyncio.create_task(asyncio.to_thread(server.start))

    async def loading():
        return b"LOADING" in await asyncio.to_thread(server.call, "PING")

    try:
        await wire.until(loading)
        async with own_process(provider.url, store={"kind": "redis", "url": server.url}) as gateway:
            assert await is_ready(gateway)
    finally:
        await starting
        server.kill()
