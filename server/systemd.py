"""What a service has to do with systemd: passed sockets, notices of its state, the watchdog, credentials.

Source: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3) and systemd.exec(5), "Credentials". All of them are
datagrams, environment variables and files, so this works on any event loop.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

FIRST_FD = 3  # SD_LISTEN_FDS_START
SOCKET_NAME = "http"  # our socket's name in a socket unit (FileDescriptorName=)
UNNAMED = ("", "unknown", "connection")  # names that systemd gives to a socket without one
KEYS = "keys_"  # prefix of the credentials that `LoadCredential=keys:/a/directory` makes of the directory's files


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send `state`, lines like READY=1, to the service manager. If there is none, or it is away, do nothing."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)  # a service manager that hangs must not stop the streams
        try:
            sock.sendto(state.encode(), f"\0{address[1:]}" if address[0] == "@" else address)
        except OSError:
            return  # the next notice repeats it; if READY=1 is lost, systemd's own timeout ends the start


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds between two WATCHDOG=1, half of what systemd allows. None if there is no watchdog."""
    allowed, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not allowed.isdecimal() or int(allowed) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(allowed) / 2_000_000


def passed_sockets(environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """Return the listening sockets that the service manager opened for this process. Usually there are none.

    Raises:
        OSError: one of them is not a listening TCP socket.

    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []  # they were meant for a parent, from which this process inherits the variables
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (count - len(names))
    ours = []
    for fd, name in zip(range(FIRST_FD, FIRST_FD + count), names, strict=False):
        os.set_inheritable(fd, False)  # the process of a tool must not keep our port open
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
    """Return the environment and the credentials of the unit. Each credential is a file named like a variable.

    So keys reach us without being in the environment of every child process, or in `systemctl show`. A variable that is
    set wins over a credential. A line end at the end of a file, which editors write, is not part of the key.

    Raises:
        OSError: a credential cannot be read.

    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return dict(environ)
    files = [file for file in Path(folder).iterdir() if file.is_file()]
    credentials = {file.name.removeprefix(KEYS): file.read_text("utf-8", "surrogateescape") for file in files}
    return {name: text.rstrip("\r\n") for name, text in credentials.items()} | dict(environ)
