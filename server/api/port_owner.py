"""Which process listens on a port, for the operator whose own process cannot. Linux tells it in `/proc` (proc(5))."""

import contextlib
from pathlib import Path

LISTEN = "0A"  # the state in /proc/net/tcp (include/net/tcp_states.h)


def port_owner(port: int) -> str | None:
    """Return a process that listens on a TCP port of this machine, such as "nginx (process 12)". None if none is found.

    A process of another user is found only by root.
    """
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listeners(Path("/proc/net", table), port)}
    links = {f"socket:[{inode}]" for inode in inodes}
    if not links:
        return None
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        with contextlib.suppress(OSError):  # it has ended, or it is another user's
            if links & {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}:
                return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (process {pid})"
    return None


def _listeners(table: Path, port: int) -> list[str]:
    """Return the inodes of the sockets that listen on a port, as a table of the kernel has them."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:  # no such system, or no IPv6
        return []
    return [row[9] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port]
