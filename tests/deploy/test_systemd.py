"""The gateway as systemd runs it: real notices to a real socket, real descriptors, credentials, signals."""

import asyncio
import fcntl
import os
import signal
import socket
import time
from pathlib import Path

import internals
import pytest
from gateway import own_process, settings
from wire import Client, call, complete, texts, until

from server import app

LOOPS = ("uvloop", "asyncio")
# What systemd does between fork and exec: the descriptors are 3, 4, …, and LISTEN_PID is the process itself.
PASS = (
    "bash",
    "-c",
    'n=3; for fd in $FDS; do eval "exec $n<&$fd $fd<&-"; n=$((n + 1)); done; LISTEN_PID=$$ exec "$@"',
    "-",
)


class Manager:
    """The receiving end of sd_notify(3): `received` has each notice as a dictionary."""

    def __init__(self, address: str) -> None:
        self.received: list[dict[str, str]] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(f"\0{address[1:]}" if address[0] == "@" else address)
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock, self._read)

    def _read(self) -> None:
        text = self._sock.recv(4096).decode()
        self.received.append(dict(line.split("=", 1) for line in text.splitlines()))

    async def told(self, name: str, times: int = 1) -> dict[str, str]:
        """Wait for the n-th notice of one kind."""

        async def there():
            found = [notice for notice in self.received if name in notice]
            return found[times - 1] if len(found) >= times else None

        return await until(there)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
async def manager(request, tmp_path):
    """A service manager that receives notices, at a path or in the abstract namespace."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@sluiceway-{os.getpid()}-{time.monotonic_ns()}"
    made = Manager(address)
    made.address = address
    yield made
    made.close()


@pytest.mark.parametrize("loop", LOOPS)
async def test_notices(provider, manager, loop) -> None:
    """READY=1 when it serves, WATCHDOG=1 at half the time allowed, STOPPING=1 with more time for the grace."""
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    async with own_process(
        provider.url, environ=environ, server={"event_loop": loop, "shutdown_grace": 7.0}
    ) as gateway:
        assert (await manager.told("READY"))["READY"] == "1"
        assert (await call(gateway.root, "GET", "/readyz")).status == 200
        started = time.monotonic()
        at = len(manager.received)
        await manager.told("WATCHDOG", 10)
        assert time.monotonic() - started > 0.1 * 5  # ten of them, of which a few may have come before
        assert {tuple(notice) for notice in manager.received[at:]} == {("WATCHDOG",)}
        gateway.signal(signal.SIGTERM)
        stopping = await manager.told("STOPPING")
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 7_000_000
        assert await gateway.ended() == 0
    assert [notice for notice in manager.received if "READY" in notice][1:] == []


async def test_stopping_goes_on_pinging(provider, manager, model) -> None:
    """During a long drain the watchdog still gets its notices, until the end."""
    await provider.script(model, {"tokens": 1000, "rate": 20})
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    async with own_process(provider.url, environ=environ, server={"shutdown_grace": 30.0}) as gateway:
        async with Client(gateway.root) as client:
            await client.complete(model)
            await client.head()
            gateway.signal(signal.SIGTERM)
            await manager.told("STOPPING")
            seen = sum("WATCHDOG" in notice for notice in manager.received)
            await manager.told("WATCHDOG", seen + 5)
        assert await gateway.ended() == 0


async def test_reload_notices(provider, manager) -> None:
    """SIGHUP: RELOADING=1 with the monotonic time, then READY=1; a bad file says so in STATUS."""
    async with own_process(provider.url, environ={"NOTIFY_SOCKET": manager.address}) as gateway:
        await manager.told("READY")
        before = time.monotonic_ns() // 1000
        gateway.signal(signal.SIGHUP)
        reloading = await manager.told("RELOADING")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert (await manager.told("READY", 2))["STATUS"] == "Running."
        gateway.config.write_text("[server]\nprot = 1\n")
        gateway.signal(signal.SIGHUP)
        assert "server.prot" in (await manager.told("READY", 3))["STATUS"]
        assert [next(iter(notice)) for notice in manager.received] == [
            "READY",
            "RELOADING",
            "READY",
            "RELOADING",
            "READY",
        ]


async def test_no_manager(provider, model) -> None:
    """A notify socket that nobody reads, and a watchdog that is another process's, change nothing."""
    environ = {"NOTIFY_SOCKET": "/nonexistent/notify", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    async with own_process(provider.url, environ=environ) as gateway:
        assert (await complete(gateway.root, model)).status == 200


# --- passed descriptors ------------------------------------------------------------------------------------------


def movable(sock: socket.socket) -> socket.socket:
    """Give the socket a descriptor above those that it is passed as: none may be overwritten by another."""
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 20))


