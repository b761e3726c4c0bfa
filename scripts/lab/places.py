"""What can stand in an experiment, each on a free port: gateways, nginx, Redis, the bare relay, the scripted provider.

A place is a `Child` that is not started yet. Its files are in `folder`, named after it.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ports import free_port

from .processes import SCRIPTS, Child

NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events { worker_connections 8192; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    upstream behind { %(servers)s keepalive 256; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location / {
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            %(location)s
        }
    }
}
"""


def gateway(tables: Mapping[str, Any], folder: Path, name: str = "gateway") -> Child:
    """Give a gateway with this configuration, in the form of a parsed TOML file; its port is added."""
    port = free_port()
    config = folder / f"{name}.toml"
    config.write_text(toml({**tables, "server": {**tables.get("server", {}), "port": port}}), encoding="utf-8")
    command = [sys.executable, "-m", "server", "serve", "--config", str(config)]
    return Child(name, command, log=folder / f"{name}.log", port=port, path="/readyz")


@asynccontextmanager
async def own_gateway(tables: Mapping[str, Any]) -> AsyncIterator[str]:
    """Run a gateway with this configuration, in a folder of its own, until the end of the block; yield its root URL."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        async with gateway(tables, Path(folder)) as running:
            yield running.root


def nginx(servers: Sequence[str], location: str, folder: Path) -> Child:
    """Give an nginx before these `server` entries (an address and its options), with these words for its location."""
    port = free_port()
    listed = " ".join(f"server {server};" for server in servers)
    config = folder / "nginx.conf"
    config.write_text(NGINX % {"port": port, "servers": listed, "location": location})
    command = [program("nginx"), "-p", f"{folder}/", "-c", str(config), "-e", "stderr"]
    return Child("nginx", command, cwd=folder, log=folder / "nginx.log", port=port)


def redis(folder: Path) -> Child:
    """Give a private Redis with an append-only file."""
    port = free_port()
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
               "--appendonly", "yes"]  # fmt: skip
    return Child("redis", command, cwd=folder, log=folder / "redis.log", port=port)


def module(name: str, folder: Path, *arguments: str, port: int = 0) -> Child:
    """Give a module of scripts/ whose arguments are the port to listen on (0: a free one) and these."""
    port = port or free_port()
    command = [sys.executable, "-m", name, str(port), *arguments]
    return Child(name, command, cwd=SCRIPTS, log=folder / f"{name}.log", port=port)


def provider(folder: Path, name: str = "provider") -> Child:
    """Give a scripted provider."""
    port = free_port()
    command = [sys.executable, str(SCRIPTS / "scripted_provider.py"), "--port", str(port)]
    return Child(name, command, log=folder / f"{name}.log", port=port)


def program(name: str) -> str:
    """Find a program; empty if it is not installed. Debian keeps daemons in a folder that is not in a user's PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or ""


def toml(tables: Mapping[str, Any]) -> str:
    """Return tables and arrays of tables as TOML, with inline values."""
    lines = []
    for name, table in tables.items():
        for one in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{json.dumps(key)} = {_inline(value)}" for key, value in one.items()]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
