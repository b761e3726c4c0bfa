"""A gateway under test, on real sockets: in this process (`in_process`) or in its own (`own_process`).

Both take the configuration as keyword arguments, one per table, over defaults that suit tests: a free port, every model
name to the one upstream, no retries, no longer limits for the last target. `upstream={…}` changes that upstream;
`upstreams=[…]`, `models=[…]` and `keys=[…]` replace the whole array.

    async with in_process(provider.url, flow={"drain_timeout": 1.0}) as gateway:
        ...  # gateway.url is the base_url of a client, gateway.app the server.app.Gateway
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from forked import Forked
from lab.places import toml
from lab.processes import ROOT

from server.app import Gateway
from server.config.check import parse
from server.config.settings import Settings

START = 60.0  # seconds in which a process must listen, on a busy machine
STOP = 60.0  # seconds in which a process must end
# A task of the gateway or of aiohttp's server that outlives its gateway is a leak. A task of the test's client is not.
OURS = (str(ROOT / "server"), "aiohttp/web_")


def tree(upstream_url: str, **tables: Any) -> dict[str, Any]:
    """Return the configuration in the form of a parsed TOML file."""
    upstream = {"name": "local", "base_url": upstream_url, "last_resort_timeout": 0.001, **tables.pop("upstream", {})}
    made: dict[str, Any] = {
        "server": {"port": 0, "shutdown_grace": 5.0, "drain_notice": 0.0},
        "recovery": {"strategy": "none"},
        "upstreams": [upstream],
        "models": [{"name": "*", "targets": [f"{upstream['name']}/*"]}],
    }
    for name, given in tables.items():
        if name == "upstreams":
            made[name] = [{"last_resort_timeout": 0.001, **one} for one in given]
        else:
            made[name] = {**made.get(name, {}), **given} if isinstance(given, dict) else given
    return made


def settings(upstream_url: str, **tables: Any) -> Settings:
    """Return the configuration, checked as `sluiceway serve` checks it."""
    return parse(tree(upstream_url, **tables), os.environ)


class InProcess:
    """A gateway on the event loop of the test, which may look inside."""

    def __init__(self, app: Gateway) -> None:
        self.app = app
        self.root = f"http://127.0.0.1:{app.port}"
        self.url = self.root + "/v1"
        self.port = app.port

    async def idle(self, seconds: float = 20.0) -> None:
        """Wait until no stream is live and no response is under way."""
        async with asyncio.timeout(seconds):
            while self.app.streams.live or self.app.responder.open:  # noqa: ASYNC110  # no event covers both
                await asyncio.sleep(0.005)

    async def idle_streams(self, seconds: float = 20.0) -> None:
        """Wait until no stream is live; responses may still be on their way."""
        async with asyncio.timeout(seconds):
            while self.app.streams.live:  # noqa: ASYNC110  # the event that covers it is private
                await asyncio.sleep(0.005)


@asynccontextmanager
async def in_process(upstream_url: str, *, grace: float = 0.0, **tables: Any) -> AsyncIterator[InProcess]:
    """Run a gateway in this process until the end of the block. Raises AssertionError if a task of it is left then."""
    before = asyncio.all_tasks()
    app = Gateway(settings(upstream_url, **tables))
    await app.start()
    try:
        yield InProcess(app)
    finally:
        await app.stop(grace)
    await no_task_left(before)


async def no_task_left(before: set[asyncio.Task[Any]], seconds: float = 5.0) -> None:
    """Wait until every task of the gateway that is not in `before` has ended. Raises AssertionError."""
    for _ in range(int(seconds / 0.01)):
        left = [task for task in asyncio.all_tasks() - before if _is_ours(task)]
        if not left:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"tasks were left running: {left}")


def _is_ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and any(place in code.co_filename for place in OURS)


class OwnProcess:
    """A gateway as its users run it. `lines` holds its log lines, parsed if they are JSON."""

    config: Path  # its file

    def __init__(self, process: subprocess.Popen[str] | Forked) -> None:
        self.process = process
        self.pid = process.pid
        self.lines: list[Any] = []
        self._listening = threading.Event()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    self.lines.append(line)
                if self.logged("listening"):
                    self._listening.set()
        self._listening.set()  # its output has ended

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Give the log lines of one event."""
        return [line for line in self.lines if isinstance(line, dict) and line.get("event") == event]

    async def ready(self) -> None:
        """Wait until it listens. Raises RuntimeError with its output if it does not."""
        await asyncio.to_thread(self._listening.wait, START)
        if not (found := self.logged("listening")):
            raise RuntimeError(f"the gateway did not start: {self.lines}")
        self.port: int = found[0]["port"]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = self.root + "/v1"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self, seconds: float = STOP) -> int:
        """Wait for the end of the process and of its log; return its exit status."""
        status = await asyncio.to_thread(self.process.wait, seconds)
        await asyncio.to_thread(self._reading.join, seconds)
        return status

    def rss(self) -> int:
        """Give the resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def own_process(
    upstream_url: str,
    *,
    environ: Mapping[str, str] | None = None,
    command: tuple[str, ...] = (),
    arguments: tuple[str, ...] = ("--port", "0"),
    descriptors: tuple[int, ...] = (),
    fresh: bool = False,
    **tables: Any,
) -> AsyncIterator[OwnProcess]:
    """Run `python -m server serve`; SIGTERM at the end, unless it has ended by then.

    `command` is put before that, and `descriptors` are left open for the process. Without both the process is forked,
    which is faster, unless it has to be `fresh`: one that imports every library itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = written(folder, tree(upstream_url, **tables))
        serve = ["serve", "--config", str(config), *arguments]
        environ = {**os.environ, **(environ or {})}
        started: subprocess.Popen[str] | Forked
        if command or descriptors or fresh:
            started = subprocess.Popen(  # noqa: ASYNC220  # a fork takes a millisecond, and no loop owns the process
                [*command, sys.executable, "-m", "server", *serve],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
                env=environ,
                pass_fds=descriptors,
            )
        else:
            started = Forked(serve, environ, ROOT)
        running = OwnProcess(started)
        running.config = config
        try:
            await running.ready()
            yield running
        finally:
            try:
                started.send_signal(signal.SIGTERM)
                await running.ended()
            except subprocess.TimeoutExpired:
                started.kill()
                await running.ended()
                raise


def written(folder: str, tables: Mapping[str, Any]) -> Path:
    """Write a configuration file into a folder; return its path."""
    config = Path(folder, "config.toml")
    config.write_text(toml(tables), encoding="utf-8")
    return config
