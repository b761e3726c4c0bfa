"""A child process, which is measured through /proc and always stopped."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")  # per second
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


class Child:
    """One program and all its descendants. It is a context manager."""

    def __init__(self, name: str, command: list[str], *, cwd: Path, log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            # In its own session it gets no Ctrl-C. The benchmark stops its children itself.
            self._process = subprocess.Popen(
                command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether the program still runs."""
        return self._process.poll() is None

    def complaint(self) -> str:
        """Return the end of its output."""
        return self.log.read_text(errors="replace")[-2000:]

    def cpu(self) -> float:
        """Return the seconds of CPU that it and its descendants have used, in user mode and in the kernel."""
        return tree_cpu(self._process.pid)

    def memory(self) -> int:
        """Return the bytes of resident memory of it and its descendants."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in _tree(self._process.pid)) * PAGE

    def pin(self, cores: set[int]) -> None:
        """Let all its threads and descendants run on these cores only."""
        for pid in _tree(self._process.pid):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), cores)

    def stop(self, patience: float = 5.0) -> None:
        """Ask it to end. After `patience` seconds kill it and its descendants."""
        family = list(_tree(self._process.pid))
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
            return
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)
        self._process.wait()


def tree_cpu(root: int) -> float:
    """Return the seconds of CPU of a process and its descendants, over all threads, in user mode and in the kernel."""
    ticks = 0
    for pid in _tree(root):
        with suppress(OSError):
            # After the name: state, ppid, …; utime, stime, cutime and cstime are fields 14 to 17 of proc(5).
            ticks += sum(int(field) for field in _stat(pid)[11:15])
    return ticks / TICKS


def _tree(root: int) -> Iterator[int]:
    """Yield a process and its descendants, parents first."""
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


def wait_until(ready: Callable[[], bool], child: Child, limit: float = 15.0) -> None:
    """Wait until the child is ready. Raises RuntimeError with its output if it ends or takes too long."""
    deadline = time.monotonic() + limit
    while not ready():
        if not child.running or time.monotonic() > deadline:
            raise RuntimeError(f"{child.name} did not start:\n{child.complaint()}")
        time.sleep(0.02)
