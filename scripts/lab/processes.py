"""Programs of an experiment: started until they are ready, measured through /proc, and always ended."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Self

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
START = 30.0  # seconds in which a program must be ready, on a busy machine
STOP = 5.0  # seconds in which one must end that is told to
POLL = 0.02  # seconds from one look to the next
TICKS = os.sysconf("SC_CLK_TCK")  # per second
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


class Watched:
    """A process and its descendants, measured through /proc. A pid of 0 is none: everything is 0 then."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def pid(self) -> int:
        """The process id."""
        return self._pid

    def cpu(self) -> float:
        """Return the seconds of CPU used, over all threads, in user mode and in the kernel."""
        ticks = 0
        for pid in _tree(self.pid):
            with suppress(OSError):
                # After the name: state, ppid, …; utime, stime, cutime and cstime are fields 14 to 17 of proc(5).
                ticks += sum(int(field) for field in _stat(pid)[11:15])
        return ticks / TICKS

    def memory(self) -> int:
        """Return the bytes of resident memory."""
        pages = 0
        for pid in _tree(self.pid):
            with suppress(OSError, IndexError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * PAGE

    def descriptors(self) -> int:
        """Return the number of open descriptors of the process itself."""
        with suppress(OSError):
            return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        return 0


class Child(Watched):
    """One program and all its descendants, on a port of the loopback interface. It can be started again.

    It is ready when `path` answers 200, or without a path when it listens; without a port it is ready at once. As a
    context manager it is started at the beginning of a block and stopped at its end, with `async with` in a thread.
    """

    def __init__(
        self, name: str, command: list[str], *, log: Path, cwd: Path = ROOT, port: int = 0, path: str = ""
    ) -> None:
        super().__init__(0)
        self.name = name
        self.log = log
        self.port = port
        self._command = command
        self._cwd = cwd
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)

    def start(self) -> None:
        """Start it and wait until it is ready. Raises RuntimeError with the end of its output."""
        with self.log.open("ab") as output:
            # In its own session it gets no Ctrl-C. An experiment stops its programs itself.
            self._process = subprocess.Popen(
                self._command, cwd=self._cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            if self.port:
                wait_until(lambda: answers(self.port, self._path) if self._path else listens(self.port), self)
        except BaseException:
            self.stop()
            raise

    @property
    def root(self) -> str:
        """The URL of its server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The program's process id. It has one while it is started."""
        return self._running().pid

    @property
    def started(self) -> bool:
        """Whether it was started, and not stopped. It may have ended by itself."""
        return self._process is not None

    @property
    def running(self) -> bool:
        """Whether the program still runs."""
        return self._process is not None and self._process.poll() is None

    def complaint(self) -> str:
        """Return the end of its output."""
        return self.log.read_text(errors="replace")[-2000:]

    def pin(self, cores: set[int]) -> None:
        """Let all its threads and descendants run on these cores only."""
        for pid in _tree(self.pid):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cores)

    def signal(self, number: Signals) -> None:
        """Send a signal that does not end it."""
        self._running().send_signal(number)

    def stop(self, number: Signals = SIGTERM, patience: float = STOP) -> int:
        """Send a signal that ends it; after `patience` seconds kill it and its descendants. Return its exit status."""
        process = self._running()
        family = list(_tree(process.pid))
        process.send_signal(number)
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, SIGKILL)
            status = process.wait()
        self._process = None
        return status

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process


@contextmanager
def running(
    name: str, arguments: Sequence[str], *, stdin: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a module of scripts/ whose output is read, until the end of the block. Ctrl-C does not reach it."""
    command = [sys.executable, "-m", name, *arguments]
    with subprocess.Popen(
        command, cwd=SCRIPTS, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # if it has not ended by itself


def wait_until(ready: Callable[[], bool], child: Child, limit: float = START) -> None:
    """Wait until the child is ready. Raises RuntimeError with its output if it ends or takes too long."""
    deadline = time.monotonic() + limit
    while not ready():
        if not child.running or time.monotonic() > deadline:
            raise RuntimeError(f"{child.name} did not start:\n{child.complaint()}")
        time.sleep(POLL)


def listens(port: int) -> bool:
    """Whether something listens on the loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(port: int, path: str) -> bool:
    """Whether GET of the path answers 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:  # also any other status
        return False


def _tree(root: int) -> Iterator[int]:
    """Yield a process and its descendants, parents first; nothing for 0."""
    if not root:
        return
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    family = [root]
    for pid in family:  # grows while it is walked
        yield pid
        family += children.get(pid, [])


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may itself contain spaces and brackets."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