def listening(address: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.bind((address, 0))
    sock.listen(512)
    return movable(sock)


def passing(*sockets: socket.socket, names: str = "http") -> dict:
    """Give the arguments of `own_process` that pass sockets to it."""
    numbers = tuple(sock.fileno() for sock in sockets)
    environ = {"FDS": " ".join(map(str, numbers)), "LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": names}
    return {"environ": environ, "descriptors": numbers, "command": PASS}


async def refused(provider, **options) -> str:
    """Return the sentence with which the gateway refuses to start."""
    with pytest.raises(RuntimeError) as failure:
        async with own_process(provider.url, **options):
            pass
    return str(failure.value)


@pytest.mark.parametrize("loop", LOOPS)
async def test_passed_socket(provider, model, loop) -> None:
    """The gateway serves on the socket that it was passed, with the same limits as on its own."""
    with listening() as sock:
        port = sock.getsockname()[1]
        async with own_process(provider.url, **passing(sock), server={"event_loop": loop}) as gateway:
            assert gateway.port == port
            assert len(texts((await complete(f"http://127.0.0.1:{port}", model)).events)) == 20
            # The options are the socket's, not the descriptor's: they are seen here too.
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 65_536
            assert sock.getsockopt(socket.IPPROTO_TCP, 25) == 16_384  # TCP_NOTSENT_LOWAT
            assert ports(gateway.pid) == [port]  # it listens nowhere else


def ports(pid: int) -> list[int]:
    """Give the TCP ports that a process listens on."""
    links = [fd.readlink() for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    listening = [row for row in rows if row[3] == "0A" and Path(f"socket:[{row[9]}]") in links]
    return [int(row[1].split(":")[1], 16) for row in listening]


async def test_only_its_own_sockets(provider) -> None:
    """Sockets that the unit names otherwise are left alone, and so are those that another process was passed."""
    with listening() as mine, listening() as another:
        async with own_process(provider.url, **passing(another, mine, names="metrics:http")) as gateway:
            assert gateway.port == mine.getsockname()[1]
        options = passing(mine)
        options["command"] = ("bash", "-c", PASS[2].replace("LISTEN_PID=$$", "LISTEN_PID=1"), "-")
        async with own_process(provider.url, **options) as gateway:
            assert gateway.port != mine.getsockname()[1]


async def test_unusable_socket(provider) -> None:
    """A descriptor that is no listening socket gives one clear sentence, not a traceback."""
    with movable(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        assert "descriptor 3 is not a listening TCP socket" in await refused(provider, **passing(udp))
    with movable(socket.socket()) as unbound:
        assert "descriptor 3 is not a listening TCP socket" in await refused(provider, **passing(unbound))


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
async def test_exposed_socket_without_keys(provider, address) -> None:
    """Without keys it does not serve a passed socket that others can reach, whatever the file's host is."""
    with listening(address) as sock:
        assert "takes [[keys]]" in await refused(provider, **passing(sock))


async def test_hand_over(provider, model) -> None:
    """While one process ends and the next begins on the same socket, no connection is refused and none is dropped."""
    await provider.script(model, {"tokens": 3})
    statuses: list[int] = []
    with listening() as sock:
        root = f"http://127.0.0.1:{sock.getsockname()[1]}"
        stop = asyncio.Event()

        async def ask() -> None:
            while not stop.is_set():
                statuses.append((await call(root, "GET", "/healthz")).status)

        async def stream() -> int:
            answer = await complete(root, model)
            return len(texts(answer.events)) if answer.status == 200 else 0

        async with asyncio.TaskGroup() as group:
            async with own_process(provider.url, **passing(sock)) as first:
                askers = [group.create_task(ask()) for _ in range(8)]
                assert await stream() == 3
                first.signal(signal.SIGTERM)
                assert await first.ended() == 0
            waiting = group.create_task(stream())  # nobody accepts now: the connection waits in the kernel
            before = len(statuses)
            async with own_process(provider.url, **passing(sock)):
                assert await waiting == 3
                await until(lambda: asyncio.sleep(0, len(statuses) > before + 50))
                stop.set()
                await asyncio.wait(askers)
    assert set(statuses) == {200}


async def test_an_accepted_connection_is_served(provider, monkeypatch) -> None:
    """A connection that is accepted right before the listener closes still gets its answer: no successor sees it."""
    monkeypatch.setattr(app, "ACCEPTED_GRACE", 15.0)
    gateway = app.Gateway(settings(provider.url))
    await gateway.start()
    root = f"http://127.0.0.1:{gateway.port}"
    async with Client(root) as client:
        await until(lambda: asyncio.sleep(0, internals.connections(gateway)))
        stopping = asyncio.create_task(gateway.stop(0.0))
        await until(lambda: asyncio.sleep(0, not internals.is_accepting(gateway)))
        await client.ask("GET", "/healthz")
        assert (await client.answer()).status == 200
        await stopping


@pytest.mark.parametrize("turns", range(6))
async def test_none_falls_between(provider, monkeypatch, turns) -> None:
    """Whenever a connection comes while the listener is closed, it is answered here, or the successor can accept it."""
    monkeypatch.setattr(app, "ACCEPTED_GRACE", 15.0)
    gateway = app.Gateway(settings(provider.url))
    with listening() as sock, socket.socket() as late:
        await gateway.start([sock.dup()])
        leave = gateway.responder.leave

        async def connect(*args: object, **options: object) -> None:
            await leave(*args, **options)
            late.connect(sock.getsockname())
            for _ in range(turns):
                await asyncio.sleep(0)

        monkeypatch.setattr(gateway.responder, "leave", connect)
        stopping = asyncio.create_task(gateway.stop(0.0))
        await until(lambda: asyncio.sleep(0, not internals.is_accepting(gateway)))
        late.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        await stopping
        late.setblocking(False)
        sock.setblocking(False)
        try:
            successor, _ = sock.accept()
        except BlockingIOError:
            assert late.recv(64).startswith(b"HTTP/1.1 200 ")
        else:
            successor.close()


# --- credentials ---------------------------------------------------------------------------------------------------


async def test_credentials(provider, model, tmp_path) -> None:
    """Keys reach the upstream from the unit's credentials; a variable that is set wins."""
    await provider.script(model, {"require_key": "from-file"}, {"require_key": "from-environment"})
    (tmp_path / "keys_SLUICEWAY_TEST_KEY").write_text("from-file\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    options = {"upstream": {"api_key_env": "SLUICEWAY_TEST_KEY"}}
    async with own_process(provider.url, environ=environ, **options) as gateway:
        assert (await complete(gateway.root, model)).status == 200
    environ["SLUICEWAY_TEST_KEY"] = "from-environment"
    async with own_process(provider.url, environ=environ, **options) as gateway:
        assert (await complete(gateway.root, model)).status == 200


async def test_rotated_credential(provider, model, tmp_path) -> None:
    """A key that was changed on disk is taken by SIGHUP, though the file of the configuration is the same."""
    await provider.script(model, {"require_key": "old"}, {"require_key": "new"})
    credential = tmp_path / "ROTATED_KEY"
    credential.write_text("old")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    async with own_process(provider.url, environ=environ, upstream={"api_key_env": "ROTATED_KEY"}) as gateway:
        assert (await complete(gateway.root, model)).status == 200
        credential.write_text("new")
        gateway.signal(signal.SIGHUP)
        await until(lambda: asyncio.sleep(0, gateway.logged("reloaded")))
        assert (await complete(gateway.root, model)).status == 200
