"""Free ports, for processes that take their port as a number."""

import secrets
import socket
from pathlib import Path

FIRST = 10_000
KERNEL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")  # the kernel gives these ports to connections


def free_port() -> int:
    """Return a loopback port that is free, and that the kernel does not give to others.

    A port of the kernel's range could go to a connection before the process that gets it here listens on it.
    """
    end = int(KERNEL_RANGE.read_text().split()[0])
    while True:
        port = FIRST + secrets.randbelow(end - FIRST) if end > FIRST else 0
        try:
            with socket.create_server(("127.0.0.1", port)) as listener:
                return int(listener.getsockname()[1])
        except OSError:
            continue  # the port is taken: try another one
