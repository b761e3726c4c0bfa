"""Commands in their own processes, forked from one that has imported the gateway: that import is most of a start.

Many tests start several. Each runs `sluiceway` with its arguments, as a user would.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TextIO

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["server.cli", "server.cli.check", "server.cli.serve", "sluiceway.commands.terminal"])
# The exit status of a child can be read only once, and a start reads those of all children: so one thread at a time.
_looking = threading.Lock()
Standard = tuple[str, str, str]  # files for standard input, output and error


class Forked:
    """The part of a `subprocess.Popen` that tests use, with a pipe as standard error unless there are `files`."""

    stderr: TextIO

    def __init__(
        self, arguments: list[str], environ: Mapping[str, str], folder: Path, files: Standard | None = None
    ) -> None:
        reader, writer = _context.Pipe(duplex=False)
        streams = writer if files is None else files
        self._process = _context.Process(target=_run, args=(arguments, dict(environ), folder, streams))
        with _looking:
            self._process.start()
        writer.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        if files is None:
            self.stderr = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    @property
    def returncode(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it; None while it runs."""
        with _looking:
            return self._process.exitcode

    def poll(self) -> int | None:
        """Give `returncode`."""
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        wait([self._process.sentinel], timeout)
        if (status := self.returncode) is None:
            raise subprocess.TimeoutExpired("a forked command", timeout)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it ends in this moment
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], environ: dict[str, str], folder: Path, streams: Connection | Standard) -> None:
    """Be `python -m server` with these arguments, in the new process."""
    if isinstance(streams, tuple):
        for number, (path, flags) in enumerate(zip(streams, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
            opened = os.open(path, flags)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # multiprocessing has closed the old one
    else:
        os.dup2(streams.fileno(), 2)
        streams.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    # As a new interpreter would: the folder, then PYTHONPATH, then what is installed.
    sys.path[:0] = [str(folder), *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))]
    from server.cli import main  # noqa: PLC0415  # the process that forks has imported it; that of the test need not

    sys.exit(main(arguments))
