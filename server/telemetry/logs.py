"""structlog: JSON lines in production, readable ones in a terminal; on standard error."""

import asyncio
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import orjson
import structlog


def configure() -> None:
    """Set up logging for the process: one line an event, UTC timestamps, nothing of a request's content."""
    if sys.stderr.isatty():
        # Quoted values: what a client sent must not move the cursor or forge a line. No locals: they hold prompts.
        console = structlog.dev.ConsoleRenderer(repr_native_str=True, exception_formatter=structlog.dev.plain_traceback)
        last: list[Any] = [console]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # Libraries log to the standard library: warnings only.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for library in QUOTING:
        logging.getLogger(library).setLevel(logging.CRITICAL)


# Their messages quote what they failed on, the SDK's (with OPENAI_LOG=debug) whole requests. asyncio's: `unhandled`.
QUOTING = ("aiohttp", "asyncio", "httpcore2", "httpx2", "mcp", "openai")

FRAMES = 8  # of a traceback that are logged


def cause(error: BaseException) -> dict[str, Any]:
    """Return what may be logged of an exception: its type and its place. Its message may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__qualname__, "at": places}


def unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody has caught, as the event loop's exception handler: asyncio's own would log its message."""
    error = context.get("exception")
    said = {"error": context["message"]} if error is None else cause(error)
    structlog.get_logger("sluiceway").error("unhandled", **said)


def _json(event: object, **_options: object) -> bytes:
    return orjson.dumps(event, default=repr)
