"""Ports for processes that have to be told theirs by number."""

import secrets
import socket
from pathlib import Path

FIRST = 10_000
KERNELS_OWN = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Find a loopback port that nobody listens on, and that nobody is given who asks for any.

    A port of the kernel's own range may go to somebody's connection before the process that is told it listens.
    """
    end = int(KERNELS_OWN.read_text().split()[0])
    while True:
        port = FIRST + secrets.randbelow(end - FIRST) if end > FIRST else 0
        try:
            with socket.create_server(("127.0.0.1", port)) as listener:
                return int(listener.getsockname()[1])
        except OSError:
            continue  # taken: another one
