"""How each relay is started: nginx, the gateway with one of its stores, the bare relay; and the upstream."""

import os
import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ports import free_port

from .process import Child, wait_until

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"

Store = Literal["memory", "sqlite", "redis"]
STORES: tuple[Store, ...] = get_args(Store)

NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events { worker_connections 8192; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    upstream provider { server 127.0.0.1:%(upstream)d; keepalive 256; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location / {
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }
    }
}
"""

# Only what the benchmark needs. Every limit and timeout has its default.
GATEWAY = """
[server]
host = "127.0.0.1"
port = %(port)d
drain_notice = 0.0

[store]
kind = "%(store)s"
path = "%(folder)s/streams.db"
url = "redis://127.0.0.1:%(redis)d/0"

[[upstreams]]
name = "bench"
base_url = "http://127.0.0.1:%(upstream)d/v1"

[[models]]
name = "*"
targets = ["bench/*"]
"""


@dataclass(frozen=True)
class Relay:
    """A running relay."""

    name: str
    port: int
    process: Child
    folder: Path  # its files


def missing(name: str) -> str:
    """Return why a relay cannot run on this machine, or an empty text."""
    if name == "nginx" and not _program("nginx"):
        return "nginx is not installed"
    if name == "redis" and not _program("redis-server"):
        return "redis-server is not installed"
    return ""


@contextmanager
def upstream(folder: Path) -> Iterator[Relay]:
    """Start the benchmark upstream."""
    port = free_port()
    command = [sys.executable, "-m", "benchmark.upstream", str(port)]
    with Child("upstream", command, cwd=SCRIPTS, log=folder / "upstream.log") as child:
        wait_until(lambda: _listens(port), child)
        yield Relay("upstream", port, child, folder)


@contextmanager
def contestant(name: str, upstream_port: int, folder: Path) -> Iterator[Relay]:
    """Run ``nginx``, ``bare``, or the gateway by the name of its store, until the end of the block."""
    folder.mkdir(parents=True)
    start = {"nginx": _nginx, "bare": _bare}.get(name)
    with start(upstream_port, folder) if start else _gateway(name, upstream_port, folder) as relay:
        yield relay


@contextmanager
def _nginx(upstream_port: int, folder: Path) -> Iterator[Relay]:
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX % {"port": port, "upstream": upstream_port})
    command = [_program("nginx"), "-p", f"{folder}/", "-c", str(config), "-e", "stderr"]
    with Child("nginx", command, cwd=folder, log=folder / "log") as child:
        wait_until(lambda: _listens(port), child)
        yield Relay("nginx", port, child, folder)


@contextmanager
def _bare(upstream_port: int, folder: Path) -> Iterator[Relay]:
    port = free_port()
    command = [sys.executable, "-m", "benchmark.bare_relay", str(port), f"http://127.0.0.1:{upstream_port}"]
    with Child("bare relay", command, cwd=SCRIPTS, log=folder / "log") as child:
        wait_until(lambda: _listens(port), child)
        yield Relay("bare", port, child, folder)


@contextmanager
def _gateway(store: str, upstream_port: int, folder: Path) -> Iterator[Relay]:
    if store == "redis":
        with _redis(folder) as redis_port, _gateway_process(store, upstream_port, folder, redis_port) as relay:
            yield relay
    else:
        with _gateway_process(store, upstream_port, folder, redis_port=6379) as relay:
            yield relay


@contextmanager
def _gateway_process(store: str, upstream_port: int, folder: Path, redis_port: int) -> Iterator[Relay]:
    port = free_port()
    config = folder / "gateway.toml"
    config.write_text(
        GATEWAY % {"port": port, "upstream": upstream_port, "store": store, "folder": folder, "redis": redis_port}
    )
    command = [sys.executable, "-m", "server", "serve", "--config", str(config), "--port", str(port)]
    with Child(f"gateway ({store})", command, cwd=ROOT, log=folder / "log") as child:
        wait_until(lambda: _is_ready(port), child)
        yield Relay(store, port, child, folder)


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    """Start a private Redis with an append-only file; yield its port."""
    port = free_port()
    command = [_program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with Child("redis", [*command, "--appendonly", "yes"], cwd=folder, log=folder / "redis.log") as child:
        wait_until(lambda: _listens(port), child)
        yield port


def _program(name: str) -> str:
    # Debian keeps daemons in a folder that is not in the PATH of an ordinary user.
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or ""


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:  # also any other status
        return False
