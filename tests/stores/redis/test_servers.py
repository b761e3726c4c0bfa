"""Redis servers that would lose logs are refused; what passes is waited for; the time is the server's own."""

import asyncio
import re
import time
from contextlib import contextmanager

import pytest
from contract import DONE, beginning, ending, everything, tokens, until
from redis import exceptions
from redis_server import PROGRAM, RedisServer
from test_redis import make

from server.config.check import parse
from server.core.errors import StoreError
from server.stores.redis import RedisStore
from server.stores.redis.address import Address
from server.stores.redis.server import Server, is_away, unfit

LOSING = ["allkeys-lru", "allkeys-lfu", "allkeys-random"]
KEEPING = ["noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"]


@contextmanager
def server_with(folder, *options):
    """Run a server with options until the end of the block."""
    server = RedisServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(tmp_path):
    """A server of the test's own."""
    with server_with(tmp_path) as one:
        yield one


# --- what kind of server it is -------------------------------------------------------------------------------------


async def test_policies(server, tmp_path):
    """A policy that deletes keys without an expiry is refused at the start, and noticed later; any other one is not."""
    running = make(server, tmp_path)
    await running.open()
    for policy in [*LOSING, *KEEPING]:
        assert server.call("CONFIG", "SET", "maxmemory-policy", policy) == b"+OK\r\n"
        store = make(server, tmp_path)
        if policy in LOSING:
            with pytest.raises(StoreError, match=rf"Redis at 127.0.0.1:\d+/0 .* is {policy}, .* set noeviction$"):
                await store.open()
        else:
            await store.open()
            await store.close()
        assert (policy in (await running.problem() or "")) == (policy in LOSING)
    await running.close()


async def test_a_cluster(tmp_path):
    """A cluster is refused: it answers, but no batch can be written."""
    with server_with(tmp_path, "--cluster-enabled", "yes") as server:
        store = make(server, tmp_path)
        with pytest.raises(StoreError, match="it is a cluster"):
            await store.open()


def test_a_sentinel_is_none():
    """A sentinel at the address of a server is refused with the form of the address that would be right."""
    assert "redis+sentinel://" in (unfit({"redis_mode": "sentinel"}) or "")
    assert unfit({"redis_mode": "standalone", "maxmemory_policy": "noeviction"}) is None
    assert unfit({}) is None


# --- what passes ---------------------------------------------------------------------------------------------------

