"""The caller of the gateway: one completion request, and its whole answer."""

import asyncio
import json
import math
import time
from typing import Any
from urllib.parse import urlsplit

from lab.reader import Connection, EventStream, request

LIMIT = 120.0  # seconds for one answer


class Answer(EventStream):
    """The receiver of the answer to a request. Times are in seconds since the request was sent.

    `first` is when the first content came, `last` when the last content or finish reason came, `took` the end. When
    there are `pause_at` chunks, `paused` is set and nothing more is read. At the end it is set, too.
    """

    def __init__(self, pause_at: int = 0) -> None:
        super().__init__()
        self.chunks: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self.ended = False  # by [DONE]
        self.error: dict[str, Any] | None = None
        self.first: float | None = None
        self.last = self.took = 0.0
        self.paused = asyncio.Event()
        self.done = False
        self._began = time.monotonic()
        self._pause_at = pause_at

    def take(self, data: bytes, now: float) -> float:
        """Take bytes."""
        for event in self.events(data):
            self.ids += [] if event.id is None else [event.id]
            self._take(event.data, now - self._began)
        self.done, self.took = self.over, now - self._began
        if self.done and self.status != 200:
            self.error = json.loads(self.body).get("error")
        pauses = bool(self._pause_at) and len(self.chunks) >= self._pause_at and not self.paused.is_set()
        if pauses or self.done:
            self.paused.set()
        return math.inf if pauses else 0.0

    def place(self) -> str:
        """Return how much has come."""
        return f"after {len(self.chunks)} chunks"

    def _take(self, data: bytes, at: float) -> None:
        if data == b"[DONE]":
            self.ended = True
            return
        chunk = json.loads(data)
        if "error" in chunk:
            self.error = chunk["error"]
            return
        self.chunks.append(chunk)
        if chunk.get("choices"):
            self.last = at
            if self.first is None and chunk["choices"][0]["delta"].get("content"):
                self.first = at

    @property
    def text(self) -> str:
        """The content of choice 0."""
        return "".join(choice["delta"].get("content") or "" for choice in self._choices())

    @property
    def finish(self) -> str | None:
        """The finish reason."""
        return next((choice["finish_reason"] for choice in self._choices() if choice.get("finish_reason")), None)

    @property
    def usage(self) -> dict[str, Any]:
        """The usage object of the last chunk that has one."""
        return next((chunk["usage"] for chunk in reversed(self.chunks) if chunk.get("usage")), {})

    def _choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk.get("choices") or ()]


async def ask(root: str, model: str, **fields: Any) -> Answer:
    """Send a streaming request to a gateway and read the whole answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say it."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    return await read(root, body)


async def read(root: str, body: dict[str, Any]) -> Answer:
    """Send a request and read the whole answer."""
    answer = Answer()
    async with asyncio.timeout(LIMIT):
        await exchange(await connect(root), body, answer)
    return answer


async def connect(root: str) -> Connection:
    """Connect to the server with this root URL."""
    return await Connection().open(urlsplit(root).port or 80)


async def exchange(connection: Connection, body: dict[str, Any], answer: Answer) -> None:
    """Send a request on a new connection and read the whole answer."""
    try:
        await connection.exchange(request("127.0.0.1", "/v1/chat/completions", body), answer)
    finally:
        connection.close()
