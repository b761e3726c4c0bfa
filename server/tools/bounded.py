"""Running tools within bounds of time, number and size. Every call has a result, whatever the tool does."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from server.config.settings import Tools
from server.tools.places import Payer, Places
from server.tools.tool import Tool, ToolError

MAX_ERROR = 2000  # characters of an error that the model is told
FAREWELL = 1.0  # seconds that a call has after its cancel, also at the end of the gateway
NOBODY = Payer("", "")
log = structlog.get_logger("sluiceway.tools")


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a call: `content`, or `error`; and how long it took."""

    content: str | None
    error: str | None
    duration_ms: float

    def fields(self) -> dict[str, Any]:
        """Return the facts for the record of a result: `content` or `error`, and `duration_ms`."""
        outcome = {"content": self.content} if self.error is None else {"error": self.error}
        return {**outcome, "duration_ms": self.duration_ms}


class Bounds:
    """The bounds of `[tools]`, for all streams of the gateway together. `given_up` is called for each call given up."""

    def __init__(self, settings: Tools, given_up: Callable[[], None] = lambda: None) -> None:
        self._timeout = settings.timeout
        self._max_bytes = settings.max_result_bytes
        self._max_hanging = settings.max_concurrency
        self._places = Places(settings.max_concurrency)
        self._given_up = given_up
        self._hanging: dict[asyncio.Task[str], str] = {}  # given up, but still running; with the tool's name

    @property
    def hanging(self) -> int:
        """How many calls were given up and still run."""
        return len(self._hanging)

    async def close(self) -> None:
        """Wait a moment for calls that were given up."""
        if self._hanging:
            await asyncio.wait(self._hanging, timeout=FAREWELL)

    async def run(self, tool: Tool, arguments: dict[str, Any], payer: Payer = NOBODY) -> Result:
        """Call a tool once. Raises nothing but the cancellation of the caller."""
        started = time.monotonic()
        content: str | None = None
        error: str | None = None
        try:
            content = cut(await self._call(tool, arguments, payer), self._max_bytes)
        except Exception as raised:  # noqa: BLE001 — a tool is foreign code: its failure is a result like any other
            message = str(raised) if isinstance(raised, ToolError) else f"{type(raised).__name__}: {raised}"
            error = cut(message, MAX_ERROR)
            log.warning("tool failed", tool=tool.name, error=type(raised).__name__)  # a message may quote the arguments
        return Result(content, error, round((time.monotonic() - started) * 1000, 3))

    async def _call(self, tool: Tool, arguments: dict[str, Any], payer: Payer) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                await self._places.take(payer)
        except TimeoutError:
            raise ToolError(f"The tool had no free place to run within {self._timeout:g} seconds.") from None
        try:
            return await self._in_place(tool, arguments)
        finally:
            self._places.give_back(payer)

    async def _in_place(self, tool: Tool, arguments: dict[str, Any]) -> str:
        # Calls that were given up have no place. Without this bound each new one could leave another thread behind.
        if list(self._hanging.values()).count(tool.name) >= self._max_hanging:
            raise ToolError(f"The tool is not called: {self._max_hanging} earlier calls of it still hang.")
        # A task of its own: a tool that swallows its cancellation must not hold the stream.
        work = asyncio.create_task(_contained(tool, arguments), name=f"tool {tool.name}")
        try:
            await asyncio.wait({work}, timeout=self._timeout)
        finally:
            if not work.done():
                work.cancel()
                self._give_up(work, tool.name)
        if not work.done():
            raise ToolError(f"The tool gave no result within {self._timeout:g} seconds.")
        if work.cancelled():
            raise ToolError("The tool was cancelled.")
        return work.result()

    def _give_up(self, work: asyncio.Task[str], name: str) -> None:
        """Wait no longer for a call. It may go on: a thread cannot be stopped, and a task may swallow its cancel."""
        self._hanging[work] = name
        work.add_done_callback(self._came_back)
        asyncio.get_running_loop().call_later(FAREWELL, self._count, work)

    def _count(self, work: asyncio.Task[str]) -> None:
        """Count a call that has not even ended after its cancel."""
        if not work.done():
            self._given_up()
            log.warning("tool hangs", tool=self._hanging[work], hanging=self.hanging)

    def _came_back(self, work: asyncio.Task[str]) -> None:
        del self._hanging[work]
        if not work.cancelled():
            work.exception()  # else the event loop complains if nobody waits any more


async def _contained(tool: Tool, arguments: dict[str, Any]) -> str:
    try:
        return await tool.call(arguments)
    except (SystemExit, KeyboardInterrupt) as error:  # would end the gateway
        raise ToolError(repr(error)) from error


def cut(text: str, max_bytes: int) -> str:
    """Return `text` in at most `max_bytes` of UTF-8. If it is cut, a note at its end says so.

    A character that UTF-8 cannot encode becomes `?`.
    """
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return data.decode()
    note = f" … [cut: {len(data)} bytes in all]"
    room = max_bytes - len(note.encode())
    if room <= 0:
        return data[:max_bytes].decode("utf-8", "ignore")
    return data[:room].decode("utf-8", "ignore") + note
