#!/usr/bin/env python3
"""An OpenAI-compatible provider in a process of its own that follows a script, down to the bytes on the wire.

Tests and benchmarks use it as the gateway's upstream. `POST /_script` sets the answers to all calls of a model. An
`X-Script` header or a `script` field in the body sets the answer to one call. Without a script, the answer has twenty
tokens. `scripted/script.py` lists the fields. `POST /_open` lets a stream of a model go on that stands at a gate.
`GET /_seen` lists what every request got and when its client left.
"""

import argparse
import asyncio
import contextlib
import gc
import signal
import socket

from scripted.connection import Connection
from scripted.routes import Routes
from scripted.seen import Memory

# Small, so that the provider soon notices a client that does not read, and so that `bytes_acked` is meaningful.
SEND_BUFFER = 65_536
BACKLOG = 4096


def listen(host: str, port: int) -> socket.socket:
    """Return the listening socket. Every connection inherits its options."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((host, port))
    return sock


async def serve(sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT. Then open streams are dropped."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    routes = Routes(Memory())
    server = await loop.create_server(lambda: Connection(routes.serve), sock=sock, backlog=BACKLOG)
    host, port = sock.getsockname()[:2]
    print(f"listening on {host}:{port}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    """Read the command line and serve; on uvloop, if it is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    args = parser.parse_args()
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415  # optional here

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    gc.freeze()  # modules stay loaded, so garbage collections need not look at them
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(listen(args.host, args.port)))


if __name__ == "__main__":
    main()
