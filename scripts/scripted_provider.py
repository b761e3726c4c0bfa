#!/usr/bin/env python3
"""A real OpenAI-compatible provider in a process of its own that does whatever its script says, on the wire.

Tests and benchmarks put it upstream of the gateway. `POST /_script` sets what the calls of a model are answered with,
an `X-Script` header or a `script` field in the body does it for one call, and without either there are twenty tokens.
`scripted/script.py` lists the fields; `GET /_seen` tells what every request got and when its client left.
"""

import argparse
import asyncio
import contextlib
import gc
import signal
import socket

from scripted.connection import Connection
from scripted.routes import Routes
from scripted.seen import Book

# Small, so that a client that does not read is felt here soon and `bytes_acked` means something.
SEND_BUFFER = 65_536
BACKLOG = 4096


def listen(host: str, port: int) -> socket.socket:
    """Make the listening socket; its options are inherited by every connection."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((host, port))
    return sock


async def serve(sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; open streams are dropped then."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    routes = Routes(Book())
    server = await loop.create_server(lambda: Connection(routes.serve), sock=sock, backlog=BACKLOG)
    host, port = sock.getsockname()[:2]
    print(f"listening on {host}:{port}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    """Read the command line and run on the fastest loop there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    args = parser.parse_args()
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415  # optional here

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    gc.freeze()  # what is loaded stays; full collections need not walk it
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(listen(args.host, args.port)))


if __name__ == "__main__":
    main()