PASSES = [
    exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    exceptions.ResponseError("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
    exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
    exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."),
    exceptions.ResponseError("Command # 1 (HMGET a) of pipeline caused error: BUSY Redis is busy running a script."),
    exceptions.ResponseError("Error running script (call to f_1): @user_script:9: -OOM command not allowed"),
    exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    exceptions.ReadOnlyError("You can't write against a read only replica."),
    exceptions.MasterDownError("Link with MASTER is down"),
    exceptions.ConnectionError("max number of clients reached"),
    exceptions.TimeoutError("Timeout reading from socket"),
    ConnectionRefusedError("refused"),
]
STAYS = [
    exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    exceptions.ResponseError("unknown command 'EVALSHA'"),
    exceptions.NoPermissionError("this user has no permissions to run the 'xadd' command"),
    exceptions.ResponseError("Error running script: BUSYBODY OOMPH"),
]


def test_what_passes():
    """Each answer of a server that cannot do its work for a time is waited for, and no other one."""
    assert [error for error in PASSES if not is_away(error)] == []
    assert [error for error in STAYS if is_away(error)] == []


@contextmanager
def busy(server):
    """A script runs, and everybody else is told so."""
    server.call("CONFIG", "SET", "busy-reply-threshold", "1")
    server.send("EVAL", '"while true do end"', "0")
    yield
    server.call("SCRIPT", "KILL")


@contextmanager
def full(server):
    """There is no memory for more."""
    server.call("CONFIG", "SET", "maxmemory", "1")
    yield
    server.call("CONFIG", "SET", "maxmemory", "0")


@contextmanager
def alone(server):
    """There are fewer replicas than it is told to have."""
    server.call("CONFIG", "SET", "min-replicas-to-write", "1")
    yield
    server.call("CONFIG", "SET", "min-replicas-to-write", "0")


@pytest.mark.parametrize("fault", [busy, full, alone])
async def test_an_append_waits(server, tmp_path, fault):
    """An append and a creation meet it, wait, and are made once when it is over. Meanwhile the store says so."""
    store = make(server, tmp_path)
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(2))
    with fault(server):

        async def noticed():
            return await store.problem()

        await until(noticed)
        appending = asyncio.create_task(log.append(tokens(1, first=3)))
        creating = asyncio.create_task(store.create(beginning()))
        await asyncio.wait([appending, creating], timeout=0.5)
        assert not appending.done()
        assert not creating.done()
    await appending
    await (await creating).append(DONE, ending())
    await log.append(DONE, ending())
    assert await everything(log) == tokens(3) + DONE
    assert await store.problem() is None
    await store.close()


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-1, 1])
async def test_another_clock(server, tmp_path, monkeypatch, hours):
    """An instance whose clock is wrong by an hour deletes nothing, hides nothing, and keeps nothing for longer."""
    store = make(server, tmp_path)
    await store.open()
    right = time.time
    before, wrong = [await store.create(beginning(idempotency=(f"k{n}", "d"))) for n in range(2)]
    await before.append(DONE, ending())
    monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
    other = make(server, tmp_path)
    await other.open()
    await wrong.append(DONE, ending())  # its ending says another hour
    live = await other.create(beginning())
    await other.sweep(time.time())
    for log in (before, wrong, live):
        assert await other.find(log.beginning.id) is not None
        again = beginning(owner=log.beginning.owner, idempotency=log.beginning.idempotency)
        if log is not live:
            assert (await other.create(again)).beginning.id == log.beginning.id
    await store.follow(live)
    assert await other.followed(live)
    monkeypatch.undo()
    for log in (before, wrong, live):
        assert await store.find(log.beginning.id) is not None
    await store.sweep(time.time() + 601)
    for log in (before, wrong):
        assert await store.find(log.beginning.id) is None
    await other.close()
    await store.close()


# --- sentinel ------------------------------------------------------------------------------------------------------


class Sentinel(RedisServer):
    """A sentinel that watches a master alone."""

    def __init__(self, folder, master):
        super().__init__(folder)
        self.config = folder / "sentinel.conf"
        self.config.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )

    def command(self):
        return [PROGRAM, str(self.config), "--port", str(self.port), "--bind", "127.0.0.1", "--sentinel"]


@pytest.fixture
def watched(tmp_path):
    """A master, its replica and two sentinels; one of these is not running."""
    folders = [tmp_path / name for name in ("master", "replica", "sentinel")]
    for folder in folders:
        folder.mkdir()
    master = RedisServer(folders[0])
    replica = RedisServer(folders[1], "--replicaof", f"127.0.0.1 {master.port}", "--repl-diskless-sync-delay", "0")
    sentinel = Sentinel(folders[2], master)
    try:
        for one in (master, replica, sentinel):
            one.start()
        yield master, replica, sentinel
    finally:
        for one in (sentinel, replica, master):
            one.kill()


def sentinel_store(tmp_path, *ports):
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    tree = {
        "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:1/v1"}],
        "models": [{"name": "*", "targets": ["local/*"]}],
        "store": {"kind": "redis", "url": f"redis+sentinel://{hosts}/main/0", "lease": 1.0},
    }
    return RedisStore(parse(tree, {}))


async def synchronised(sentinel, replica):
    """Wait until the sentinel knows the replica, and the replica has everything."""

    async def ready():
        linked = b"master_link_status:up" in replica.call("INFO", "replication")
        return linked and b"num-slaves\r\n$1\r\n1" in sentinel.call("SENTINEL", "MASTER", "main")

    await until(ready)


