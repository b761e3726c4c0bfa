"""An MCP server that the gateway starts, over its standard input and output (MCP specification, "stdio" transport).

The transport of the `mcp` package keeps a line that never ends in memory, and searches all of it after each read. This
one bounds a line and the pace, and puts what the server writes on standard error into the gateway's log, line by line.
"""

import asyncio
import os
import signal
from asyncio.subprocess import SubprocessStreamProtocol
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import TracebackType

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from server.core.shape import has_more_values
from server.core.wide_json import MAX_VALUES
from server.tools.pace import MAX_MESSAGE, Pace

MAX_NOISE = 1000  # lines one after the other that are no message: some servers print a greeting
MAX_SAID = 500  # characters of one line of standard error that are logged
SAID_EACH_SECOND = 10  # such lines that are logged; the others are counted
POLL = 0.01  # seconds between two looks whether a server has ended
EXIT_GRACE = 2.0  # seconds in which a server ends after its input was closed, and again after SIGTERM
log = structlog.get_logger("sluiceway.tools")

Received = SessionMessage | Exception


class StdioServer:
    """A transport for `mcp.Client`: the process runs inside the `async with` block. `gone` is set when it has ended.

    `env` is added to the few variables that every server gets. Its values at `secrets` are never logged.
    """

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], secrets: Collection[str], gone: asyncio.Event
    ) -> None:
        self._name = name
        self._command = command
        self._env = env
        self._secrets = [env[name] for name in secrets if env.get(name)]
        self._gone = gone
        self._process: asyncio.SubprocessTransport
        self._pipes: SubprocessStreamProtocol
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> tuple[MemoryObjectReceiveStream[Received], MemoryObjectSendStream[SessionMessage]]:
        """Start the process. Raises OSError."""
        pipe = asyncio.subprocess.PIPE
        loop = asyncio.get_running_loop()
        # Not `create_subprocess_exec`: it hides the transport, which alone closes a pipe that nobody reads to its end.
        self._process, self._pipes = await loop.subprocess_exec(
            lambda: SubprocessStreamProtocol(limit=MAX_MESSAGE, loop=loop),
            *self._command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=get_default_environment() | dict(self._env),
            start_new_session=True,  # so that its own children can be ended with it
        )
        to_session, received = anyio.create_memory_object_stream[Received](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        self._tasks = [
            asyncio.create_task(self._read(to_session), name=f"mcp {self._name} out"),
            asyncio.create_task(self._write(from_session), name=f"mcp {self._name} in"),
            asyncio.create_task(self._listen(), name=f"mcp {self._name} err"),
        ]
        return received, to_server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process: close its input, then SIGTERM, then SIGKILL, to it and its children."""
        process = self._process
        try:
            assert self._pipes.stdin is not None
            self._pipes.stdin.close()
            for number in (signal.SIGTERM, signal.SIGKILL):
                if await _ended(process):
                    break
                _kill(process, number)
        finally:
            if process.get_returncode() is None:  # this call was cancelled
                _kill(process, signal.SIGKILL)
            process.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, to_session: MemoryObjectSendStream[Received]) -> None:
        """Pass on the messages that the server writes."""
        stdout, pace, noise = self._pipes.stdout, Pace(), 0
        assert stdout is not None
        try:
            while line := await stdout.readline():  # raises ValueError if it is too long
                await pace.wait(len(line), messages=1)
                try:
                    if has_more_values(line, MAX_VALUES):
                        raise ValueError("too many values")
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    noise += 1
                    if noise > MAX_NOISE:
                        raise ValueError("lines that are no message") from None
                    continue
                noise = 0
                await to_session.send(SessionMessage(message))
        except ValueError as error:
            log.warning("mcp server wrote garbage", server=self._name, error=str(error)[:MAX_SAID])
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            pass  # the session has ended, or the process
        finally:
            to_session.close()
            self._gone.set()

    async def _write(self, from_session: MemoryObjectReceiveStream[SessionMessage]) -> None:
        """Write the session's messages, each on a line."""
        stdin = self._pipes.stdin
        assert stdin is not None
        with from_session, suppress(ConnectionError):
            async for sent in from_session:
                stdin.write(sent.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await stdin.drain()

    async def _listen(self) -> None:
        """Log what the server writes on standard error: a bounded number of bounded lines."""
        stderr, pace, clock = self._pipes.stderr, Pace(), asyncio.get_running_loop()
        assert stderr is not None
        second, lines, dropped = 0.0, 0, 0
        rest = b""
        while data := await stderr.read(65_536):
            await pace.wait(len(data), messages=0)
            *whole, rest = (rest + data).split(b"\n")
            if len(rest) > MAX_SAID * 4:
                whole, rest = [*whole, rest], b""
            if clock.time() - second >= 1.0:
                self._say_dropped(dropped)
                second, lines, dropped = clock.time(), 0, 0
            shown = whole[: max(SAID_EACH_SECOND - lines, 0)]
            lines, dropped = lines + len(shown), dropped + len(whole) - len(shown)
            for line in shown:
                if text := self._clean(line):
                    log.info("mcp server said", server=self._name, text=text)
        if text := self._clean(rest):
            log.info("mcp server said", server=self._name, text=text)
        self._say_dropped(dropped)

    def _say_dropped(self, lines: int) -> None:
        if lines:
            log.warning("mcp server said more", server=self._name, dropped=lines)

    def _clean(self, line: bytes) -> str:
        """Return a line without control characters and secrets, and not too long."""
        text = line[: MAX_SAID * 4].decode("utf-8", "replace")
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return "".join(character if character.isprintable() else " " for character in text[:MAX_SAID]).strip()


async def _ended(process: asyncio.SubprocessTransport) -> bool:
    """Return whether the process ends within EXIT_GRACE."""
    clock = asyncio.get_running_loop()
    end = clock.time() + EXIT_GRACE
    # Not `process.wait`: it also waits for the end of the pipes, which a child of the server may hold open.
    while process.get_returncode() is None and clock.time() < end:  # noqa: ASYNC110 — there is no event for this alone
        await asyncio.sleep(POLL)
    return process.get_returncode() is not None


def _kill(process: asyncio.SubprocessTransport, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.get_pid(), number)
