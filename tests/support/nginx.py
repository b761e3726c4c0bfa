"""nginx in front of a gateway, with the settings that streams need, and defaults for all others."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

PROGRAM = shutil.which("nginx", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
CONFIG = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen 127.0.0.1:%(port)d %(listen)s;
        location / {
            proxy_pass http://127.0.0.1:%(gateway)d;
            proxy_http_version %(version)s;
            proxy_set_header Connection "";
            proxy_next_upstream off;
            %(location)s
        }
    }
}
"""


class Front:
    """A running nginx."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.url = self.root + "/v1"


@asynccontextmanager
async def nginx(gateway: int, *, version: str = "1.1", listen: str = "", location: str = "") -> AsyncIterator[Front]:
    """Run nginx before the gateway at port `gateway`. `version` "1.0" is nginx's default, which hides cuts.

    `listen` and `location` are further words of those two directives.
    """
    assert PROGRAM, "there is no nginx: ./scripts/test installs it"
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        config = _written(
            folder,
            CONFIG % {"port": port, "gateway": gateway, "version": version, "listen": listen, "location": location},
        )
        # nginx takes over the listening sockets that NGINX names. So the port is the kernel's choice, and stays ours.
        process = subprocess.Popen(  # noqa: ASYNC220  # a fork takes a millisecond, and no loop owns the process
            [PROGRAM, "-p", f"{folder}/", "-c", str(config), "-e", "stderr"],
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Front(port)  # the socket listens already, so a first request waits for nginx
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)


def _written(folder: str, text: str) -> Path:
    config = Path(folder, "nginx.conf")
    config.write_text(text, encoding="utf-8")
    return config
