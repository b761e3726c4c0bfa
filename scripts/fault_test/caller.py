"""The caller of the gateway: one completion request, and its whole answer."""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

LIMIT = aiohttp.ClientTimeout(total=120)


@dataclass
class Answer:
    """The answer to a request. Times are in seconds since the request was sent.

    `first` is when the first content came, `last` when the last content or finish reason came, `took` the end.
    """

    status: int
    headers: dict[str, str]
    chunks: list[dict[str, Any]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    done: bool = False
    error: dict[str, Any] | None = None
    first: float | None = None
    last: float = 0.0
    took: float = 0.0

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


async def read(root: str, body: dict[str, Any], watch: Callable[[Answer], Awaitable[None]] | None = None) -> Answer:
    """Send a request and read the whole answer. After each line, `watch` gets the part of the answer that has come."""
    began = time.monotonic()
    async with (
        aiohttp.ClientSession(timeout=LIMIT) as session,
        session.post(f"{root}/v1/chat/completions", json=body) as response,
    ):
        answer = Answer(response.status, {name.lower(): value for name, value in response.headers.items()})
        if response.content_type == "text/event-stream":
            async for line in response.content:
                _take(answer, line.rstrip(b"\n"), time.monotonic() - began)
                if watch is not None:
                    await watch(answer)
        else:
            answer.error = (await response.json()).get("error")
    answer.took = time.monotonic() - began
    return answer


def _take(answer: Answer, line: bytes, at: float) -> None:
    """Add a line of the response to an answer; `at` is the time in seconds since the request."""
    if line.startswith(b"id: "):
        answer.ids.append(int(line[4:]))
    elif line == b"data: [DONE]":
        answer.done = True
    elif line.startswith(b"data: "):
        chunk = json.loads(line[6:])
        if "error" in chunk:
            answer.error = chunk["error"]
            return
        answer.chunks.append(chunk)
        if chunk.get("choices"):
            answer.last = at
            if answer.first is None and chunk["choices"][0]["delta"].get("content"):
                answer.first = at
