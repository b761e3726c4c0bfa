"""systemd's side of a service: passed sockets, notices of our state, the watchdog, credentials.

Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3) and systemd.exec(5), "Credentials". A datagram and a few
environment variables are all there is to them, on either event loop.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

FIRST_FD = 3  # SD_LISTEN_FDS_START
SOCKET_NAME = "http"  # what a socket unit calls ours, if it says anything (FileDescriptorName=)
UNNAMED = ("", "unknown", "connection")
KEYS = "keys_"  # LoadCredential=keys:/a/directory names every file of it so


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell the service manager `state`, lines like READY=1; without one, or while it is away, nothing happens."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)  # a service manager that hangs must not take the streams with it
        try:
            sock.sendto(state.encode(), f"\0{address[1:]}" if address[0] == "@" else address)
        except OSError:
            return  # the next notice says it again; a missed READY=1 ends in systemd's own timeout


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds from one WATCHDOG=1 to the next (half of what is allowed), or None where nobody watches."""
    allowed, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not allowed.isdecimal() or int(allowed) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(allowed) / 2_000_000


def passed_sockets(environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """Return the listening sockets that the service manager opened for this process, most often none.

    Raises:
        OSError: one of those meant for us is no listening TCP socket.

    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []  # inherited from a parent that they were meant for
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (count - len(names))
    ours = []
    for fd, name in zip(range(FIRST_FD, FIRST_FD + count), names, strict=False):
        os.set_inheritable(fd, False)  # a tool's process must not keep our port open
        if name == SOCKET_NAME or name in UNNAMED or name.endswith(".socket"):
            ours.append(_listening(fd))
    return ours


def _listening(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if not tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(f"the passed descriptor {fd} is not a listening TCP socket")
    sock.setblocking(False)
    return sock


def with_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment, completed by the credentials of the unit: a file for each variable, named like it.

    So keys reach us without being in the environment of every child and in `systemctl show`. A variable that is set
    wins; a trailing line end, which editors write, is no part of a key.

    Raises:
        OSError: a credential cannot be read.

    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return dict(environ)
    files = [file for file in Path(folder).iterdir() if file.is_file()]
    texts = {file.name.removeprefix(KEYS): file.read_text("utf-8", "surrogateescape") for file in files}
    return {name: text.rstrip("\r\n") for name, text in texts.items()} | dict(environ)
