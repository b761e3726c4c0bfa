"""The caller: one completion request, and everything that came of it."""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

LIMIT = aiohttp.ClientTimeout(total=120)


@dataclass
class Got:
    """What a caller got. Times are in seconds since the request was sent."""

    status: int
    headers: dict[str, str]
    chunks: list[dict[str, Any]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    done: bool = False
    error: dict[str, Any] | None = None
    first: float | None = None  # when the first content came
    last: float = 0.0  # when the last content or finish reason came
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


async def ask(root: str, model: str, **fields: Any) -> Got:
    """Send a streaming request to a gateway and read the whole answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say it."}],
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    return await read(root, body)


async def read(root: str, body: dict[str, Any], watch: Callable[[Got], Awaitable[None]] | None = None) -> Got:
    """Send a request and read the whole answer; `watch` is called with what has come after each line."""
    began = time.monotonic()
    async with (
        aiohttp.ClientSession(timeout=LIMIT) as session,
        session.post(f"{root}/v1/chat/completions", json=body) as response,
    ):
        got = Got(response.status, {name.lower(): value for name, value in response.headers.items()})
        if response.content_type == "text/event-stream":
            async for line in response.content:
                _take(got, line.rstrip(b"\n"), time.monotonic() - began)
                if watch is not None:
                    await watch(got)
        else:
            got.error = (await response.json()).get("error")
    got.took = time.monotonic() - began
    return got


def _take(got: Got, line: bytes, at: float) -> None:
    if line.startswith(b"id: "):
        got.ids.append(int(line[4:]))
    elif line == b"data: [DONE]":
        got.done = True
    elif line.startswith(b"data: "):
        chunk = json.loads(line[6:])
        if "error" in chunk:
            got.error = chunk["error"]
            return
        got.chunks.append(chunk)
        if chunk.get("choices"):
            got.last = at
            if got.first is None and chunk["choices"][0]["delta"].get("content"):
                got.first = at
