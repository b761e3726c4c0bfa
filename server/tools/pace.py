"""How much of the event loop one MCP server may take, and how large its messages may be."""

import asyncio

MAX_MESSAGE = 16 * 1024 * 1024  # bytes of one message: a result may be in it twice, as a text and as JSON
BYTES_EACH_SECOND = 64 * 1024 * 1024
MESSAGES_EACH_SECOND = 2000
LEAST = 0.02  # seconds: shorter pauses are added up


class Pace:
    """Makes a reader wait, so that a server that never stops sending leaves most of the event loop to others."""

    def __init__(self) -> None:
        self._due = 0.0  # seconds

    async def wait(self, size: int, *, messages: int) -> None:
        """Wait for as long as so many bytes and messages should take."""
        self._due += size / BYTES_EACH_SECOND + messages / MESSAGES_EACH_SECOND
        if self._due >= LEAST:
            due, self._due = self._due, 0.0
            await asyncio.sleep(due)
