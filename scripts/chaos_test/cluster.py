"""The processes of the experiment: the scripted provider, Redis, two gateways, and nginx in front of them.

Each can be stopped and started again.
"""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
START = 30.0  # seconds for a process to be ready on a busy machine
LEASE = 2.0  # seconds

GATEWAY = """\
[server]
host = "127.0.0.1"
port = {port}
shutdown_grace = 0.5
[flow]
drain_timeout = 2.0
[streams]
on_disconnect = "continue"
total_timeout = 240.0
[store]
kind = "{store}"
path = "{folder}/streams.db"
url = "redis://127.0.0.1:{redis}/0"
lease = {lease}
[recovery]
max_retries = 20
max_recoveries = 20
backoff = 0.05
breaker_failures = 1000000
[[upstreams]]
name = "provider"
base_url = "http://127.0.0.1:{provider}/v1"
idle_timeout = 2.0
ttft_timeout = 5.0
last_resort_timeout = 2.0
[[models]]
name = "*"
targets = ["provider/*"]
"""

NGINX = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    upstream gateways {{ {servers} keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            proxy_buffering off;
            proxy_read_timeout 60s;
            proxy_next_upstream error timeout http_503;
        }}
    }}
}}
"""


class ServerProcess:
    """One process, which can be started again. It is ready when `path` answers 200, or without one when it listens."""

    def __init__(self, name: str, command: list[str], folder: Path, port: int, path: str = "") -> None:
        self.name = name
        self.port = port
        self._command = command
        self._log = folder / f"{name}.log"
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises RuntimeError with the end of its log."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220  # a fork takes a millisecond
                self._command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            async with asyncio.timeout(START):
                while not await asyncio.to_thread(self._ready):  # noqa: ASYNC110  # a process sets no event
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise RuntimeError(f"{self.name} did not start:\n{self._log.read_text()[-2000:]}") from None

    def _ready(self) -> bool:
        try:
            if self._path:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self._path}", timeout=1).close()
            else:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    async def stop(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal that ends it, and wait for that; return its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        status = await asyncio.to_thread(self._process.wait, START)
        self._process = None
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal that does not end it."""
        assert self._process is not None
        self._process.send_signal(number)


class Cluster:
    """All processes; `async with Cluster(store, folder)` starts and ends them."""

    def __init__(self, store: str, folder: Path) -> None:
        self.store = store
        self._folder = folder
        ports = [free_port() for _ in range(5)]
        provider, redis, front, *backs = ports
        python = sys.executable
        script = str(ROOT / "scripts" / "scripted_provider.py")
        self.provider = ServerProcess("provider", [python, script, "--port", str(provider)], folder, provider)
        command = ["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
                   "--appendonly", "yes"]  # fmt: skip
        self.redis = ServerProcess("redis", command, folder, redis)
        self.gateways = []
        for port in backs:
            config = folder / f"{port}.toml"
            config.write_text(
                GATEWAY.format(port=port, store=store, folder=folder, redis=redis, provider=provider, lease=LEASE)
            )
            command = [python, "-m", "server", "serve", "--config", str(config)]
            self.gateways.append(ServerProcess(f"gateway-{port}", command, folder, port, "/healthz"))
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=1s;" for port in backs)
        (folder / "nginx.conf").write_text(NGINX.format(port=front, servers=servers))
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        command = [nginx, "-p", f"{folder}/", "-c", "nginx.conf", "-e", "stderr"]
        self.nginx = ServerProcess("nginx", command, folder, front)

    @property
    def processes(self) -> list[ServerProcess]:
        """The processes, in the order in which they start."""
        return [self.provider, *([self.redis] if self.store == "redis" else []), *self.gateways, self.nginx]

    async def __aenter__(self) -> "Cluster":
        try:
            for process in self.processes:
                await process.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            if process.is_running:
                await process.stop(signal.SIGKILL if process.name.startswith("gateway") else signal.SIGTERM)
