"""Running tools within bounds: so long, so many at a time, so large a result; whatever happens, there is a result."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import structlog

from server.config.settings import Tools
from server.tools.tool import Tool, ToolError

MAX_ERROR = 2000  # characters of an error that the model is told
log = structlog.get_logger("sluiceway.tools")


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave: `content`, or `error`; with how long it took."""

    content: str | None
    error: str | None
    duration_ms: float

    def fields(self) -> dict[str, Any]:
        """Return the facts for the record of a result: `content` or `error`, and `duration_ms`."""
        said = {"content": self.content} if self.error is None else {"error": self.error}
        return {**said, "duration_ms": self.duration_ms}


class Bounds:
    """`[tools]` for all streams of the gateway together."""

    def __init__(self, settings: Tools) -> None:
        self._timeout = settings.timeout
        self._max_bytes = settings.max_result_bytes
        self._slots = asyncio.Semaphore(settings.max_concurrency)

    async def run(self, tool: Tool, arguments: dict[str, Any]) -> Result:
        """Call a tool once; never raises but for the cancellation of the caller."""
        started = time.monotonic()
        content: str | None = None
        error: str | None = None
        try:
            content = cut(await self._call(tool, arguments), self._max_bytes)
        except Exception as raised:  # noqa: BLE001 — a tool is foreign code: its failure is a result like any other
            known = isinstance(raised, ToolError)
            error = cut(str(raised) if known else f"{type(raised).__name__}: {raised}", MAX_ERROR)
            log.warning("tool failed", tool=tool.name, error=type(raised).__name__)  # its words may quote the arguments
        return Result(content, error, round((time.monotonic() - started) * 1000, 3))

    async def _call(self, tool: Tool, arguments: dict[str, Any]) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise ToolError(f"The tool had no free place to run within {self._timeout:g} seconds.") from None
        # A task of its own: one that swallows its cancellation must not hold the stream.
        work = asyncio.ensure_future(_contained(tool, arguments))
        work.add_done_callback(self._over)
        try:
            await asyncio.wait({work}, timeout=self._timeout)
        finally:
            if not work.done():
                work.cancel()
        if not work.done():
            raise ToolError(f"The tool gave no result within {self._timeout:g} seconds.")
        if work.cancelled():
            raise ToolError("The tool was cancelled.")
        return work.result()

    def _over(self, work: asyncio.Future[str]) -> None:
        self._slots.release()
        if not work.cancelled():
            work.exception()  # seen, though nobody may wait for it any more


async def _contained(tool: Tool, arguments: dict[str, Any]) -> str:
    try:
        return await tool.call(arguments)
    except (SystemExit, KeyboardInterrupt) as error:  # would end the gateway
        raise ToolError(repr(error)) from error


def cut(text: str, max_bytes: int) -> str:
    """Return `text` in at most `max_bytes` of UTF-8 (what cannot be encoded becomes `?`), and say where it was cut."""
    data = text.encode("utf-8", "replace")
    if len(data) <= max_bytes:
        return data.decode()
    note = f" … [cut: {len(data)} bytes in all]"
    room = max_bytes - len(note.encode())
    if room <= 0:
        return data[:max_bytes].decode("utf-8", "ignore")
    return data[:room].decode("utf-8", "ignore") + note
