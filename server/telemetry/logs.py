"""Logging with structlog, on standard error: JSON lines, or readable lines if it is a terminal."""

import asyncio
import logging
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import orjson
import structlog

from server.core.lifecycle import State
from server.core.records import Ending


def configure() -> None:
    """Set up logging for the process: one line per event, UTC timestamps, nothing of a request's content."""
    if sys.stderr.isatty():
        # Values are quoted, so that a client cannot move the cursor or forge a line. Tracebacks are shown without local
        # variables, which hold prompts.
        console = structlog.dev.ConsoleRenderer(repr_native_str=True, exception_formatter=structlog.dev.plain_traceback)
        renderers: list[Any] = [console]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=json_line)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # Libraries use the standard library's logging. Show their warnings only.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for library in QUOTING:
        logging.getLogger(library).setLevel(logging.CRITICAL)


# These libraries log the data that they failed on; the SDK (with OPENAI_LOG=debug) logs whole requests. asyncio's
# errors are logged by `unhandled`.
QUOTING = ("aiohttp", "asyncio", "httpcore2", "httpx2", "mcp", "openai")

FRAMES = 8  # the last frames of a traceback, which are logged


def cause(error: BaseException) -> dict[str, Any]:
    """Return the fields of an exception that may be logged: its type and its place. Its message may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__qualname__, "at": places}


# Finish reasons that a log may show. Any other word is an upstream's, which may be anything.
FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})


def shown_reason(ending: Ending) -> str:
    """Return why a stream ended, for logs and traces. The reason of a failure is a name of our own."""
    if ending.state not in (State.COMPLETE, State.INCOMPLETE):
        return ending.reason
    return ",".join(word if word in FINISH_REASONS else "other" for word in ending.reason.split(","))


def unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that nobody caught. This is the event loop's handler: asyncio's own would log the message."""
    error = context.get("exception")
    fields = {"error": context["message"]} if error is None else cause(error)
    structlog.get_logger("sluiceway").error("unhandled", **fields)


class LineLimit:
    """Lets so many lines of one kind out per second, and counts the others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def take(self, at: float) -> int | None:
        """Count a line at `at`, in seconds. Return how many were left out before it; None: leave it out, too."""
        if int(at) != self._second:
            self._second, self._lines = int(at), 0
        if self._lines >= self._most:
            self._left_out += 1
            return None
        self._lines += 1
        left_out, self._left_out = self._left_out, 0
        return left_out


# What ends a line for some readers of a log, or changes the order in which a terminal shows it: C1 controls, U+061C,
# U+200E, U+200F, U+2028 to U+202E, U+2066 to U+2069 (Unicode Annex 9), U+FEFF. In JSON they are always in a text.
DECEPTIVE = re.compile(rb"\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]|\xef\xbb\xbf")


def json_line(event: object, **_options: object) -> bytes:
    """Return an event as one line of JSON, on which nothing can deceive a reader."""
    line = orjson.dumps(event, default=repr)
    return line if line.isascii() else DECEPTIVE.sub(lambda found: b"\\u%04x" % ord(found[0].decode()), line)
