"""structlog: JSON lines in production, readable ones in a terminal; on standard error."""

import logging
import sys
from typing import Any

import orjson
import structlog


def configure() -> None:
    """Set up logging for the process: one line an event, UTC timestamps, nothing of a request's content."""
    if sys.stderr.isatty():
        last: list[Any] = [structlog.dev.ConsoleRenderer()]
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
    # Libraries log to the standard library: warnings only, and never the requests that the SDK logs at DEBUG.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)


def _json(event: object, **_options: object) -> bytes:
    return orjson.dumps(event, default=repr)
