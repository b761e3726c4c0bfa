"""structlog: JSON lines in production, readable ones in a terminal; on standard error."""

import logging
import sys

import structlog


def configure() -> None:
    """Set up logging for the process: one line an event, UTC timestamps, nothing of a request's content."""
    terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log to the standard library: warnings only, and never the requests that the SDK logs at DEBUG.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