async def test_sentinel(watched, tmp_path):
    """The master is found through a sentinel. It dies, the replica takes over, and a log goes on in its numbers."""
    master, replica, sentinel = watched
    await synchronised(sentinel, replica)
    store = sentinel_store(tmp_path, 1, sentinel.port)  # nobody is at the first address
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(3))

    async def copied():
        return b"3" in replica.call("HGET", f"sluiceway:log:{log.beginning.id}", "tail")

    await until(copied)
    master.kill()
    await log.append(tokens(2, first=4))
    assert await everything(log) == tokens(5)
    assert b"5" in replica.call("HGET", f"sluiceway:log:{log.beginning.id}", "tail")
    await log.append(DONE, ending())
    found = await store.find(log.beginning.id)
    assert await everything(found) == tokens(5) + DONE
    assert await store.problem() is None
    await store.close()


async def test_sentinel_moves_a_master_that_lives(watched, tmp_path):
    """After a failover by hand the old master, now a replica, is left, though it still answers."""
    master, replica, sentinel = watched
    await synchronised(sentinel, replica)
    store = sentinel_store(tmp_path, sentinel.port)
    await store.open()
    log = await store.create(beginning())
    await log.append(tokens(3))
    assert sentinel.call("SENTINEL", "FAILOVER", "main") == b"+OK\r\n"

    async def moved():
        return b"role:slave" in master.call("INFO", "replication")

    await until(moved)
    await log.append(tokens(2, first=4))
    assert b"5" in replica.call("HGET", f"sluiceway:log:{log.beginning.id}", "tail")
    assert await store.problem() is None
    await store.close()


async def test_no_sentinel(tmp_path):
    """Without a sentinel that answers, the start fails in one sentence that shows no password."""
    store = sentinel_store(tmp_path, 1, 2)
    with pytest.raises(StoreError, match=re.escape("Redis at 127.0.0.1:1,127.0.0.1:2/main/0 cannot be used: ")):
        await store.open()


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "h:1/0"),
        ("redis://user:CANARY@h:1/0", "h:1/0"),
        ("rediss://:CANARY@h/2?ssl_cert_reqs=none", "h/2"),
        ("redis://h:1/0?password=CANARY&username=CANARY", "h:1/0"),
        ("unix://:CANARY@/run/redis.sock?db=1", "/run/redis.sock"),
        ("redis://[::1]:1/0?password=CANARY", "[::1]:1/0"),
        ("redis+sentinel://:CANARY@a:1,[::1],b/main/0?sentinel_password=CANARY", "a:1,[::1],b/main/0"),
    ],
)
def test_what_is_shown_of_an_address(url, shown):
    """An address for people has no user, no password and no option."""
    assert Address(url).text == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://:CANARY/x@h:1/0",
        "redis://h:CANARY",
        "redis+sentinel://:CANARY@/main",
        "redis+sentinel://a:CANARY/main",
        "redis+sentinel://a:1",
        "redis+sentinel://a:1/?password=CANARY",
        "redis://h?socket_timeout=CANARY",
    ],
)
def test_wrong_address(url):
    """The form is wrong: that is said in one sentence, without the address."""
    with pytest.raises(StoreError, match="The address of Redis cannot be read") as error:
        Server(url)
    assert error.value.__cause__ is None
    assert "CANARY" not in str(error.value)


def test_options_of_sentinel():
    """User, password, database and options are those of the servers; the sentinels have their own."""
    url = "redis+sentinel://user:a%40b@h:1,g/main/3?sentinel_username=s&sentinel_password=t&health_check_interval=5"
    pool = Address(url).pool(max_connections=1)
    options = pool.connection_kwargs
    assert (options["username"], options["password"], options["db"]) == ("user", "a@b", 3)
    assert (options["health_check_interval"], options["service"]) == (5, "main")
    asked = [one.connection_pool.connection_kwargs for one in options["sentinel"].sentinels]
    assert [(one["host"], one["port"]) for one in asked] == [("h", 1), ("g", 26379)]
    assert {(one["username"], one["password"]) for one in asked} == {("s", "t")}
